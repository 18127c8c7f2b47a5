//! Which process made a group, by the name of the group.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The process in the name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    start_time: u64,
    /// The PID namespace in which its number is that.
    namespace: u64,
}

/// The name of a group: its owner and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupName {
    owner: Owner,
    number: u64,
}

/// What stands for a number in the name of the group its owner is in.
const HOME: &str = "home";

/// Where a process finds its own PID namespace.
const NAMESPACE: &str = "/proc/self/ns/pid";

impl Owner {
    /// This process.
    pub(crate) fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
            namespace: fs::metadata(NAMESPACE).map_or(0, |namespace| namespace.ino()),
        }
    }

    /// The name of its group for sandbox number `number`.
    pub(crate) const fn group(self, number: u64) -> GroupName {
        GroupName {
            owner: self,
            number,
        }
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("kiln-")?.split('-');
        let (pid, start_time) = (parts.next()?, parts.next()?);
        let (namespace, number) = (parts.next()?, parts.next()?);
        if number != HOME {
            number.parse::<u64>().ok()?;
        }
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
            namespace: namespace.parse().ok()?,
        })
    }

    /// Whether it has ended, as far as `looker` can tell: processes of another PID namespace have other numbers here, or
    /// none. One that has ended and that nobody has taken notice of counts as that: where the first process of a
    /// container is no init, it is there for ever.
    pub(super) fn has_ended(self, looker: Self) -> bool {
        self.namespace == looker.namespace
            && Status::read(self.pid).is_none_or(|status| {
                status.start_time != self.start_time || matches!(status.state, 'Z' | 'X')
            })
    }
}

impl GroupName {
    /// The name of a group for the owner itself.
    pub(super) fn home(self) -> String {
        let Owner {
            pid,
            start_time,
            namespace,
        } = self.owner;
        format!("kiln-{pid}-{start_time}-{namespace}-{HOME}")
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner:
                Owner {
                    pid,
                    start_time,
                    namespace,
                },
            number,
        } = self;
        write!(formatter, "kiln-{pid}-{start_time}-{namespace}-{number}")
    }
}

/// When a process was started, in ticks since boot. With its number this names it for good.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    Some(Status::read(pid)?.start_time)
}

/// What the kernel says of a process.
struct Status {
    /// `Z` and `X` are of processes that have ended.
    state: char,
    start_time: u64,
}

impl Status {
    fn read(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in the second field may hold anything, spaces and parentheses too.
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            start_time: fields.nth(18)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_ended_is_not_alive_whether_somebody_noticed_or_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let this = Owner::this_process();
        let owner = Owner {
            pid: child.id(),
            start_time: start_time(child.id()).unwrap(),
            ..this
        };
        let has_ended = || Status::read(owner.pid).is_some_and(|status| status.state == 'Z');
        for _ in 0..500 {
            if has_ended() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(has_ended());
        assert!(owner.has_ended(this));
        child.wait().unwrap();
        assert!(owner.has_ended(this));
        // Whoever has that number in another PID namespace is somebody else.
        let elsewhere = Owner {
            namespace: this.namespace + 1,
            ..owner
        };
        assert!(!elsewhere.has_ended(this));
    }

    #[test]
    fn names_say_which_process_made_them() {
        let owner = Owner::this_process();
        let name = owner.group(3);
        assert_eq!(Owner::parse(&name.to_string()), Some(owner));
        assert_eq!(Owner::parse(&name.home()), Some(owner));
        assert!(owner.namespace != 0 && !owner.has_ended(owner));
        let later = Owner {
            start_time: owner.start_time + 1,
            ..owner
        };
        assert!(later.has_ended(owner));
        for name in [
            "kiln",
            "kiln-",
            "kiln-1-2",
            "kiln-1-2-3",
            "kiln-1-2-3-4-5",
            "kiln-1-x-3-4",
            "kiln-1-2-x-4",
            "kiln-1-2-3-x",
            "other-1-2-3-4",
        ] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
