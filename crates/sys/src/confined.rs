//! File access that cannot leave a directory.
//!
//! Two ways to look at a directory that somebody else filled:
//!
//! - *in root*: the directory plays `/`. Links are followed, absolute ones and `..` included, and every one of
//!   them is resolved below the directory. For root file systems of images.
//! - *beneath*: no link is followed at all and `..` may not climb out. For the store and for project folders,
//!   where a link on the way is an attack or a mistake.
//!
//! Both are one `openat2(2)`, so the kernel enforces them against a tree that changes meanwhile. Nothing here
//! goes through magic links (`/proc/self/fd/3`).
//!
//! ```text
//! root = O_PATH fd of <rootfs>          open_in_root(root, "/var/run/x")
//! <rootfs>/var/run -> /run              opens <rootfs>/run/x
//! <rootfs>/evil    -> ../../../etc      open_in_root(root, "/evil/passwd") opens <rootfs>/etc/passwd
//! ```

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};

use crate::Errno;

/// Links followed in one walk before it is called a loop; the kernel's own limit.
const MAX_LINKS: u32 = 40;

/// Longest path accepted, in bytes; the kernel's `PATH_MAX`.
const MAX_PATH_BYTES: usize = 4096;

/// Deepest path accepted, in components.
const MAX_DEPTH: usize = 256;

/// `openat2` asks to try again when the tree was renamed under its feet; an attacker can keep that up for ever.
const MAX_RETRIES: u32 = 128;

/// Opens `path` with `root` playing `/`: links, absolute links and `..` all stay inside.
///
/// `O_CLOEXEC` is added. `mode` only matters with `O_CREATE`. A `path` with or without a leading `/` means the
/// same. Never goes through magic links.
///
/// # Errors
/// What `openat2(2)` says: `NOENT`, `LOOP` for too many or magic links, `AGAIN` if the tree is being renamed
/// without end.
pub fn open_in_root(
    root: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    open(
        root.as_fd(),
        path.as_ref(),
        flags,
        mode,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens `path`, relative and below `directory`, following no link at all.
///
/// `O_CLOEXEC` is added. `mode` only matters with `O_CREATE`.
///
/// # Errors
/// `LOOP` if any component is a link (the last one too, unless `O_NOFOLLOW | O_PATH` asks for the link itself),
/// `XDEV` if the path is absolute or climbs out, else what `openat2(2)` says.
pub fn open_beneath(
    directory: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    open(
        directory.as_fd(),
        path.as_ref(),
        flags,
        mode,
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
}

/// Opens `path`, relative and below `directory`; links are followed as long as they stay below.
///
/// # Errors
/// `XDEV` if the path or a link in it leads out of `directory`, else what `openat2(2)` says.
pub fn open_inside(
    directory: impl AsFd,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    open(
        directory.as_fd(),
        path.as_ref(),
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

fn open(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let mut retries = 0;
    loop {
        match rustix::fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if retries < MAX_RETRIES => retries += 1,
            result => return result,
        }
    }
}

/// Opens a directory by a trusted path of the host, to be used as `root` or `directory` above.
///
/// The descriptor is `O_PATH`: good for look-ups, mounting and `fstat`, not for reading.
///
/// # Errors
/// What `open(2)` says, `NOTDIR` if it is not a directory.
pub fn open_directory(path: impl AsRef<Path>) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path.as_ref(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Reads a regular file inside `root`, at most `limit_bytes` of it.
///
/// Devices and pipes are never opened for reading, so a planted FIFO cannot make this wait.
///
/// # Errors
/// `INVAL` if it is not a regular file, `FBIG` if it is longer than the limit, else what the calls say.
pub fn read_in_root(
    root: impl AsFd,
    path: impl AsRef<Path>,
    limit_bytes: usize,
) -> Result<Vec<u8>, Errno> {
    let file = open_in_root(
        root,
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    let mut content = Vec::new();
    let mut buffer = [0_u8; 16 * 1024];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => return Ok(content),
            Ok(count) => content.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        if content.len() > limit_bytes {
            return Err(Errno::FBIG);
        }
    }
}

/// What a directory made on the way gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewDirectory {
    /// Permission bits, set as they are, whatever the umask.
    pub mode: u32,
    /// Owner and group; `None` leaves those of the calling process.
    pub owner: Option<(u32, u32)>,
}

impl Default for NewDirectory {
    fn default() -> Self {
        Self {
            mode: 0o755,
            owner: None,
        }
    }
}

/// Makes `path` and what is missing above it inside `root`, and opens it (`O_PATH`).
///
/// Existing directories keep what they have. Links are followed inside `root`; one that points nowhere gets its
/// target made, inside `root`.
///
/// # Errors
/// `NOTDIR` if something on the way is a file, `LOOP`, `NAMETOOLONG` past 4096 bytes or 256 components, else
/// what `mkdirat(2)` says.
pub fn mkdir_all_in_root(
    root: impl AsFd,
    path: impl AsRef<Path>,
    new: NewDirectory,
) -> Result<OwnedFd, Errno> {
    let (root, path) = (root.as_fd(), path.as_ref());
    match open_in_root(root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut maker = Maker { new };
    walk(root, path, &mut maker)
}

/// Decides what happens at the joints of a [`walk`].
pub trait Walker {
    /// Called with every directory or file the walk steps on; returns what to go on with, which may be the root
    /// of something mounted there.
    ///
    /// # Errors
    /// Any; it ends the walk.
    fn step(&mut self, found: OwnedFd) -> Result<OwnedFd, Errno> {
        Ok(found)
    }

    /// Called when `parent` has no `name`; `last` if nothing follows it. Makes it, or refuses.
    ///
    /// # Errors
    /// Any; it ends the walk. `NOENT` to refuse.
    fn missing(&mut self, parent: BorrowedFd<'_>, name: &OsStr, last: bool) -> Result<(), Errno>;
}

struct Maker {
    new: NewDirectory,
}

impl Walker for Maker {
    fn missing(&mut self, parent: BorrowedFd<'_>, name: &OsStr, _last: bool) -> Result<(), Errno> {
        make_directory(parent, name, self.new)
    }
}

/// Makes one directory in `parent`; one that is there already is left alone.
///
/// # Errors
/// What `mkdirat`, `fchmod` and `fchown` say. `name` must be a single component: `INVAL`.
pub fn make_directory(parent: impl AsFd, name: &OsStr, new: NewDirectory) -> Result<(), Errno> {
    let parent = parent.as_fd();
    plain_component(name)?;
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(new.mode)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if let Some((user, group)) = new.owner {
        rustix::fs::fchown(&made, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
    }
    // After the owner: changing the owner clears set-id bits. And past the umask.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(new.mode))
}

/// Resolves `path` inside `root` one component at a time, and returns an `O_PATH` descriptor of what it names.
///
/// Does in steps what [`open_in_root`] does in one call, for those who must act on the way. It stays inside by
/// construction: each step opens one plain name without following it, and `..` goes back to a descriptor that
/// the walk already holds. The last component is followed if it is a link.
///
/// # Errors
/// `NOTDIR`, `LOOP` past 40 links, `NAMETOOLONG` past 4096 bytes or 256 components, and what the walker says.
pub fn walk(
    root: impl AsFd,
    path: impl AsRef<Path>,
    walker: &mut impl Walker,
) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    // Components still to go, the next one last.
    let mut pending = components(path.as_ref().as_os_str())?;
    let mut trail = vec![walker.step(reopen(root)?)?];
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == ".." {
            if trail.len() > 1 {
                trail.pop();
            }
            continue;
        }
        let parent = trail
            .last()
            .expect("the trail always holds the root")
            .as_fd();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(parent, name.as_os_str(), flags, Mode::empty()) {
            Ok(found) => found,
            Err(Errno::NOENT) => {
                walker.missing(parent, &name, pending.is_empty())?;
                rustix::fs::openat(parent, name.as_os_str(), flags, Mode::empty())?
            }
            Err(error) => return Err(error),
        };
        let kind = file_type(&rustix::fs::fstat(&found)?);
        if kind == FileType::Symlink {
            links += 1;
            if links > MAX_LINKS {
                return Err(Errno::LOOP);
            }
            let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
            if target.starts_with(b"/") {
                trail.truncate(1);
            }
            pending.extend(components(OsStr::from_bytes(&target))?);
        } else if kind == FileType::Directory {
            trail.push(walker.step(found)?);
        } else if pending.is_empty() {
            return walker.step(found);
        } else {
            return Err(Errno::NOTDIR);
        }
        if pending.len() + trail.len() > MAX_DEPTH + 1 {
            return Err(Errno::NAMETOOLONG);
        }
    }
    Ok(trail.pop().expect("the trail always holds the root"))
}

/// Opens the same directory again, as `O_PATH`.
fn reopen(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        directory,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Splits a path into its names, the first one last, without `.` and empty ones.
fn components(path: &OsStr) -> Result<Vec<OsString>, Errno> {
    let bytes = path.as_bytes();
    if bytes.is_empty() {
        return Err(Errno::NOENT);
    }
    if bytes.len() > MAX_PATH_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let names = bytes
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let mut names: Vec<OsString> = names
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect();
    if names.len() > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    names.reverse();
    Ok(names)
}

/// Accepts a name that is one component: not empty, no `/`, not `.` or `..`.
///
/// # Errors
/// `INVAL` otherwise.
pub fn plain_component(name: &OsStr) -> Result<(), Errno> {
    let bytes = name.as_bytes();
    if bytes.is_empty()
        || bytes == b"."
        || bytes == b".."
        || bytes.contains(&b'/')
        || bytes.contains(&0)
    {
        return Err(Errno::INVAL);
    }
    Ok(())
}

/// The file type in a `stat`.
#[must_use]
pub fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(directory.path().join("outside"), "outside").unwrap();
        let fd = open_directory(&root).unwrap();
        (directory, fd)
    }

    fn text(fd: OwnedFd) -> String {
        std::io::read_to_string(std::fs::File::from(fd)).unwrap()
    }

    #[test]
    fn links_resolve_inside_the_root() {
        let (directory, root) = root();
        let base = directory.path().join("root");
        std::fs::write(base.join("outside"), "inside").unwrap();
        symlink("../outside", base.join("relative")).unwrap();
        symlink("/outside", base.join("absolute")).unwrap();
        for name in ["relative", "/absolute", "../../outside"] {
            let file = open_in_root(&root, name, OFlags::RDONLY, Mode::empty()).unwrap();
            assert_eq!(text(file), "inside", "{name}");
            let refused = open_beneath(&root, name, OFlags::RDONLY, Mode::empty());
            assert!(refused.is_err(), "{name}");
        }
    }

    #[test]
    fn beneath_refuses_links_and_climbing() {
        let (directory, root) = root();
        let base = directory.path().join("root");
        std::fs::create_dir(base.join("real")).unwrap();
        std::fs::write(base.join("real/file"), "x").unwrap();
        symlink("real", base.join("link")).unwrap();
        let open = |path: &str| open_beneath(&root, path, OFlags::RDONLY, Mode::empty()).map(text);
        assert_eq!(open("real/file").unwrap(), "x");
        assert_eq!(open("real/../real/file").unwrap(), "x");
        assert_eq!(open("link/file").unwrap_err(), Errno::LOOP);
        assert_eq!(open("../outside").unwrap_err(), Errno::XDEV);
        assert_eq!(open("/etc/passwd").unwrap_err(), Errno::XDEV);
        let link = open_beneath(
            &root,
            "link",
            OFlags::PATH | OFlags::NOFOLLOW,
            Mode::empty(),
        );
        let kind = file_type(&rustix::fs::fstat(link.unwrap()).unwrap());
        assert_eq!(kind, FileType::Symlink, "the link itself, when asked for");
    }

    #[test]
    fn magic_links_are_refused() {
        let proc = open_directory("/proc").unwrap();
        let opened = open_in_root(&proc, "self/root", OFlags::PATH, Mode::empty());
        assert_eq!(opened.unwrap_err(), Errno::LOOP);
    }

    #[test]
    fn a_fifo_does_not_block_a_reader_and_limits_hold() {
        let (directory, root) = root();
        let base = directory.path().join("root");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            base.join("fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        std::fs::write(base.join("big"), vec![b'x'; 100]).unwrap();
        assert_eq!(read_in_root(&root, "fifo", 10).unwrap_err(), Errno::INVAL);
        assert_eq!(read_in_root(&root, "big", 99).unwrap_err(), Errno::FBIG);
        assert_eq!(read_in_root(&root, "big", 100).unwrap().len(), 100);
    }

    #[test]
    fn mkdir_all_stays_inside_whatever_links_say() {
        let (directory, root) = root();
        let base = directory.path().join("root");
        symlink("../../../../escape", base.join("up")).unwrap();
        symlink("/deep/er", base.join("absolute")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        let new = NewDirectory {
            mode: 0o1777,
            owner: None,
        };
        mkdir_all_in_root(&root, "up/a", new).unwrap();
        mkdir_all_in_root(&root, "/absolute/b", new).unwrap();
        mkdir_all_in_root(&root, "c/../d/./e", new).unwrap();
        assert!(base.join("escape/a").is_dir());
        assert!(base.join("deep/er/b").is_dir());
        assert!(base.join("c").is_dir() && base.join("d/e").is_dir());
        assert!(!directory.path().join("escape").exists());
        let mode = std::fs::metadata(base.join("d/e"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o1777, "the umask does not apply");
        assert_eq!(
            mkdir_all_in_root(&root, "loop/a", new).unwrap_err(),
            Errno::LOOP
        );
        assert_eq!(
            mkdir_all_in_root(&root, "file/a", new).unwrap_err(),
            Errno::NOTDIR
        );
        assert_eq!(
            mkdir_all_in_root(&root, "file", new).unwrap_err(),
            Errno::NOTDIR
        );
        assert_eq!(mkdir_all_in_root(&root, "", new).unwrap_err(), Errno::NOENT);
        let deep = "d/".repeat(300);
        assert_eq!(
            mkdir_all_in_root(&root, deep, new).unwrap_err(),
            Errno::NAMETOOLONG
        );
        rustix::fs::fstat(mkdir_all_in_root(&root, "/", new).unwrap()).unwrap();
    }

    proptest::proptest! {
        /// The step-wise walk and the kernel agree on every tree of links we can think of.
        #[test]
        fn walk_agrees_with_the_kernel(
            links in proptest::collection::vec(("[a-d]", "(/|\\.\\./)?([a-d]|\\.\\.)(/([a-d]|\\.\\.)){0,2}"), 0..6),
            path in "/?([a-d]|\\.\\.)(/([a-d]|\\.\\.)){0,3}",
        ) {
            struct Refuse;
            impl Walker for Refuse {
                fn missing(&mut self, _: BorrowedFd<'_>, _: &OsStr, _: bool) -> Result<(), Errno> {
                    Err(Errno::NOENT)
                }
            }
            let (directory, root) = root();
            let base = directory.path().join("root");
            std::fs::create_dir_all(base.join("a/b/c")).unwrap();
            std::fs::write(base.join("d"), "").unwrap();
            for (index, (name, target)) in links.iter().enumerate() {
                let parent = ["", "a", "a/b"][index % 3];
                let link = base.join(parent).join(name);
                if link.symlink_metadata().is_err() {
                    symlink(target, link).unwrap();
                }
            }
            let inode = |fd: OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
            let kernel = open_in_root(&root, &path, OFlags::PATH, Mode::empty()).map(inode);
            let walked = walk(&root, &path, &mut Refuse).map(inode);
            proptest::prop_assert_eq!(kernel, walked);
        }
    }
}
