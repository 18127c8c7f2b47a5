//! One folder below which every test of a run works.
//!
//! Because all of it is in one place, what tests leave behind can be found
//! without guessing which mounts and processes of the machine are ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::accounts::{Account, give, is_root};
use crate::process::{Failure, Outcome, run};

/// The folder; removed by [`Scratch::remove`].
pub(crate) struct Scratch {
    path: PathBuf,
    is_mount: bool,
}

impl Scratch {
    /// Makes the folder, on a file system that can be the upper side of an overlay.
    pub(crate) fn create() -> Outcome<Self> {
        let name = format!("kiln-{}", std::process::id());
        let parents = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
        let suitable = parents.iter().find(|parent| !is_overlay(parent));
        let path = suitable.unwrap_or(&parents[0]).join(name);
        fs::create_dir(&path).map_err(|error| Failure::io(&path, &error))?;
        open_to_all(&path)?;
        // In a container the whole disk is an overlay, which cannot carry another one.
        let is_mount = suitable.is_none() && is_root()?;
        if is_mount {
            run(Command::new("mount")
                .args(["-t", "tmpfs", "tmpfs"])
                .arg(&path))?;
        }
        Ok(Self { path, is_mount })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A folder for `TMPDIR`, open to all as `/tmp` is.
    pub(crate) fn temporary_folder(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.path.join("t").join(name);
        fs::create_dir_all(&path).map_err(|error| Failure::io(&path, &error))?;
        open_to_all(&path)?;
        Ok(path)
    }

    /// A home for `account`.
    pub(crate) fn folder_of(&self, account: &Account) -> Outcome<PathBuf> {
        let path = self.path.join("home").join(&account.name);
        fs::create_dir_all(&path).map_err(|error| Failure::io(&path, &error))?;
        give(&path, account)?;
        Ok(path)
    }

    /// Removes the folder and all in it.
    pub(crate) fn remove(self) -> Outcome {
        if self.is_mount {
            run(Command::new("umount").arg(&self.path))?;
        }
        fs::remove_dir_all(&self.path).map_err(|error| Failure::io(&self.path, &error))
    }
}

fn open_to_all(path: &Path) -> Outcome {
    fs::set_permissions(path, fs::Permissions::from_mode(0o1777))
        .map_err(|error| Failure::io(path, &error))
}

/// Whether `path` is on an overlay file system.
fn is_overlay(path: &Path) -> bool {
    let Ok(output) = Command::new("stat")
        .args(["--file-system", "--format=%T"])
        .arg(path)
        .output()
    else {
        return false;
    };
    String::from_utf8_lossy(&output.stdout).trim() == "overlayfs"
}
