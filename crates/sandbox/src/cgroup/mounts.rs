//! Where hierarchies are mounted.

use std::path::PathBuf;

/// A line of `/proc/self/mountinfo`, as far as cgroups need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountLine {
    root: String,
    pub(super) point: PathBuf,
    pub(super) kind: String,
    pub(super) options: String,
}

impl MountLine {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, _source, options) = (back.next()?, back.next()?, back.next()?);
        kind.starts_with("cgroup").then(|| Self {
            root: root.to_owned(),
            point: PathBuf::from(point),
            kind: kind.to_owned(),
            options: options.to_owned(),
        })
    }

    /// Where the group `path` is to be found below this mount; its top if it is not shown at all.
    pub(super) fn locate(&self, path: &str) -> PathBuf {
        let relative = if self.root == "/" {
            Some(path)
        } else {
            path.strip_prefix(self.root.as_str())
        };
        let below = relative.map(|relative| self.point.join(relative.trim_start_matches('/')));
        below
            .filter(|directory| directory.is_dir())
            .unwrap_or_else(|| self.point.clone())
    }
}
