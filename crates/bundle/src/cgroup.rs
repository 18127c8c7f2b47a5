//! The cgroup of a container: where it is, what is in it, its limits.
//!
//! A host has one of three layouts: version 2 alone, version 1, or version 1 with a version 2 beside it (hybrid).
//! A [`Group`] is the same path in every hierarchy that there is.

mod device_filter;
mod entrance;
mod host;
mod version1;
mod version2;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::BundleError;
use crate::spec::Resources;

pub(crate) use entrance::{Entrance, Unified};
pub(crate) use host::{Hierarchy, Host};

/// How long a group whose last process was killed may take to be empty.
const EMPTYING: Duration = Duration::from_secs(2);
/// How long freezing may take.
const FREEZING: Duration = Duration::from_secs(10);

/// A cgroup in every hierarchy of the host.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Group {
    /// Of version 1, by controller.
    pub(crate) version1: BTreeMap<String, PathBuf>,
    /// Of version 2.
    pub(crate) version2: Option<PathBuf>,
    /// Whether version 2 has the controllers.
    pub(crate) unified: bool,
}

impl Group {
    /// Makes the group `path` (absolute from the root of each hierarchy, else from where this process is).
    ///
    /// Without the right to, and with `lenient`, there is no group.
    pub(crate) fn make(host: &Host, path: &Path, lenient: bool) -> Result<Self, BundleError> {
        let mut group = Self {
            unified: host.version1.is_empty(),
            ..Self::default()
        };
        for (controller, hierarchy) in &host.version1 {
            let directory = hierarchy.place(path);
            match version1::make(hierarchy, &directory, controller) {
                Ok(()) => {
                    group.version1.insert(controller.clone(), directory);
                }
                Err(error) if lenient || !is_needed(controller) => {
                    tracing::debug!("no cgroup `{}`: {error}", directory.display());
                }
                Err(error) => {
                    return Err(BundleError::file("make the cgroup", &directory)(error));
                }
            }
        }
        if let Some(hierarchy) = &host.version2 {
            let directory = hierarchy.place(path);
            match version2::make(hierarchy, &directory, group.unified) {
                Ok(()) => group.version2 = Some(directory),
                Err(error) if lenient || !group.unified => {
                    tracing::debug!("no cgroup `{}`: {error}", directory.display());
                }
                Err(error) => {
                    return Err(BundleError::file("make the cgroup", &directory)(error));
                }
            }
        }
        Ok(group)
    }

    /// Every directory of the group, each once.
    pub(crate) fn directories(&self) -> Vec<&Path> {
        let mut all: Vec<&Path> = self.version1.values().map(PathBuf::as_path).collect();
        all.extend(self.version2.as_deref());
        all.sort();
        all.dedup();
        all
    }

    /// The group `path` below this one, which must be there already; of these controllers alone, if some are named.
    pub(crate) fn below(&self, path: &Path, controllers: &[String]) -> Result<Self, BundleError> {
        if path.components().any(|part| part == Component::ParentDir) {
            let problem = format!("--cgroup: {} is not a sub cgroup path", path.display());
            return Err(BundleError::Invalid { problem });
        }
        let is_known = |name: &&String| self.version1.contains_key(name.as_str());
        if let Some(unknown) = controllers.iter().find(|name| !is_known(name)) {
            let problem =
                format!("--cgroup: the container has no group of the controller `{unknown}`");
            return Err(BundleError::Invalid { problem });
        }
        let place = |directory: &PathBuf| {
            names(path).fold(directory.clone(), |place, name| place.join(name))
        };
        let is_meant = |name: &String| controllers.is_empty() || controllers.contains(name);
        let below = Self {
            version1: self
                .version1
                .iter()
                .filter(|(controller, _)| is_meant(controller))
                .map(|(controller, directory)| (controller.clone(), place(directory)))
                .collect(),
            version2: self
                .version2
                .as_ref()
                .filter(|_| controllers.is_empty())
                .map(place),
            unified: self.unified,
        };
        match below.main().filter(|directory| !directory.is_dir()) {
            None => Ok(below),
            Some(missing) => Err(BundleError::invalid(format!(
                "--cgroup: `{}` is not there",
                missing.display()
            ))),
        }
    }

    /// Takes those of `other`, as far as it has some.
    pub(crate) fn replace_by(&mut self, other: Self) {
        self.version1.extend(other.version1);
        self.version2 = other.version2.or_else(|| self.version2.take());
    }

    /// Sets limits. What is not said stays as it is.
    pub(crate) fn limit(&self, resources: &Resources) -> Result<(), BundleError> {
        if self.unified {
            version2::limit(self.version2.as_deref(), resources)
        } else {
            version1::limit(&self.version1, resources)?;
            version2::limit_hybrid(self.version2.as_deref(), resources, &self.version1)
        }
    }

    /// The directory that says what is in the group, and how to freeze it.
    fn main(&self) -> Option<&Path> {
        if self.unified {
            return self.version2.as_deref();
        }
        let known = ["freezer", "pids", "memory", "devices"]
            .iter()
            .find_map(|name| self.version1.get(*name));
        known
            .or_else(|| self.version1.values().next())
            .map(PathBuf::as_path)
    }

    /// The processes in the group and those below, by their number in this process' own namespace.
    pub(crate) fn processes(&self) -> Result<Vec<i32>, BundleError> {
        let mut all = Vec::new();
        if let Some(directory) = self.main() {
            collect(directory, &mut all).map_err(BundleError::file("read", directory))?;
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Whether the group is frozen, or about to be.
    pub(crate) fn is_frozen(&self) -> bool {
        let state = match (self.unified, self.version1.get("freezer")) {
            (true, _) => self
                .version2
                .as_deref()
                .map(|path| path.join("cgroup.freeze")),
            (false, freezer) => freezer.map(|path| path.join("freezer.state")),
        };
        let text = state.and_then(|path| fs::read_to_string(path).ok());
        text.is_some_and(|text| matches!(text.trim(), "1" | "FROZEN" | "FREEZING"))
    }

    /// Stops every process in the group, or lets them go on. Returns when they have stopped.
    pub(crate) fn freeze(&self, freeze: bool) -> Result<(), BundleError> {
        let deadline = Instant::now() + FREEZING;
        if self.unified {
            let directory = self.version2.as_deref().ok_or_else(no_freezer)?;
            let file = directory.join("cgroup.freeze");
            fs::write(&file, if freeze { "1" } else { "0" })
                .map_err(BundleError::file("write", &file))?;
            let wanted = format!("frozen {}", u8::from(freeze));
            let events = directory.join("cgroup.events");
            while !fs::read_to_string(&events)
                .is_ok_and(|text| text.lines().any(|line| line == wanted))
            {
                pause_until(deadline, "freezing the container")?;
            }
            return Ok(());
        }
        let directory = self.version1.get("freezer").ok_or_else(no_freezer)?;
        let file = directory.join("freezer.state");
        let wanted = if freeze { "FROZEN" } else { "THAWED" };
        loop {
            // Again, since a process that forks meanwhile can keep the kernel from finishing.
            fs::write(&file, wanted).map_err(BundleError::file("write", &file))?;
            let now = fs::read_to_string(&file).map_err(BundleError::file("read", &file))?;
            if now.trim() == wanted {
                return Ok(());
            }
            pause_until(deadline, "freezing the container")?;
        }
    }

    /// Removes the group, once everything in it is gone.
    pub(crate) fn remove(&self) -> Result<(), BundleError> {
        let deadline = Instant::now() + EMPTYING;
        for directory in self.directories() {
            while let Err(error) = remove_tree(directory) {
                if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                    return Err(BundleError::file("remove the cgroup", directory)(error));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// A file of the group as text, for statistics.
    pub(crate) fn read(&self, controller: &str, file: &str) -> Option<String> {
        let directory = if self.unified {
            self.version2.as_deref()
        } else {
            self.version1.get(controller).map(PathBuf::as_path)
        };
        fs::read_to_string(directory?.join(file)).ok()
    }
}

#[cfg(any(test, feature = "fuzz"))]
/// Reads what limits say, as far as that needs no group.
pub(crate) fn examine(resources: &Resources) {
    if let Ok(lines) = device_filter::version1(&resources.devices) {
        assert!(lines.iter().all(|(_, line)| !line.contains('\n')));
    }
    drop((
        device_filter::permits(&resources.devices),
        version2::limit(None, resources),
    ));
}

/// The names in a path, which can only lead down.
fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
    path.components().filter_map(|part| {
        if let Component::Normal(name) = part {
            Some(name)
        } else {
            None
        }
    })
}

/// Controllers of version 1 without which a container would not be contained.
fn is_needed(controller: &str) -> bool {
    matches!(controller, "devices" | "freezer" | "memory" | "pids")
}

fn no_freezer() -> BundleError {
    BundleError::invalid("the container has no cgroup with a freezer")
}

fn pause_until(deadline: Instant, action: &str) -> Result<(), BundleError> {
    if Instant::now() > deadline {
        return Err(BundleError::kernel(action)(kiln_sys::Errno::TIMEDOUT));
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

fn collect(directory: &Path, all: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A threaded group has its processes above.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
        result => result?,
    };
    all.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), all)?;
        }
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Writes into a file of a group.
fn write(directory: &Path, file: &str, value: impl AsRef<str>) -> Result<(), BundleError> {
    let path = directory.join(file);
    let value = value.as_ref();
    fs::write(&path, value).map_err(|error| {
        let action = format!("setting `{}` to `{}`", path.display(), value.trim());
        let errno = error
            .raw_os_error()
            .map_or(kiln_sys::Errno::IO, kiln_sys::Errno::from_raw_os_error);
        BundleError::kernel(action)(errno)
    })
}
