//! dpkg's database of a tree whose packages were unpacked without dpkg.
//!
//! ```text
//! var/lib/dpkg/status          each package: `install ok unpacked`, its control fields, its conffiles
//!              info/format     1
//!              info/P.list     its paths;  P is `name`, or `name:arch` if it is `Multi-Arch: same`
//!              info/P.*        its control members
//!              triggers/File   who is interested in which paths; triggers/NAME who in which names
//! ```
//! After that `dpkg --configure` goes on as if dpkg had unpacked them. Configuration files are in their
//! place already, with their checksums in the status, as they are once dpkg has put them there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use kiln_layer::{Node, TreePath};
use kiln_sys::confined::{self, NewDirectory};
use md5::{Digest as _, Md5};
use rustix::fs::{self, CWD, Mode, OFlags};

use crate::install_error::InstallError;
use crate::staging::{Staged, interests};

const FOLDER: &str = "var/lib/dpkg";

/// Largest file a checksum is made of, in bytes.
const FILE_BYTES: usize = 1 << 30;

/// The database of a new tree.
#[derive(Debug)]
pub(crate) struct Database<'a> {
    root: BorrowedFd<'a>,
    status: BTreeMap<String, String>,
    /// Paths and names, and who is interested.
    interests: BTreeMap<String, BTreeSet<String>>,
    folder: OwnedFd,
    info: OwnedFd,
}

impl<'a> Database<'a> {
    /// Starts a database in the tree `root`.
    ///
    /// # Errors
    /// [`InstallError::File`].
    pub(crate) fn new(root: BorrowedFd<'a>) -> Result<Self, InstallError> {
        let folder = |path: &str| {
            confined::mkdir_all_in_root(root, path, NewDirectory::default())
                .map_err(|error| failed("make", path)(error.into()))
        };
        for name in ["alternatives", "parts", "triggers", "updates"] {
            drop(folder(&format!("{FOLDER}/{name}"))?);
        }
        Ok(Self {
            root,
            status: BTreeMap::new(),
            interests: BTreeMap::new(),
            folder: folder(FOLDER)?,
            info: folder(&format!("{FOLDER}/info"))?,
        })
    }

    /// Writes down that `package` is unpacked and has `paths`; its control members move into the
    /// database.
    ///
    /// # Errors
    /// [`InstallError`], with the path.
    pub(crate) fn add(
        &mut self,
        package: &Staged,
        paths: &BTreeSet<TreePath>,
    ) -> Result<(), InstallError> {
        let name = database_name(package);
        for (trigger, waits) in interests(&package.member("triggers")?) {
            let suffix = if waits { "" } else { "/noawait" };
            let interested = self.interests.entry(trigger).or_default();
            interested.insert(format!("{name}{suffix}"));
        }
        let mut status = String::new();
        for (at, line) in package.control.trim_end().lines().enumerate() {
            status.push_str(line);
            status.push('\n');
            if at == 0 {
                status.push_str("Status: install ok unpacked\n");
            }
        }
        let conffiles = package.conffiles()?;
        if !conffiles.is_empty() {
            status.push_str("Conffiles:\n");
            for path in &conffiles {
                let checksum = self.checksum(path)?;
                writeln!(status, " /{path} {checksum}").expect("a String takes everything");
            }
        }
        self.status.insert(name.clone(), status);
        if !package.members.iter().any(|member| member == "md5sums") {
            let conffiles: BTreeSet<&[u8]> = conffiles.iter().map(String::as_bytes).collect();
            let text = self.checksums(package, &conffiles)?;
            if !text.is_empty() {
                self.write_info(&format!("{name}.md5sums"), text.as_bytes())?;
            }
        }
        let control = package.folder.join("control");
        for member in package.members.iter().filter(|member| *member != "control") {
            let from = control.join(member);
            let to = format!("{name}.{member}");
            fs::renameat(CWD, &from, &self.info, to.as_str())
                .map_err(|error| InstallError::file("move", &from)(error.into()))?;
        }
        let mut list = Vec::new();
        for path in paths {
            list.push(b'/');
            // The root itself is written so.
            list.extend_from_slice(if path.is_root() {
                b"."
            } else {
                path.as_bytes()
            });
            list.push(b'\n');
        }
        self.write_info(&format!("{name}.list"), &list)
    }

    /// Writes what belongs to no single package.
    ///
    /// # Errors
    /// [`InstallError::File`].
    pub(crate) fn finish(self) -> Result<(), InstallError> {
        let mut status = String::new();
        for paragraph in self.status.values() {
            status.push_str(paragraph);
            status.push('\n');
        }
        self.write_info("format", b"1\n")?;
        for (name, content) in [
            ("status", status.as_str()),
            ("available", ""),
            ("diversions", ""),
            ("statoverride", ""),
        ] {
            write(&self.folder, name, content.as_bytes())
                .map_err(failed("write", &format!("{FOLDER}/{name}")))?;
        }
        let path = format!("{FOLDER}/triggers");
        let triggers = confined::mkdir_all_in_root(self.root, &path, NewDirectory::default())
            .map_err(|error| failed("open", &path)(error.into()))?;
        let mut files = String::new();
        for (trigger, interested) in &self.interests {
            let mut names = String::new();
            for name in interested {
                if trigger.starts_with('/') {
                    writeln!(files, "{trigger} {name}").expect("a String takes everything");
                } else {
                    writeln!(names, "{name}").expect("a String takes everything");
                }
            }
            // A name that could lead elsewhere is no trigger's name.
            if !trigger.starts_with('/') && !trigger.contains('/') && trigger != "File" {
                write(&triggers, trigger, names.as_bytes()).map_err(failed("write", &path))?;
            }
        }
        write(&triggers, "File", files.as_bytes()).map_err(failed("write", &path))?;
        write(&triggers, "Unincorp", b"").map_err(failed("write", &path))
    }

    fn write_info(&self, name: &str, content: &[u8]) -> Result<(), InstallError> {
        write(&self.info, name, content).map_err(failed("write", &format!("{FOLDER}/info/{name}")))
    }

    /// Returns the MD5 of a file of the tree, which is what dpkg compares configuration files by.
    fn checksum(&self, path: &str) -> Result<String, InstallError> {
        let content = confined::read_in_root(self.root, path, FILE_BYTES)
            .map_err(|error| failed("read", path)(error.into()))?;
        let mut hex = String::with_capacity(32);
        for byte in Md5::digest(&content) {
            write!(hex, "{byte:02x}").expect("a String takes everything");
        }
        Ok(hex)
    }

    /// Returns the checksums dpkg makes for a package that brings none.
    fn checksums(
        &self,
        package: &Staged,
        conffiles: &BTreeSet<&[u8]>,
    ) -> Result<String, InstallError> {
        let mut text = String::new();
        for entry in package.entries() {
            let is_file = matches!(entry.node, Node::File { .. } | Node::Hardlink { .. });
            if !is_file || conffiles.contains(entry.path.as_bytes()) {
                continue;
            }
            if let Ok(path) = std::str::from_utf8(entry.path.as_bytes()) {
                let checksum = self.checksum(path)?;
                writeln!(text, "{checksum}  {path}").expect("a String takes everything");
            }
        }
        Ok(text)
    }
}

/// Returns the name that dpkg's files about a package start with.
pub(crate) fn database_name(package: &Staged) -> String {
    let name = package.field("Package");
    if package.field("Multi-Arch") == "same" {
        format!("{name}:{}", package.field("Architecture"))
    } else {
        name.to_owned()
    }
}

/// Writes a file in an open folder, whatever the umask; a link is not followed but replaced.
fn write(folder: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let name = OsStr::new(name);
    let file = match fs::openat(folder, name, flags, mode) {
        Err(rustix::io::Errno::EXIST) => {
            fs::unlinkat(folder, name, fs::AtFlags::empty())?;
            fs::openat(folder, name, flags, mode)?
        }
        result => result?,
    };
    fs::fchmod(&file, mode)?;
    File::from(file).write_all(content)
}

fn failed(action: &'static str, path: &str) -> impl FnOnce(io::Error) -> InstallError {
    InstallError::file(action, Path::new(path))
}
