//! The seam to whoever keeps identical files once.

use std::io;
use std::os::fd::BorrowedFd;

use crate::{ContentHash, Metadata, TreePath};

/// All that must be equal for two files to be one inode.
///
/// The path is part of it: programs take two paths with one inode for hard links, so that `cp` would
/// refuse to copy a file over an equal one, and `cp -a` and `tar` would make links of equal files. Of
/// several files with the same path a stack of layers shows only the uppermost.
#[derive(Debug, Clone, Copy)]
pub struct FileIdentity<'a> {
    /// Where the file is in its tree.
    pub path: &'a TreePath,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Hash of the content.
    pub content: ContentHash,
    /// Mode, owner, time and attributes, as they are on disk.
    pub metadata: &'a Metadata,
}

impl FileIdentity<'_> {
    /// Returns a name for the identity: equal for two files exactly if they may share an inode.
    pub fn key(&self) -> ContentHash {
        let Self {
            path,
            size_bytes,
            content,
            metadata,
        } = self;
        let Metadata {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        } = metadata;
        let mut hasher = blake3::Hasher::new_derive_key("kiln layer file identity 2");
        hasher.update(&(path.as_bytes().len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(&size_bytes.to_le_bytes());
        hasher.update(content.as_raw());
        for number in [mode, uid, gid] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&mtime.to_le_bytes());
        for (name, value) in xattrs {
            for part in [name, value] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        hasher.finalize().into()
    }
}

/// Keeps files that are equal in everything as one inode.
///
/// Called from many threads at once. Files it has seen are never written again. An implementation
/// may decline any file, and should decline empty ones: there are many of them and the number of
/// links to one inode is limited.
pub trait FilePool: Sync {
    /// Creates `name` in `directory` as a hard link to a file of this identity, if the pool has one.
    ///
    /// `name` does not exist. Returns whether it does now.
    ///
    /// # Errors
    /// Any failure but "there is none"; `name` does not exist then.
    fn link(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<bool>;

    /// Offers the complete file `name` in `directory`.
    ///
    /// Afterwards it may be another inode of the same identity (replaced by one rename, so that it
    /// is there at any moment), or the pool may have a link to it.
    ///
    /// # Errors
    /// A failure of the file system; `name` is then as it was.
    fn share(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_in_the_key() {
        let base = Metadata::root_owned(0o644);
        let key_at = |path: &str, size_bytes, content: &[u8], metadata: &Metadata| {
            let content = ContentHash::of(content);
            FileIdentity {
                path: &TreePath::parse(path.as_bytes()).unwrap(),
                size_bytes,
                content,
                metadata,
            }
            .key()
        };
        let key = |size_bytes, content: &[u8], metadata: &Metadata| {
            key_at("a/b", size_bytes, content, metadata)
        };
        let with = |change: fn(&mut Metadata)| {
            let mut metadata = base.clone();
            change(&mut metadata);
            key(1, b"a", &metadata)
        };
        let mut keys = vec![
            key(1, b"a", &base),
            key(2, b"a", &base),
            key(1, b"b", &base),
            key_at("a", 1, b"a", &base),
            with(|it| it.mode = 0o600),
            with(|it| it.uid = 1),
            with(|it| it.gid = 1),
            with(|it| it.mtime = 1),
            with(|it| drop(it.xattrs.insert(b"user.ab".to_vec(), b"c".to_vec()))),
            with(|it| drop(it.xattrs.insert(b"user.a".to_vec(), b"bc".to_vec()))),
        ];
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert_eq!(key(1, b"a", &base), key(1, b"a", &base.clone()));
    }
}
