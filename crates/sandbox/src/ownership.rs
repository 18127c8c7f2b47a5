//! Whose a tree is.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kiln_sys::Errno;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};

use crate::spec::Ids;

/// Gives a directory to `owner`, with all below it.
///
/// Nobody else may change the tree meanwhile. Uses three descriptors whatever its depth, which is up to a project.
pub(crate) fn give(directory: BorrowedFd<'_>, owner: &Ids) -> Result<(), Errno> {
    change(directory, c".", owner)?;
    let mut here = open(directory, c".")?;
    // Of each directory from the top down to `here`, the directories that are still to be entered.
    let mut trail = vec![give_entries(here.as_fd(), owner)?];
    while let Some(directories) = trail.last_mut() {
        if let Some(name) = directories.pop() {
            here = open(here.as_fd(), &name)?;
            trail.push(give_entries(here.as_fd(), owner)?);
            continue;
        }
        trail.pop();
        if !trail.is_empty() {
            here = open(here.as_fd(), c"..")?;
        }
    }
    Ok(())
}

/// Gives away what is in a directory, and returns the directories among it.
fn give_entries(directory: BorrowedFd<'_>, owner: &Ids) -> Result<Vec<CString>, Errno> {
    // Read to its end first: what is changed below must not change what is listed.
    let entries: Vec<_> = Dir::read_from(directory)?.collect::<Result<_, _>>()?;
    let mut directories = Vec::new();
    for entry in entries {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        change(directory, name, owner)?;
        if entry.file_type() == FileType::Directory {
            directories.push(name.to_owned());
        }
    }
    Ok(directories)
}

fn change(directory: BorrowedFd<'_>, name: &CStr, owner: &Ids) -> Result<(), Errno> {
    let uid = Some(Uid::from_raw(owner.uid));
    let gid = Some(Gid::from_raw(owner.gid));
    rustix::fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn a_tree_of_many_levels_is_given_away_with_few_descriptors() {
        let folder = tempfile::tempdir().unwrap();
        let mut deepest = std::fs::File::open(folder.path()).unwrap();
        let name = c"level";
        for _ in 0..300 {
            rustix::fs::mkdirat(&deepest, name, Mode::RWXU).unwrap();
            deepest = open(deepest.as_fd(), name).unwrap().into();
        }
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit {
            current: Some(256),
            ..before
        };
        let owner = Ids {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: vec![],
        };
        setrlimit(Resource::Nofile, few).unwrap();
        let given = give(std::fs::File::open(folder.path()).unwrap().as_fd(), &owner);
        setrlimit(Resource::Nofile, before).unwrap();
        // Whoever removes folders for tests needs a descriptor for each level.
        loop {
            let above = open(deepest.as_fd(), c"..").unwrap();
            if rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR).is_err() {
                break;
            }
            deepest = above.into();
        }
        given.unwrap();
    }
}
