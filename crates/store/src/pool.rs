//! One inode for all files that are equal in everything, their paths included: hard links through `pool/`.
//!
//! ```text
//! pool/<2 hex>/<62 hex>   a link to a file in some layer, named by its path there and all that
//!                         makes it equal
//! ```
//! A file whose only link is the pool's belongs to no layer any more; gc removes it. Two processes
//! may share the same file at the same moment: every step is one link or one rename.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use kiln_layer::{FileIdentity, FilePool};
use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use crate::disk;
use crate::session::Session;

/// The store's pool of equal files, for one session.
///
/// Works from the pool's folder: a path from the root would be walked again for every file.
#[derive(Debug)]
pub struct Pool {
    session: Session,
    folder: OnceLock<OwnedFd>,
}

impl Pool {
    /// Returns the pool of the session's store.
    pub fn new(session: &Session) -> Self {
        Self {
            session: session.clone(),
            folder: OnceLock::new(),
        }
    }

    fn folder(&self) -> io::Result<BorrowedFd<'_>> {
        let folder = match self.folder.get() {
            Some(folder) => folder,
            None => {
                let opened = disk::open_directory(&self.session.store().at("pool"));
                let opened = opened.map_err(|error| io::Error::other(error.to_string()))?;
                self.folder.get_or_init(|| opened)
            }
        };
        Ok(folder.as_fd())
    }

    /// Names the file for the pool. `Exists` if the pool already has one.
    fn offer(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        folder: BorrowedFd<'_>,
        place: &str,
    ) -> Result<Offered, Errno> {
        for _ in 0..2 {
            match rustix::fs::linkat(directory, name, folder, place, AtFlags::empty()) {
                Ok(()) => return Ok(Offered::Taken),
                Err(Errno::EXIST) => return Ok(Offered::Exists),
                Err(error) if declines(error) => return Ok(Offered::Declined),
                Err(Errno::NOENT) => {
                    // The shard is made with its first file.
                    let (shard, _) = place.split_once('/').ok_or(Errno::INVAL)?;
                    match rustix::fs::mkdirat(folder, shard, rustix::fs::Mode::RWXU) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Err(Errno::NOENT)
    }

    fn try_share(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<()> {
        let (folder, place) = (self.folder()?, place(identity));
        match self.offer(directory, name, folder, &place)? {
            Offered::Taken | Offered::Declined => return Ok(()),
            Offered::Exists => {}
        }
        let ours = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match rustix::fs::statat(folder, &place, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(theirs) if (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino) => {
                return Ok(());
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let spare = self.session.draft_path("link");
        match rustix::fs::linkat(folder, &place, CWD, &spare, AtFlags::empty()) {
            Ok(()) => {
                // The two are different inodes, so the rename replaces.
                rustix::fs::renameat(CWD, &spare, directory, name)?;
            }
            // The pool's file can have no more links: let ours take its place.
            Err(Errno::MLINK) => {
                rustix::fs::linkat(directory, name, CWD, &spare, AtFlags::empty())?;
                rustix::fs::renameat(CWD, &spare, folder, &place)?;
            }
            // gc took it away just now.
            Err(Errno::NOENT) => {}
            Err(error) if declines(error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Where a file of this identity is, below the pool's folder.
fn place(identity: &FileIdentity<'_>) -> String {
    let hex = kiln_oci::Digest::from_raw(*identity.key().as_raw()).hex();
    let (shard, rest) = hex.split_at(2);
    format!("{shard}/{rest}")
}

enum Offered {
    /// The pool has a link to the file.
    Taken,
    /// The pool has another file of the same identity.
    Exists,
    /// The file cannot be linked to.
    Declined,
}

/// Reasons why a file cannot be linked that only cost disk space: another file system, one without
/// links, a file of somebody else's, no more links.
fn declines(error: Errno) -> bool {
    matches!(
        error,
        Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK
    )
}

impl FilePool for Pool {
    fn link(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<bool> {
        if identity.size_bytes == 0 {
            return Ok(false);
        }
        let (folder, place) = (self.folder()?, place(identity));
        match rustix::fs::linkat(folder, &place, directory, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => {
                // Either the pool has no such file, or the caller's directory is gone; the caller
                // finds out by creating the file.
                Ok(false)
            }
            Err(Errno::MLINK) => {
                // Full: the next file of this identity starts anew.
                match rustix::fs::unlinkat(folder, &place, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) if declines(error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn share(
        &self,
        identity: &FileIdentity<'_>,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> io::Result<()> {
        if identity.size_bytes == 0 {
            return Ok(());
        }
        self.try_share(identity, directory, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestStore;
    use kiln_layer::{ContentHash, Metadata, TreePath};
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    fn inode(path: &Path) -> (u64, u64) {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.ino(), metadata.nlink())
    }

    fn write(folder: &Path, name: &str) {
        std::fs::write(folder.join(name), "content").unwrap();
    }

    #[test]
    fn equal_files_become_one_inode_from_many_threads() {
        let test = TestStore::new();
        let session = test.session();
        let folder = tempfile::tempdir_in(test.store.path()).unwrap();
        let path = TreePath::parse(b"some/file").unwrap();
        let metadata = Metadata::root_owned(0o644);
        let identity = FileIdentity {
            path: &path,
            size_bytes: 7,
            content: ContentHash::of(b"content"),
            metadata: &metadata,
        };
        let directory = disk::open_directory(folder.path()).unwrap();
        assert!(
            !Pool::new(&session)
                .link(&identity, directory.as_fd(), b"none")
                .unwrap()
        );
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (identity, directory, session) = (&identity, &directory, &session);
                let folder = folder.path();
                scope.spawn(move || {
                    let pool = Pool::new(session);
                    for number in 0..50 {
                        let name = format!("{thread}-{number}");
                        write(folder, &name);
                        pool.share(identity, directory.as_fd(), name.as_bytes())
                            .unwrap();
                        // Sharing what is shared changes nothing.
                        pool.share(identity, directory.as_fd(), name.as_bytes())
                            .unwrap();
                    }
                });
            }
        });
        let pool = Pool::new(&session);
        assert!(pool.link(&identity, directory.as_fd(), b"linked").unwrap());
        let (first, links) = inode(&folder.path().join("0-0"));
        assert_eq!(links, 4 * 50 + 2);
        assert_eq!(inode(&folder.path().join("3-49")).0, first);
        assert_eq!(inode(&folder.path().join("linked")).0, first);
        assert_eq!(
            inode(&test.store.path().join("pool").join(place(&identity))).0,
            first
        );
        test.assert_no_drafts();
    }

    #[test]
    fn empty_files_and_other_file_systems_are_declined() {
        let test = TestStore::new();
        let session = test.session();
        let pool = Pool::new(&session);
        let path = TreePath::parse(b"some/file").unwrap();
        let metadata = Metadata::root_owned(0o644);
        let mut identity = FileIdentity {
            path: &path,
            size_bytes: 0,
            content: ContentHash::of(b""),
            metadata: &metadata,
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("empty"), "").unwrap();
        write(folder.path(), "full");
        let directory = disk::open_directory(folder.path()).unwrap();
        pool.share(&identity, directory.as_fd(), b"empty").unwrap();
        assert!(!pool.link(&identity, directory.as_fd(), b"again").unwrap());
        identity.size_bytes = 7;
        pool.share(&identity, directory.as_fd(), b"full").unwrap();
        let store = std::fs::metadata(test.store.path()).unwrap();
        if store.dev() == std::fs::metadata(folder.path()).unwrap().dev() {
            println!("SKIP: /dev/shm and the folder for temporary files are one file system");
            return;
        }
        assert_eq!(inode(&folder.path().join("full")).1, 1);
    }
}
