//! The ordinary users that a part of the suite runs as.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::process::{Failure, Outcome, run};

/// An ordinary user of this machine.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether `newuidmap` may map a range of ids for this user.
    pub(crate) has_subordinate_ids: bool,
}

impl Account {
    /// Finds or creates the two users. They stay, as installed packages do.
    pub(crate) fn ensure_both() -> Outcome<Vec<Self>> {
        Ok(vec![
            Self::ensure("kiln-test", true)?,
            Self::ensure("kiln-plain", false)?,
        ])
    }

    fn ensure(name: &str, has_subordinate_ids: bool) -> Outcome<Self> {
        let (uid, gid) = if let Some(ids) = look_up(name)? {
            ids
        } else {
            let mut useradd = Command::new("useradd");
            useradd.args([
                "--no-create-home",
                "--user-group",
                "--shell",
                "/usr/sbin/nologin",
            ]);
            if !has_subordinate_ids {
                // System accounts get no subordinate ids.
                useradd.arg("--system");
            }
            run(useradd.arg(name))?;
            look_up(name)?.ok_or_else(|| Failure(format!("`useradd` made no user `{name}`")))?
        };
        if has_subordinate_ids && !has_range(name)? {
            run(Command::new("usermod").args([
                "--add-subuids",
                "524288-589823",
                "--add-subgids",
                "524288-589823",
                name,
            ]))?;
        }
        Ok(Self {
            name: name.to_owned(),
            uid,
            gid,
            has_subordinate_ids,
        })
    }
}

/// Whether this process may become other users.
pub(crate) fn is_root() -> Outcome<bool> {
    let own = fs::metadata("/proc/self").map_err(|error| Failure::io("/proc/self", &error))?;
    Ok(own.uid() == 0)
}

/// Makes `account` the owner of a folder and all in it.
pub(crate) fn give(folder: &Path, account: &Account) -> Outcome {
    run(Command::new("chown")
        .arg("-R")
        .arg(format!("{}:{}", account.uid, account.gid))
        .arg(folder))
}

fn look_up(name: &str) -> Outcome<Option<(u32, u32)>> {
    let text = read_database("/etc/passwd")?;
    Ok(text.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.first() != Some(&name) {
            return None;
        }
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    }))
}

fn has_range(name: &str) -> Outcome<bool> {
    let prefix = format!("{name}:");
    Ok(read_database("/etc/subuid")?
        .lines()
        .any(|line| line.starts_with(&prefix)))
}

fn read_database(path: &str) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| Failure::io(path, &error))
}
