//! Which process made a group, by the name of the group.

/// The process in the name of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pid: u32,
    start_time: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            start_time: start_time(pid).unwrap_or(0),
        }
    }

    /// The name of its group number `count`.
    pub(crate) fn group_name(self, count: u64) -> String {
        let Self { pid, start_time } = self;
        format!("kiln-{pid}-{start_time}-{count}")
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix("kiln-")?.split('-');
        let (pid, start_time, count) = (parts.next()?, parts.next()?, parts.next()?);
        count.parse::<u64>().ok()?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            pid: pid.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }

    pub(super) fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// When a process was started, in ticks since boot. With its number this names it for good.
fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold anything, spaces and parentheses too.
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_process_made_them() {
        let owner = Owner::this_process();
        assert_eq!(Owner::parse(&owner.group_name(3)), Some(owner));
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
            "other-1-2-3",
        ] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }
}
