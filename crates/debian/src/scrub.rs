//! Taking out of a tree what package scripts leave there by chance.
//!
//! What depends on the clock, the machine or chance would make two builds differ, and secrets would be the
//! same in all containers of an image: logs, caches that are keyed by times, backups, ids, random
//! seeds, keys, databases that a package initialises when it is installed. What is removed is made
//! again by the program that needs it, or by one command of its package.
//!
//! Works on a whole root file system and on the upper directory of a step alike: what is removed from
//! an upper directory shows the base's again.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kiln_sys::{Errno, confined};
use rustix::fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};

mod keystore;

/// A tree that could not be scrubbed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
#[must_use]
pub struct ScrubError {
    /// What was tried.
    pub action: &'static str,
    /// Where, in the tree.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub source: io::Error,
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    /// Goes, with everything below it.
    Remove,
    /// Stays as an empty file.
    Empty,
}

/// A folder and what becomes of what is in it.
struct Rule {
    folder: &'static str,
    /// Whether folders below are treated the same.
    deep: bool,
    fate: fn(&[u8], &Stat) -> Fate,
}

const RULES: &[Rule] = &[
    Rule {
        folder: "var/log",
        deep: true,
        fate: |name, stat| match name {
            _ if !is_file(stat) || stat.st_size == 0 => Fate::Keep,
            // Records that programs append to only if they are there.
            b"wtmp" | b"btmp" | b"lastlog" | b"faillog" => Fate::Empty,
            _ => Fate::Remove,
        },
    },
    Rule {
        folder: "var/cache/ldconfig",
        deep: false,
        fate: |name, _| remove_if(name == b"aux-cache"),
    },
    // Keyed by the times of folders.
    Rule {
        folder: "var/cache/fontconfig",
        deep: false,
        fate: |name, stat| remove_if(is_file(stat) && name != b"CACHEDIR.TAG"),
    },
    // Keyed by the times of pages.
    Rule {
        folder: "var/cache/man",
        deep: true,
        fate: |_, stat| remove_if(is_file(stat)),
    },
    Rule {
        folder: "var/cache/debconf",
        deep: false,
        fate: |name, _| remove_if(name.ends_with(b"-old")),
    },
    Rule {
        folder: "var/lib/dpkg",
        deep: false,
        fate: |name, _| remove_if(name.ends_with(b"-old")),
    },
    Rule {
        folder: "var/lib/ucf",
        deep: false,
        fate: |name, _| {
            remove_if(name.len() > 2 && name[name.len() - 2] == b'.' && name.ends_with_digit())
        },
    },
    Rule {
        folder: "var/cache/apt",
        deep: false,
        fate: |name, _| remove_if(name.ends_with(b".bin")),
    },
    Rule {
        folder: "var/cache/apt/archives",
        deep: true,
        fate: |name, stat| remove_if(is_file(stat) && name.ends_with(b".deb")),
    },
    Rule {
        folder: "var/lib/apt/lists",
        deep: true,
        fate: |_, stat| remove_if(is_file(stat)),
    },
    Rule {
        folder: "etc",
        deep: false,
        fate: |name, stat| match name {
            b".pwd.lock" | b"passwd-" | b"group-" | b"shadow-" | b"gshadow-" | b"subuid-"
            | b"subgid-" => Fate::Remove,
            // Empty means: to be filled at the first start.
            b"machine-id" if is_file(stat) && stat.st_size > 0 => Fate::Empty,
            _ => Fate::Keep,
        },
    },
    Rule {
        folder: "var/lib/dbus",
        deep: false,
        fate: |name, stat| remove_if(name == b"machine-id" && is_file(stat)),
    },
    Rule {
        folder: "var/lib/systemd",
        deep: false,
        fate: |name, _| remove_if(name == b"random-seed" || name == b"credential.secret"),
    },
    Rule {
        folder: "etc/ssh",
        deep: false,
        fate: |name, _| remove_if(name.starts_with(b"ssh_host_")),
    },
    Rule {
        folder: "etc/ssl/private",
        deep: false,
        fate: |name, _| remove_if(name == b"ssl-cert-snakeoil.key"),
    },
    Rule {
        folder: "etc/ssl/certs",
        deep: false,
        fate: |name, _| remove_if(name == b"ssl-cert-snakeoil.pem"),
    },
    // Clusters made by the package's script: `pg_createcluster VERSION main` makes one.
    Rule {
        folder: "etc/postgresql",
        deep: true,
        fate: |name, stat| remove_if(name == b"main" && is_folder(stat)),
    },
    Rule {
        folder: "var/lib/postgresql",
        deep: true,
        fate: |name, stat| remove_if(name == b"main" && is_folder(stat)),
    },
    // Likewise `mariadb-install-db`.
    Rule {
        folder: "var/lib/mysql",
        deep: false,
        fate: |_, _| Fate::Remove,
    },
    Rule {
        folder: "run",
        deep: true,
        fate: |_, stat| remove_if(!is_folder(stat)),
    },
    Rule {
        folder: "tmp",
        deep: false,
        fate: |_, _| Fate::Remove,
    },
    Rule {
        folder: "var/tmp",
        deep: false,
        fate: |_, _| Fate::Remove,
    },
];

/// Where Java's package keeps certificates, with the times they were added.
const JAVA_CERTIFICATES: (&str, &str) = ("etc/ssl/certs/java", "cacerts");

/// Largest keystore read, in bytes.
const KEYSTORE_BYTES: usize = 16 << 20;

trait EndsWithDigit {
    fn ends_with_digit(&self) -> bool;
}

impl EndsWithDigit for [u8] {
    fn ends_with_digit(&self) -> bool {
        self.last().is_some_and(u8::is_ascii_digit)
    }
}

fn remove_if(condition: bool) -> Fate {
    if condition { Fate::Remove } else { Fate::Keep }
}

fn is_file(stat: &Stat) -> bool {
    confined::file_type(stat) == FileType::RegularFile
}

fn is_folder(stat: &Stat) -> bool {
    confined::file_type(stat) == FileType::Directory
}

/// Scrubs the tree at `root`. Times in files that hold some are set to `epoch` if they are after it.
///
/// # Errors
/// [`ScrubError`] with the path.
pub fn scrub(root: &Path, epoch: i64) -> Result<(), ScrubError> {
    let opened = fs::open(root, DIRECTORY, Mode::empty());
    let root = opened.map_err(|error| failed("open", root)(error.into()))?;
    for rule in RULES {
        if let Some(folder) = open_folder(&root, rule.folder)? {
            apply(rule, &folder, Path::new(rule.folder))?;
        }
    }
    drop_dead_links(&root)?;
    settle_keystore(&root, epoch)
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a folder of the tree; `None` if there is none, or a link is on the way: what it leads to has a
/// rule of its own or none.
fn open_folder(root: &OwnedFd, path: &str) -> Result<Option<OwnedFd>, ScrubError> {
    match confined::open_beneath(root, path, DIRECTORY, Mode::empty()) {
        Ok(folder) => Ok(Some(folder)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(failed("open", Path::new(path))(error.into())),
    }
}

fn apply(rule: &Rule, folder: &OwnedFd, path: &Path) -> Result<(), ScrubError> {
    for (name, stat) in entries(folder, path)? {
        let entry = path.join(OsStr::from_bytes(&name));
        match (rule.fate)(&name, &stat) {
            Fate::Remove => remove(folder.as_fd(), &name, &entry)?,
            Fate::Empty => replace(folder, &name, &stat, b"").map_err(failed("empty", &entry))?,
            Fate::Keep if rule.deep && is_folder(&stat) => {
                let below = fs::openat(folder, OsStr::from_bytes(&name), DIRECTORY, Mode::empty());
                let below = below.map_err(|error| failed("open", &entry)(error.into()))?;
                apply(rule, &below, &entry)?;
            }
            Fate::Keep => {}
        }
    }
    Ok(())
}

/// Returns the names in a folder, in order, with what they are. Removals that overlay marks are none of
/// ours.
fn entries(folder: &OwnedFd, path: &Path) -> Result<Vec<(Vec<u8>, Stat)>, ScrubError> {
    let list = || -> Result<Vec<(Vec<u8>, Stat)>, Errno> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = fs::statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
            if confined::file_type(&stat) != FileType::CharacterDevice {
                entries.push((name.to_vec(), stat));
            }
        }
        entries.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(entries)
    };
    list().map_err(|error| failed("list", path)(error.into()))
}

fn remove(folder: BorrowedFd<'_>, name: &[u8], path: &Path) -> Result<(), ScrubError> {
    kiln_layer::remove_tree(folder, name).map_err(failed("remove", path))
}

/// Puts a file with the same owner and mode in the place of another. Not in the old file itself, which may
/// have other names.
fn replace(folder: &OwnedFd, name: &[u8], stat: &Stat, content: &[u8]) -> io::Result<()> {
    let temporary = ".kiln-scrub";
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(folder, temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let now = fs::fstat(&file)?;
    // Who cannot change owners has only one anyway.
    if (now.st_uid, now.st_gid) != (stat.st_uid, stat.st_gid) {
        let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fs::fchown(&file, Some(user), Some(group))?;
    }
    fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode))?;
    File::from(file).write_all(content)?;
    fs::renameat(folder, temporary, folder, OsStr::from_bytes(name))?;
    Ok(())
}

/// Removes the links by hash to a certificate that was removed.
fn drop_dead_links(root: &OwnedFd) -> Result<(), ScrubError> {
    let path = "etc/ssl/certs";
    let Some(folder) = open_folder(root, path)? else {
        return Ok(());
    };
    for (name, stat) in entries(&folder, Path::new(path))? {
        if confined::file_type(&stat) != FileType::Symlink {
            continue;
        }
        let entry = Path::new(path).join(OsStr::from_bytes(&name));
        let target = fs::readlinkat(&folder, OsStr::from_bytes(&name), Vec::new())
            .map_err(|error| failed("read", &entry)(error.into()))?;
        if target.as_bytes() == b"ssl-cert-snakeoil.pem" {
            remove(folder.as_fd(), &name, &entry)?;
        }
    }
    Ok(())
}

fn settle_keystore(root: &OwnedFd, epoch: i64) -> Result<(), ScrubError> {
    let (path, name) = JAVA_CERTIFICATES;
    let Some(folder) = open_folder(root, path)? else {
        return Ok(());
    };
    let entry = Path::new(path).join(name);
    let stat = match fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is_file(&stat) => stat,
        Ok(_) | Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(failed("look at", &entry)(error.into())),
    };
    let content = confined::read_in_root(&folder, name, KEYSTORE_BYTES)
        .map_err(|error| failed("read", &entry)(error.into()))?;
    match keystore::settle(&content, epoch) {
        Some(settled) if settled != content => {
            replace(&folder, name.as_bytes(), &stat, &settled).map_err(failed("write", &entry))
        }
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ScrubError {
    move |source| ScrubError {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    fn left(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![root.to_owned()];
        while let Some(folder) = pending.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    pending.push(path);
                } else {
                    let name = path.strip_prefix(root).unwrap().display().to_string();
                    let size = path.symlink_metadata().unwrap().len();
                    found.push(format!("{name} {size}"));
                }
            }
        }
        found.sort_unstable();
        found
    }

    #[test]
    fn what_is_left_by_chance_goes_and_the_rest_stays() {
        let root = tree(&[
            ("var/log/dpkg.log", "x"),
            ("var/log/apt/term.log", "x"),
            ("var/log/wtmp", "x"),
            ("var/log/empty", ""),
            ("var/cache/ldconfig/aux-cache", "x"),
            ("var/cache/debconf/config.dat", "x"),
            ("var/cache/debconf/config.dat-old", "x"),
            ("var/cache/man/de/index.db", "x"),
            ("var/lib/dpkg/status", "x"),
            ("var/lib/dpkg/status-old", "x"),
            ("var/lib/ucf/hashfile", "x"),
            ("var/lib/ucf/hashfile.0", "x"),
            ("etc/machine-id", "x"),
            ("etc/passwd", "x"),
            ("etc/passwd-", "x"),
            ("etc/ssh/ssh_host_rsa_key", "x"),
            ("etc/ssh/sshd_config", "x"),
            ("etc/ssl/certs/ssl-cert-snakeoil.pem", "x"),
            ("etc/ssl/certs/good.pem", "x"),
            ("var/lib/postgresql/15/main/PG_VERSION", "x"),
            ("etc/postgresql/15/main/postgresql.conf", "x"),
            ("run/adduser", "x"),
            ("run/lock/file", "x"),
            ("tmp/x/y", "x"),
        ]);
        symlink(
            "ssl-cert-snakeoil.pem",
            root.path().join("etc/ssl/certs/1234abcd.0"),
        )
        .unwrap();
        symlink("good.pem", root.path().join("etc/ssl/certs/5678abcd.0")).unwrap();
        let wtmp = root.path().join("var/log/wtmp");
        std::fs::set_permissions(&wtmp, std::fs::Permissions::from_mode(0o664)).unwrap();
        scrub(root.path(), 0).unwrap();
        assert_eq!(
            left(root.path()),
            [
                "etc/machine-id 0",
                "etc/passwd 1",
                "etc/ssh/sshd_config 1",
                "etc/ssl/certs/5678abcd.0 8",
                "etc/ssl/certs/good.pem 1",
                "var/cache/debconf/config.dat 1",
                "var/lib/dpkg/status 1",
                "var/lib/ucf/hashfile 1",
                "var/log/empty 0",
                "var/log/wtmp 0",
            ]
        );
        assert!(root.path().join("run/lock").is_dir(), "folders stay");
        let mode = wtmp.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o664);
    }

    #[test]
    fn nothing_outside_the_tree_is_touched() {
        let outside = tree(&[("log/secret.log", "x"), ("tmp/file", "x")]);
        let root = tree(&[("var/log/real.log", "x")]);
        symlink(outside.path().join("tmp"), root.path().join("tmp")).unwrap();
        symlink(outside.path().join("log"), root.path().join("var/log/link")).unwrap();
        symlink(outside.path().join("log"), root.path().join("run")).unwrap();
        scrub(root.path(), 0).unwrap();
        assert_eq!(left(outside.path()), ["log/secret.log 1", "tmp/file 1"]);
    }

    #[test]
    fn an_empty_tree_is_fine() {
        scrub(tree(&[]).path(), 0).unwrap();
    }
}
