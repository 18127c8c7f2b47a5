//! Which process made a group, by the name of the group.

use std::fmt;

/// The process in the name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    start_time: u64,
}

/// The name of a group: its owner and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupName {
    owner: Owner,
    number: u64,
}

/// What stands for a number in the name of the group its owner is in.
const HOME: &str = "home";

impl Owner {
    /// This process.
    pub(crate) fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
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
        let (pid, start_time, number) = (parts.next()?, parts.next()?, parts.next()?);
        if number != HOME {
            number.parse::<u64>().ok()?;
        }
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }

    /// Whether it still runs. One that has ended and that nobody has taken notice of does not: where the first
    /// process of a container is no init, that is for ever.
    pub(super) fn is_alive(self) -> bool {
        Status::read(self.pid).is_some_and(|status| {
            status.start_time == self.start_time && !matches!(status.state, 'Z' | 'X')
        })
    }
}

impl GroupName {
    /// The name of a group for the owner itself.
    pub(super) fn home(self) -> String {
        let Owner { pid, start_time } = self.owner;
        format!("kiln-{pid}-{start_time}-{HOME}")
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            owner: Owner { pid, start_time },
            number,
        } = self;
        write!(formatter, "kiln-{pid}-{start_time}-{number}")
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
        let owner = Owner {
            pid: child.id(),
            start_time: start_time(child.id()).unwrap(),
        };
        let has_ended = || Status::read(owner.pid).is_some_and(|status| status.state == 'Z');
        for _ in 0..500 {
            if has_ended() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(has_ended());
        assert!(!owner.is_alive());
        child.wait().unwrap();
        assert!(!owner.is_alive());
    }

    #[test]
    fn names_say_which_process_made_them() {
        let owner = Owner::this_process();
        let name = owner.group(3);
        assert_eq!(Owner::parse(&name.to_string()), Some(owner));
        assert_eq!(Owner::parse(&name.home()), Some(owner));
        assert!(owner.is_alive());
        assert!(
            !Owner {
                start_time: owner.start_time + 1,
                ..owner
            }
            .is_alive()
        );
        for name in [
            "kiln",
            "kiln-",
            "kiln-1-2",
            "kiln-1-2-3-4",
            "kiln-1-x-3",
            "kiln-1-2-x",
            "other-1-2-3",
        ] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
