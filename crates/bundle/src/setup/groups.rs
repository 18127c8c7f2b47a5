//! Mounts `/sys/fs/cgroup`: the hierarchies of the host, from the container's group down.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use kiln_sys::Errno;
use kiln_sys::confined::{self, NewDirectory};
use kiln_sys::mount::{self, Depth};
use rustix::fs::{Mode, OFlags};

use super::mounts::{self, Surroundings};
use super::options::{Options, attribute};
use crate::cgroup::Hierarchy;
use crate::error::BundleError;
use crate::spec::Mount;

/// Mounts the cgroups at `place`.
pub(super) fn make(
    mount: &Mount,
    options: &Options,
    place: BorrowedFd<'_>,
    around: &Surroundings<'_>,
) -> Result<(), BundleError> {
    let fail = || {
        let place = mount.destination.display();
        BundleError::kernel(format!("mounting cgroups at `{place}`"))
    };
    let inert = attribute::NO_SET_ID | attribute::NO_DEVICES | attribute::NO_EXECUTE;
    if around.host.version1.is_empty() {
        let Some(hierarchy) = &around.host.version2 else {
            return Ok(());
        };
        let tree = tree(hierarchy, "cgroup2", &[], around).map_err(fail())?;
        mounts::finish(tree.as_fd(), options, None).map_err(fail())?;
        return mount::attach(tree.as_fd(), place).map_err(fail());
    }
    let data = ["mode=755".to_owned(), "size=1m".to_owned()];
    let top = mounts::new_filesystem("tmpfs", Path::new("tmpfs"), &data, inert).map_err(fail())?;
    mount::attach(top.as_fd(), place).map_err(fail())?;
    // By where they are mounted: controllers may share a hierarchy.
    let mut done = Vec::new();
    for (controller, hierarchy) in &around.host.version1 {
        let Some(name) = hierarchy.mount.file_name() else {
            continue;
        };
        let bare = controller.strip_prefix("name=").unwrap_or(controller);
        if name != bare {
            match rustix::fs::symlinkat(name, &top, bare) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(fail()(errno)),
            }
        }
        if done.contains(&&hierarchy.mount) {
            continue;
        }
        done.push(&hierarchy.mount);
        let shared = around.host.version1.iter();
        let words: Vec<String> = shared
            .filter(|(_, other)| other.mount == hierarchy.mount)
            .flat_map(|(controller, _)| match controller.strip_prefix("name=") {
                Some(_) => vec!["none".to_owned(), controller.clone()],
                None => vec![controller.clone()],
            })
            .collect();
        let below = tree(hierarchy, "cgroup", &words, around).map_err(fail())?;
        mounts::finish(below.as_fd(), options, None).map_err(fail())?;
        confined::make_directory(&top, name, NewDirectory::default()).map_err(fail())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let target = confined::open_beneath(&top, name, flags, Mode::empty()).map_err(fail())?;
        mount::attach(below.as_fd(), target.as_fd()).map_err(fail())?;
    }
    mounts::finish(top.as_fd(), options, None).map_err(fail())
}

/// One hierarchy from the container's group down.
fn tree(
    hierarchy: &Hierarchy,
    kind: &str,
    words: &[String],
    around: &Surroundings<'_>,
) -> Result<std::os::fd::OwnedFd, Errno> {
    let inert = attribute::NO_SET_ID | attribute::NO_DEVICES | attribute::NO_EXECUTE;
    if around.cgroup_namespace {
        match mounts::new_filesystem(kind, Path::new("cgroup"), words, inert) {
            // In a user namespace the hierarchy may belong to somebody else: its part is shown as it is.
            Err(Errno::PERM | Errno::BUSY) => {}
            result => return result,
        }
    }
    // This process is in the container's group by now.
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|_error| Errno::IO)?;
    let wanted = words.last().map_or("", String::as_str);
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let names = fields.next()?;
        let found = names.split(',').any(|name| name == wanted);
        fields.next().filter(|_| found)
    });
    // In a cgroup namespace this is `/`, and then it is the top of what this process may see.
    let path = hierarchy.place(Path::new(own.unwrap_or("/")));
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mount::clone_tree(file.as_fd(), Depth::Recursive)
}
