//! What is known of a container between two commands: one folder for each, below the runtime's root.
//!
//! ```text
//! <root>/<id>/state.json   what never changes, and the first process by number and start time
//! <root>/<id>/config.json  the bundle's, as it was when the container was made
//! <root>/<id>/lock         held by a command that changes the container
//! <root>/<id>/start        socket on which the first process waits; gone once it was told to start
//! ```
//!
//! The status of a container is not in there: it follows from whether its process lives and what it waits for.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::error::BundleError;
use crate::spec::Spec;

/// Longest id of a container.
const LONGEST_ID: usize = 1024;

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is being made.
    Creating,
    /// It waits to be started.
    Created,
    /// Its program runs.
    Running,
    /// All its processes are stopped for a while.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What is kept of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    /// The root file system on the host.
    pub(crate) rootfs: PathBuf,
    /// When it was made, as text.
    pub(crate) created: String,
    /// Who made it.
    pub(crate) owner: u32,
    /// The first process; 0 until there is one.
    pub(crate) pid: i32,
    /// When that was started, in the kernel's ticks since the machine was.
    pub(crate) start_time: u64,
    pub(crate) group: Group,
    /// Whether its processes have a session keyring of its own.
    pub(crate) keyring: bool,
}

/// The folder of a container.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    id: String,
}

/// Checks an id; it becomes the name of a folder.
pub(crate) fn check_id(id: &str) -> Result<(), BundleError> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_+-.".contains(letter);
    if id.is_empty() || id == "." || id == ".." || id.len() > LONGEST_ID || !id.chars().all(plain) {
        let problem =
            format!("invalid container id `{id}`: it takes letters, digits, `_`, `+`, `-` and `.`");
        return Err(BundleError::Invalid { problem });
    }
    Ok(())
}

impl Folder {
    /// Makes the folder of a new container.
    pub(crate) fn make(root: &Path, id: &str) -> Result<Self, BundleError> {
        check_id(id)?;
        let mut builder = fs::DirBuilder::new();
        builder
            .mode(0o700)
            .recursive(true)
            .create(root)
            .map_err(BundleError::file("make the folder", root))?;
        let path = root.join(id);
        match builder.recursive(false).create(&path) {
            Ok(()) => Ok(Self {
                path,
                id: id.to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(BundleError::Exists { id: id.to_owned() })
            }
            Err(error) => Err(BundleError::file("make the folder", &path)(error)),
        }
    }

    /// Finds the folder of a container.
    pub(crate) fn find(root: &Path, id: &str) -> Result<Self, BundleError> {
        check_id(id)?;
        let path = root.join(id);
        if path.is_dir() {
            let id = id.to_owned();
            Ok(Self { path, id })
        } else {
            Err(BundleError::Missing { id: id.to_owned() })
        }
    }

    /// The ids of all containers.
    pub(crate) fn all(root: &Path) -> Result<Vec<String>, BundleError> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(BundleError::file("read", root))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(BundleError::file("read", root))?;
            if let Ok(name) = entry.file_name().into_string()
                && check_id(&name).is_ok()
                && entry.path().is_dir()
            {
                ids.push(name);
            }
        }
        ids.sort();
        Ok(ids)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the first process waits.
    pub(crate) fn start_socket(&self) -> PathBuf {
        self.path.join("start")
    }

    /// Keeps other commands from changing the container until it is dropped.
    pub(crate) fn lock(&self) -> Result<OwnedFd, BundleError> {
        let path = self.path.join("lock");
        let fail = || BundleError::kernel(format!("locking `{}`", path.display()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            Err(Errno::NOENT) => {
                return Err(BundleError::Missing {
                    id: self.id.clone(),
                });
            }
            result => result.map_err(fail())?,
        };
        // A lock of this process alone: those it starts would hold another kind for as long as they live.
        rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).map_err(fail())?;
        Ok(file)
    }

    /// Writes a file as a whole.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), BundleError> {
        let text = serde_json::to_vec(value).map_err(|error| {
            BundleError::invalid(format!("writing {name} of `{}`: {error}", self.id))
        })?;
        let draft = self.path.join(format!("{name}.new"));
        fs::write(&draft, text).map_err(BundleError::file("write", &draft))?;
        let path = self.path.join(name);
        fs::rename(&draft, &path).map_err(BundleError::file("write", &path))
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<T, BundleError> {
        let path = self.path.join(name);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BundleError::Missing {
                    id: self.id.clone(),
                });
            }
            result => result.map_err(BundleError::file("read", &path))?,
        };
        serde_json::from_slice(&text)
            .map_err(|error| BundleError::invalid(format!("`{}`: {error}", path.display())))
    }

    pub(crate) fn save(&self, record: &Record) -> Result<(), BundleError> {
        self.write("state.json", record)
    }

    pub(crate) fn save_spec(&self, spec: &Spec) -> Result<(), BundleError> {
        self.write("config.json", spec)
    }

    pub(crate) fn record(&self) -> Result<Record, BundleError> {
        self.read("state.json")
    }

    pub(crate) fn spec(&self) -> Result<Spec, BundleError> {
        self.read("config.json")
    }

    /// Removes the folder with all that is in it.
    pub(crate) fn remove(&self) -> Result<(), BundleError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(BundleError::file("remove", &self.path)),
        }
    }
}

/// When a process was started, in ticks; nothing if it has ended.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have anything in it, closing brackets too.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

impl Record {
    /// Whether the first process lives.
    pub(crate) fn is_alive(&self) -> bool {
        self.pid > 0 && start_time(self.pid) == Some(self.start_time)
    }

    /// What the container does.
    pub(crate) fn status(&self, folder: &Folder) -> Status {
        if self.pid == 0 {
            return Status::Creating;
        }
        if !self.is_alive() {
            return Status::Stopped;
        }
        if self.group.is_frozen() {
            return Status::Paused;
        }
        if folder.start_socket().exists() {
            Status::Created
        } else {
            Status::Running
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_folders() {
        for id in ["a", "3d-B_x.y+z", "..."] {
            check_id(id).unwrap();
        }
        for id in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(check_id(id).is_err());
        }
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_time(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(i32::MAX), None);
    }
}
