//! The few file system operations this crate is made of, each on a directory descriptor and one plain
//! name, or on a checked path below a descriptor without following any link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use kiln_sys::{Errno, confined, xattr};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps};

use crate::entry::xattr_kept;
use crate::{Metadata, TreePath, Xattrs};

/// The attribute that makes an overlay directory hide what is below it.
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// The file system refused an operation on a path of a layer.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{path}`")]
#[must_use]
pub struct FileError {
    /// What was tried, an imperative.
    pub action: &'static str,
    /// Where, relative to the root of the layer.
    pub path: TreePath,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &TreePath, source: impl Into<io::Error>) -> Self {
        Self {
            action,
            path: path.clone(),
            source: source.into(),
        }
    }
}

/// Adds what was tried, and where, to the error of a system call.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &TreePath) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &TreePath) -> Result<T, FileError> {
        self.map_err(|error| FileError::new(action, path, error))
    }
}

pub(crate) fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens the directory `entry` of `directory`; a link is an error.
pub(crate) fn open_directory(directory: impl AsFd, entry: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(directory, name(entry), DIRECTORY, Mode::empty())
}

/// Opens a directory again, so that it can be read also if `directory` is an `O_PATH` descriptor.
pub(crate) fn reopen(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    fs::openat(directory, ".", DIRECTORY, Mode::empty())
}

/// Opens the directory at `path` below `root`; any link on the way is an error.
pub(crate) fn open_path(root: impl AsFd, path: &TreePath) -> Result<OwnedFd, Errno> {
    if path.is_root() {
        return reopen(root);
    }
    let path = name(path.as_bytes());
    confined::open_beneath(root, path, DIRECTORY, Mode::empty())
}

/// Opens what is already known to be a regular file, for reading.
pub(crate) fn open_file(directory: impl AsFd, entry: &[u8]) -> Result<OwnedFd, Errno> {
    // Should it have become a pipe since, opening must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::openat(directory, name(entry), flags, Mode::empty())
}

/// Returns what `entry` of `directory` is, itself and not what it points to.
pub(crate) fn stat(directory: impl AsFd, entry: &[u8]) -> Result<Option<Stat>, Errno> {
    match fs::statat(directory, name(entry), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether this is how overlay says "removed".
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    confined::file_type(stat)
}

pub(crate) fn size_bytes(stat: &Stat) -> u64 {
    stat.st_size.cast_unsigned()
}

/// Whether the directory hides what is below it.
pub(crate) fn is_opaque(directory: impl AsFd) -> Result<bool, Errno> {
    match xattr::get(directory, OsStr::new(OPAQUE)) {
        Ok(value) => Ok(value.as_deref() == Some(b"y")),
        Err(Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn set_opaque(directory: impl AsFd) -> Result<(), Errno> {
    set_xattr(directory, OPAQUE.as_bytes(), b"y")
}

/// Makes `entry` in `directory` say "removed" to overlay.
pub(crate) fn make_whiteout(directory: impl AsFd, entry: &[u8]) -> Result<(), Errno> {
    let kind = FileType::CharacterDevice;
    fs::mknodat(directory, name(entry), kind, Mode::empty(), 0)
}

/// Returns the names in a directory in byte order.
pub(crate) fn list(directory: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if !matches!(bytes, b"." | b"..") {
            names.push(bytes.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Returns the attributes of an open file or directory that belong to a layer, and the names of
/// those that do not.
pub(crate) fn xattrs(file: impl AsFd) -> Result<(Xattrs, Vec<Vec<u8>>), Errno> {
    let file = file.as_fd();
    let (mut kept, mut others) = (Xattrs::new(), Vec::new());
    for attribute in xattr::list(file)? {
        if !xattr_kept(attribute.as_bytes()) {
            others.push(attribute.as_bytes().to_vec());
        } else if let Some(value) = xattr::get(file, &attribute)? {
            kept.insert(attribute.as_bytes().to_vec(), value);
        }
    }
    Ok((kept, others))
}

pub(crate) fn set_xattr(file: impl AsFd, attribute: &[u8], value: &[u8]) -> Result<(), Errno> {
    xattr::set(file, name(attribute), value, xattr::XattrFlags::empty())
}

pub(crate) fn metadata(stat: &Stat, xattrs: Xattrs) -> Metadata {
    Metadata {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        xattrs,
    }
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

pub(crate) fn set_time(file: impl AsFd, mtime: i64) -> Result<(), Errno> {
    fs::futimens(file, &times(mtime))
}

/// Sets the time of `entry` itself, also if it is a link.
pub(crate) fn set_time_at(directory: impl AsFd, entry: &[u8], mtime: i64) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    fs::utimensat(directory, name(entry), &times(mtime), flags)
}

/// Sets owner, mode and attributes of an open file or directory, but not its time.
pub(crate) fn set_metadata(
    file: impl AsFd,
    metadata: &Metadata,
    owner: Option<(u32, u32)>,
) -> Result<(), Errno> {
    let file = file.as_fd();
    if let Some((uid, gid)) = owner {
        fs::fchown(
            file,
            Some(fs::Uid::from_raw(uid)),
            Some(fs::Gid::from_raw(gid)),
        )?;
    }
    // After the owner: changing the owner clears set-user-id and file capabilities.
    fs::fchmod(file, Mode::from_raw_mode(metadata.mode))?;
    for (attribute, value) in &metadata.xattrs {
        set_xattr(file, attribute, value)?;
    }
    Ok(())
}

/// Reads a file into a buffer until either ends; the offset is in the file.
pub(crate) fn read_at(
    file: BorrowedFd<'_>,
    buffer: &mut [u8],
    offset: u64,
) -> Result<usize, Errno> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Removes `entry` of `directory` and everything below it; nothing there is fine too.
///
/// Follows no link and crosses into nothing mounted. Uses two descriptors whatever the depth, so a
/// hostile tree cannot make it fail.
///
/// # Errors
/// What the system says; the rest of the tree is still there then.
pub fn remove_tree(directory: BorrowedFd<'_>, entry: &[u8]) -> io::Result<()> {
    confined::plain_component(name(entry))?;
    match fs::unlinkat(directory, name(entry), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let device = fs::fstat(directory)?.st_dev;
    let enter = |directory: BorrowedFd<'_>, entry: &[u8]| -> io::Result<(OwnedFd, Vec<Vec<u8>>)> {
        let inner = open_directory(directory, entry)?;
        if fs::fstat(&inner)?.st_dev != device {
            return Err(Errno::XDEV.into());
        }
        let folders = remove_files(inner.as_fd())?;
        Ok((inner, folders))
    };
    let (mut here, folders) = enter(directory, entry)?;
    // The directories from `entry` down to `here`, and what is still to be removed in each.
    let mut trail = vec![(entry.to_vec(), folders)];
    while let Some((_, folders)) = trail.last_mut() {
        if let Some(next) = folders.pop() {
            let (inner, folders) = enter(here.as_fd(), &next)?;
            here = inner;
            trail.push((next, folders));
            continue;
        }
        let (done, _) = trail.pop().expect("it was just looked at");
        if trail.is_empty() {
            fs::unlinkat(directory, name(&done), AtFlags::REMOVEDIR)?;
        } else {
            here = open_directory(&here, b"..")?;
            fs::unlinkat(&here, name(&done), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Removes what is not a directory, and empty directories; returns the directories that are left.
fn remove_files(directory: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut left = Vec::new();
    for entry in list(directory)? {
        match fs::unlinkat(directory, name(&entry), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                match fs::unlinkat(directory, name(&entry), AtFlags::REMOVEDIR) {
                    Ok(()) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST) => left.push(entry),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left)
}

/// Removes everything in a directory, but not the directory.
pub(crate) fn clear(directory: BorrowedFd<'_>) -> io::Result<()> {
    for entry in list(directory)? {
        remove_tree(directory, &entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs as host;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn trees_deeper_than_any_path_are_removed() {
        let space = tempfile::tempdir().unwrap();
        let root = reopen(host::File::open(space.path()).unwrap()).unwrap();
        let mut here = reopen(&root).unwrap();
        let deep = "deep".repeat(60);
        for _ in 0..100 {
            fs::mkdirat(&here, &deep, Mode::RWXU).unwrap();
            fs::mkdirat(&here, "empty", Mode::RWXU).unwrap();
            fs::mkdirat(&here, "other", Mode::RWXU).unwrap();
            fs::mkdirat(&here, "other/full", Mode::RWXU).unwrap();
            here = open_directory(&here, deep.as_bytes()).unwrap();
        }
        remove_tree(root.as_fd(), deep.as_bytes()).unwrap();
        clear(root.as_fd()).unwrap();
        assert_eq!(list(&root).unwrap(), Vec::<Vec<u8>>::new());
        remove_tree(root.as_fd(), b"never was").unwrap();
    }

    #[test]
    fn removing_follows_no_link() {
        let space = tempfile::tempdir().unwrap();
        host::create_dir_all(space.path().join("tree/d")).unwrap();
        host::create_dir_all(space.path().join("outside/kept")).unwrap();
        symlink("../../outside", space.path().join("tree/d/link")).unwrap();
        symlink("tree", space.path().join("link")).unwrap();
        let root = reopen(host::File::open(space.path()).unwrap()).unwrap();
        remove_tree(root.as_fd(), b"link").unwrap();
        assert!(space.path().join("tree/d/link").is_symlink());
        remove_tree(root.as_fd(), b"tree").unwrap();
        assert!(space.path().join("outside/kept").exists());
        for name in [&b".."[..], b".", b"", b"a/b"] {
            assert!(remove_tree(root.as_fd(), name).is_err());
        }
    }
}
