//! What the user and group numbers of kiln's process mean.

/// A range of numbers of the host that a user namespace shows as another range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First number inside.
    pub inside: u32,
    /// First number outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// What kiln can do after `enter`: inside it is user 0 in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Privileges {
    /// Root of the machine, or of a container that maps every number.
    Root,
    /// An ordinary user, with more numbers from `/etc/subuid` and `/etc/subgid`.
    Mapped {
        /// Users.
        uids: Vec<IdRange>,
        /// Groups.
        gids: Vec<IdRange>,
    },
    /// An ordinary user with no number but their own: every file belongs to user 0 inside, and changing owners
    /// needs [`OwnerEmulation::Flatten`](crate::OwnerEmulation::Flatten).
    Single {
        /// Why there are no more, for a warning.
        reason: String,
    },
}

impl Privileges {
    /// Whether files can be given to user `uid` of the container.
    #[must_use]
    pub fn maps_user(&self, uid: u32) -> bool {
        match self {
            Self::Root => true,
            Self::Mapped { uids, .. } => contains(uids, uid),
            Self::Single { .. } => uid == 0,
        }
    }

    /// Whether files can be given to group `gid` of the container.
    #[must_use]
    pub fn maps_group(&self, gid: u32) -> bool {
        match self {
            Self::Root => true,
            Self::Mapped { gids, .. } => contains(gids, gid),
            Self::Single { .. } => gid == 0,
        }
    }
}

fn contains(ranges: &[IdRange], id: u32) -> bool {
    ranges
        .iter()
        .any(|range| id >= range.inside && id - range.inside < range.count)
}

/// Reads what `/proc/<pid>/uid_map` or `gid_map` says.
pub(crate) fn parse_map(text: &str) -> Vec<IdRange> {
    let lines = text.lines().filter_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(str::parse);
        let (inside, outside, count) = (
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
            numbers.next()?.ok()?,
        );
        Some(IdRange {
            inside,
            outside,
            count,
        })
    });
    lines.collect()
}
