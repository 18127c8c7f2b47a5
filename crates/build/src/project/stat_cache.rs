//! What was in a file when it last had this size, these times and this inode.
//!
//! One file for each project, read whole and written whole. It only ever saves reading: without it, or with
//! one that cannot be read, the result is the same.
//!
//! ```text
//! "kiln-stat 1\n" count entry… check        numbers: little endian; count: u32
//! entry   size u64, modified i64, changed i64, inode u64, BLAKE3 32 bytes, path length u32, path
//! check   first 16 bytes of the BLAKE3 of all before it; entries are sorted by path
//! ```
//!
//! **Racily clean files.** A file that is written twice within one tick of the file system's clock has the
//! same times after both. Therefore an entry is kept only if both its times are older than a stamp taken from
//! that clock *before* the file was read: whatever happened to the file after the reading then shows in its
//! times. git has the same rule (`racy-git`), with the time of its index for the stamp. A file that is not kept
//! is read again by the next build. Where times have no fractions, as on some file systems with a tick of up
//! to two seconds, the stamp is taken two seconds earlier.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kiln_graph::ContentDigest;

use super::walk::Stamp;

const MAGIC: &[u8] = b"kiln-stat 1\n";
/// Size of an entry without its path.
const FIXED_BYTES: usize = 8 * 4 + 32 + 4;
const CHECK_BYTES: usize = 16;
const COARSE_TICK_NS: i64 = 2_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// Where the cache of one project is kept, if anywhere.
#[derive(Clone, Debug)]
pub struct StatCache {
    path: Option<PathBuf>,
}

impl StatCache {
    /// Keeps the cache in the file `path`; its folder must exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
        }
    }

    /// Keeps nothing: every selected file is read.
    pub fn none() -> Self {
        Self { path: None }
    }

    /// Returns a file name for the cache of the project at `path`, an absolute path.
    pub fn file_name(path: &Path) -> String {
        use std::os::unix::ffi::OsStrExt;
        let hash = blake3::hash(path.as_os_str().as_bytes()).to_hex();
        format!("{}.stat", &hash[..32])
    }

    /// Reads the cache; an empty one if there is none or it is damaged.
    pub(super) fn read(&self) -> Entries {
        let bytes = self.path.as_ref().and_then(|path| std::fs::read(path).ok());
        Entries::parse(bytes.unwrap_or_default())
    }

    /// Begins a new version, before any file is read.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn begin(&self) -> io::Result<Option<Draft>> {
        let Some(path) = &self.path else {
            return Ok(None);
        };
        // Unique among processes, and within one only a build writes it, once.
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let file = File::create(&temporary)?;
        let stat = rustix::fs::fstat(&file)?;
        let stamp_ns = Stamp::of(&stat).modified_ns;
        Ok(Some(Draft {
            file,
            temporary,
            path: path.clone(),
            stamp_ns,
            is_finished: false,
        }))
    }
}

/// A cache as it was read: positions into its bytes, sorted by path.
#[derive(Debug, Default)]
pub(super) struct Entries {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Entries {
    fn parse(bytes: Vec<u8>) -> Self {
        let starts = Self::starts(&bytes).unwrap_or_default();
        Self { bytes, starts }
    }

    /// Checks everything; `None` if anything is wrong.
    fn starts(bytes: &[u8]) -> Option<Vec<usize>> {
        let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(CHECK_BYTES)?)?;
        if check != &blake3::hash(body).as_bytes()[..CHECK_BYTES] {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let mut starts = Vec::with_capacity(count.min(rest.len() / FIXED_BYTES));
        while !rest.is_empty() {
            starts.push(body.len() - rest.len());
            let length = rest.get(FIXED_BYTES - 4..FIXED_BYTES)?.try_into().ok()?;
            rest = rest.get(FIXED_BYTES + u32::from_le_bytes(length) as usize..)?;
        }
        (starts.len() == count).then_some(starts)
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn entry(&self, at: usize) -> CachedFile<'_> {
        let bytes = &self.bytes[self.starts[at]..];
        let number =
            |at: usize| -> [u8; 8] { bytes[at * 8..at * 8 + 8].try_into().expect("eight bytes") };
        let length = bytes[FIXED_BYTES - 4..FIXED_BYTES]
            .try_into()
            .expect("four bytes");
        CachedFile {
            stamp: Stamp {
                size_bytes: u64::from_le_bytes(number(0)),
                modified_ns: i64::from_le_bytes(number(1)),
                changed_ns: i64::from_le_bytes(number(2)),
                inode: u64::from_le_bytes(number(3)),
            },
            content: ContentDigest::from_raw(bytes[32..64].try_into().expect("32 bytes")),
            path: &bytes[FIXED_BYTES..][..u32::from_le_bytes(length) as usize],
        }
    }
}

/// One file of the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct CachedFile<'a> {
    pub(super) path: &'a [u8],
    pub(super) stamp: Stamp,
    pub(super) content: ContentDigest,
}

/// A new version that is being made.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    stamp_ns: i64,
    is_finished: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_finished {
            // A left-over is harmless: the next process with this number overwrites it.
            match std::fs::remove_file(&self.temporary) {
                Ok(()) | Err(_) => {}
            }
        }
    }
}

impl Draft {
    /// Tells whether a file with these times, read after the draft was begun, may be believed later.
    pub(super) fn is_settled(&self, stamp: &Stamp) -> bool {
        let newest = stamp.modified_ns.max(stamp.changed_ns);
        let is_coarse = stamp.modified_ns % SECOND_NS == 0 && stamp.changed_ns % SECOND_NS == 0;
        let tick = if is_coarse { COARSE_TICK_NS } else { 0 };
        newest < self.stamp_ns.saturating_sub(tick)
    }

    /// Writes `files`, sorted by path, and puts the new version in the place of the old.
    ///
    /// # Errors
    /// What the file system says; the old version is then still there.
    pub(super) fn finish<'a>(
        mut self,
        files: impl Iterator<Item = CachedFile<'a>>,
    ) -> io::Result<()> {
        self.write(files)?;
        std::fs::rename(&self.temporary, &self.path)?;
        self.is_finished = true;
        Ok(())
    }

    fn write<'a>(&mut self, files: impl Iterator<Item = CachedFile<'a>>) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[0; 4]);
        let mut count = 0_u32;
        for CachedFile {
            path,
            stamp,
            content,
        } in files
        {
            let Stamp {
                size_bytes,
                modified_ns,
                changed_ns,
                inode,
            } = stamp;
            bytes.extend_from_slice(&size_bytes.to_le_bytes());
            bytes.extend_from_slice(&modified_ns.to_le_bytes());
            bytes.extend_from_slice(&changed_ns.to_le_bytes());
            bytes.extend_from_slice(&inode.to_le_bytes());
            bytes.extend_from_slice(content.as_raw());
            let length = u32::try_from(path.len()).expect("paths are bounded by the kernel");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(path);
            count += 1;
        }
        bytes[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&count.to_le_bytes());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        // Not synced: a version that a crash damages is as good as none.
        self.file.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(modified_ns: i64, changed_ns: i64) -> Stamp {
        Stamp {
            size_bytes: 1,
            modified_ns,
            changed_ns,
            inode: 7,
        }
    }

    #[test]
    fn only_what_is_older_than_the_reading_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut draft = StatCache::at(folder.path().join("cache"))
            .begin()
            .unwrap()
            .unwrap();
        draft.stamp_ns = 5_000_000_123;
        assert!(draft.is_settled(&stamp(5_000_000_122, 5_000_000_122)));
        assert!(
            !draft.is_settled(&stamp(5_000_000_123, 1)),
            "modified in the tick of the stamp"
        );
        assert!(
            !draft.is_settled(&stamp(1, 5_000_000_123)),
            "changed in the tick of the stamp"
        );
        assert!(
            !draft.is_settled(&stamp(9_000_000_001, 1)),
            "modified in the future"
        );
        assert!(
            !draft.is_settled(&stamp(4_000_000_000, 4_000_000_000)),
            "coarse and recent"
        );
        assert!(
            draft.is_settled(&stamp(3_000_000_000, 3_000_000_000)),
            "coarse and old"
        );
    }

    #[test]
    fn what_is_written_is_read_back_and_an_abandoned_draft_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = StatCache::at(folder.path().join("cache"));
        assert_eq!(cache.read().len(), 0);
        let file = |path: &'static [u8]| CachedFile {
            path,
            stamp: stamp(i64::MIN, i64::MAX),
            content: ContentDigest::of(path),
        };
        drop(cache.begin().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let draft = cache.begin().unwrap().unwrap();
        draft
            .finish([file(b"a"), file(b"b/\xff")].into_iter())
            .unwrap();
        let entries = cache.read();
        assert_eq!(entries.len(), 2);
        let second = entries.entry(1);
        assert_eq!(
            (second.path, second.content),
            (&b"b/\xff"[..], ContentDigest::of(b"b/\xff"))
        );
        assert_eq!(second.stamp, stamp(i64::MIN, i64::MAX));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
