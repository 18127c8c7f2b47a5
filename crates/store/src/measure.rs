//! How much disk a tree takes, each inode counted once.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{At, StoreError};

/// How deep trees are measured. Layers are never deeper; what is deeper elsewhere is not counted.
const MAX_DEPTH: usize = 300;
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Adds up trees; a file with several links belongs to the first tree that has it.
#[derive(Debug, Default)]
pub(crate) struct Measure {
    seen: BTreeSet<(u64, u64)>,
}

impl Measure {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Returns the bytes on disk of what is at `path` and was not counted before; 0 if nothing is
    /// there. What vanishes meanwhile is not counted.
    pub(crate) fn tree(&mut self, path: &Path) -> Result<u64, StoreError> {
        self.entry(rustix::fs::CWD, path.as_os_str().as_encoded_bytes(), 0)
            .at("measure", path)
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<u64, Errno> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(0),
            Err(error) => return Err(error),
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if !is_directory && stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return Ok(0);
        }
        let mut bytes = on_disk(&stat);
        if is_directory && depth < MAX_DEPTH {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                Ok(directory) => directory,
                // A folder of a container's user that its owner alone may look into.
                Err(Errno::NOENT | Errno::ACCESS) => return Ok(bytes),
                Err(error) => return Err(error),
            };
            let mut buffer = Vec::with_capacity(8192);
            let mut entries =
                rustix::fs::RawDir::new(directory.as_fd(), buffer.spare_capacity_mut());
            while let Some(entry) = entries.next() {
                let entry = match entry {
                    // The folder was removed while it was listed.
                    Err(Errno::NOENT) => break,
                    entry => entry?,
                };
                let child = entry.file_name().to_bytes();
                if child != b"." && child != b".." {
                    bytes += self.entry(directory.as_fd(), child, depth + 1)?;
                }
            }
        }
        Ok(bytes)
    }
}

fn on_disk(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_count_once_and_holes_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        for path in [&one, &two] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(one.join("file"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(one.join("file"), two.join("file")).unwrap();
        let hole = std::fs::File::create(two.join("hole")).unwrap();
        hole.set_len(1 << 30).unwrap();
        let mut measure = Measure::new();
        let first = measure.tree(&one).unwrap();
        assert!((1 << 20..2 << 20).contains(&first), "{first}");
        let second = measure.tree(&two).unwrap();
        assert!(second < 1 << 19, "{second}");
        assert_eq!(measure.tree(&folder.path().join("none")).unwrap(), 0);
    }
}
