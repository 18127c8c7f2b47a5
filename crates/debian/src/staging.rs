//! One package, unpacked beside its place.
//!
//! The two archives of a package are unpacked by the same code that unpacks image layers, each into an
//! empty folder of its own, so that nothing in them can reach anything else. What is then known of
//! the package is what [`merge`](crate::merge) puts in its place and [`database`](crate::database)
//! writes down.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use kiln_layer::{Node, Ownership, TreeIndex, UnpackLimits, UnpackOptions};
use rustix::fs::{Mode, OFlags};

use crate::control;
use crate::deb::Deb;
use crate::install_error::InstallError;
use crate::lock::LockedPackage;
use crate::repack::repack;

/// Limits on what one package may hold; Debian's largest are a tenth of it.
const LIMITS: UnpackLimits = UnpackLimits {
    entries: 1_000_000,
    tar_bytes: 32 << 30,
    index_bytes: 256 << 20,
};

/// Largest control text or script, in bytes.
const CONTROL_BYTES: u64 = 16 << 20;

/// A package unpacked into a folder of its own.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Holds `control` and `data`.
    pub(crate) folder: PathBuf,
    /// The paragraph of the control file, as it is written.
    pub(crate) control: String,
    /// The control members, by name.
    pub(crate) members: Vec<String>,
    /// Name and version, for messages.
    pub(crate) name: String,
    /// The files of the package, once they are unpacked.
    files: Option<TreeIndex>,
    deb: Deb,
}

/// How packages are unpacked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StagingOptions {
    /// Times after this second are set to it.
    pub(crate) epoch: i64,
    /// Whether owners are kept.
    pub(crate) ownership: Ownership,
}

impl Staged {
    /// Unpacks the control members of the package file at `path`, which must be `package`, into the new
    /// folder `folder`.
    ///
    /// # Errors
    /// [`InstallError`], with the package.
    pub(crate) fn open(
        package: &LockedPackage,
        path: &Path,
        folder: PathBuf,
        options: StagingOptions,
    ) -> Result<Self, InstallError> {
        let name = package.id().to_string();
        let deb = Deb::open(path)?;
        let archive = deb.control().map_err(|source| InstallError::Read {
            package: name.clone(),
            source,
        })?;
        let members = unpack_into(archive, &folder.join("control"), options, &name)?;
        let staged = Self {
            control: read_text(&folder.join("control/control"))?,
            members: plain_names(&members, &name)?,
            files: None,
            name,
            deb,
            folder,
        };
        staged.check(package)?;
        Ok(staged)
    }

    /// Unpacks the files beside the control members.
    ///
    /// # Errors
    /// [`InstallError`], with the package.
    pub(crate) fn unpack(&mut self, options: StagingOptions) -> Result<(), InstallError> {
        let archive = self.deb.data().map_err(|source| InstallError::Read {
            package: self.name.clone(),
            source,
        })?;
        let files = unpack_into(archive, &self.folder.join("data"), options, &self.name)?;
        self.files = Some(files);
        Ok(())
    }

    /// Returns whether the files are unpacked.
    pub(crate) fn is_unpacked(&self) -> bool {
        self.files.is_some()
    }

    /// Writes the package to the new file `to` in the form that dpkg unpacks fastest.
    ///
    /// # Errors
    /// [`InstallError`], with the package or the path.
    pub(crate) fn repack(&self, to: &Path, epoch: i64) -> Result<(), InstallError> {
        repack(&self.name, &self.deb, to, epoch)
    }

    /// Returns the entries of the unpacked files; none before they are.
    pub(crate) fn entries(&self) -> &[kiln_layer::Entry] {
        self.files.as_ref().map_or(&[], TreeIndex::entries)
    }

    /// Checks that the package is the one it was taken for.
    fn check(&self, package: &LockedPackage) -> Result<(), InstallError> {
        let found = ["Package", "Version", "Architecture"].map(|field| self.field(field));
        let wanted = [&package.name, &package.version, &package.architecture];
        if found
            .iter()
            .zip(wanted)
            .any(|(found, wanted)| found != wanted)
        {
            return Err(InstallError::OtherPackage {
                wanted: format!("{} ({})", package.id(), package.architecture),
                found: format!("{}={} ({})", found[0], found[1], found[2]),
            });
        }
        Ok(())
    }

    /// Returns a field of the control paragraph; empty if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        control::paragraphs(&self.control)
            .next()
            .and_then(Result::ok)
            .and_then(|paragraph| paragraph.get(name))
            .unwrap_or_default()
    }

    /// Returns the text of a control member; empty if there is none.
    ///
    /// # Errors
    /// [`InstallError::File`].
    pub(crate) fn member(&self, name: &str) -> Result<String, InstallError> {
        if !self.members.iter().any(|member| member == name) {
            return Ok(String::new());
        }
        read_text(&self.folder.join("control").join(name))
    }

    /// Returns the paths of the package's configuration files, without a slash at the start.
    ///
    /// # Errors
    /// [`InstallError::File`].
    pub(crate) fn conffiles(&self) -> Result<Vec<String>, InstallError> {
        let text = self.member("conffiles")?;
        let lines = text.lines().map(str::trim);
        // A line may start with a flag; those that have one are removed, not installed.
        let paths = lines.filter_map(|line| line.strip_prefix('/'));
        Ok(paths.map(str::to_owned).collect())
    }
}

fn unpack_into(
    archive: Box<dyn std::io::Read + Send>,
    folder: &Path,
    options: StagingOptions,
    name: &str,
) -> Result<TreeIndex, InstallError> {
    fs::create_dir_all(folder).map_err(InstallError::file("make", folder))?;
    let opened = rustix::fs::open(
        folder,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let opened = opened.map_err(|error| InstallError::file("open", folder)(error.into()))?;
    let unpack = UnpackOptions {
        limits: LIMITS,
        ownership: options.ownership,
        // As will be done to the whole tree in the end: what scripts derive from a file's time must
        // fit the file then.
        epoch: Some(options.epoch),
        ..UnpackOptions::default()
    };
    let unpacked = kiln_layer::unpack_files(archive, opened.as_fd(), &unpack);
    unpacked.map_err(|source| InstallError::Unpack {
        package: name.to_owned(),
        source: Box::new(source),
    })
}

/// Returns the names of control members, which are regular files at the top with plain names.
fn plain_names(members: &TreeIndex, name: &str) -> Result<Vec<String>, InstallError> {
    let mut names = Vec::new();
    for entry in members.entries() {
        if entry.path.is_root() {
            continue;
        }
        let text = std::str::from_utf8(entry.path.as_bytes()).unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_file =
            matches!(entry.node, Node::File { size_bytes, .. } if size_bytes <= CONTROL_BYTES);
        if !is_file || text.is_empty() || !text.bytes().all(plain) {
            return Err(InstallError::ControlMember {
                package: name.to_owned(),
                member: entry.path.to_string(),
            });
        }
        names.push(text.to_owned());
    }
    Ok(names)
}

fn read_text(path: &Path) -> Result<String, InstallError> {
    let bytes = fs::read(path).map_err(InstallError::file("read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether a script does nothing when its package is installed for the first time: nothing but what
/// debhelper writes into it for upgrades.
pub(crate) fn is_idle_script(text: &str) -> bool {
    let text = text.replace("\\\n", " ");
    text.lines().map(str::trim).all(|line| {
        line.is_empty()
            || line.starts_with('#')
            || line.starts_with("set -")
            || line == "exit 0"
            || line == "true"
            || (line.starts_with("dpkg-maintscript-helper ")
                && line.ends_with("\"$@\"")
                && !line.contains([';', '`', '&', '|', '>']))
    })
}

/// The triggers a package is interested in, by name; `true` if it wants to be waited for.
pub(crate) fn interests(triggers: &str) -> BTreeMap<String, bool> {
    let mut interests = BTreeMap::new();
    for line in triggers.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let waits = match words.next() {
            Some("interest" | "interest-await") => true,
            Some("interest-noawait") => false,
            _ => continue,
        };
        if let Some(name) = words.next() {
            interests.insert(name.to_owned(), waits);
        }
    }
    interests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_scripts_are_told_from_others() {
        assert!(is_idle_script(
            "#!/bin/sh\n# Automatically added\nset -e\n\
             dpkg-maintscript-helper rm_conffile /etc/x 1.2\\~ -- \"$@\"\n\
             dpkg-maintscript-helper dir_to_symlink /usr/a b 1 \\\n  pkg -- \"$@\"\nexit 0\n"
        ));
        assert!(is_idle_script(""));
        for text in [
            "#!/bin/sh\nadduser x\n",
            "dpkg-maintscript-helper supports x && y -- \"$@\"",
            "if true; then\nfi",
            "dpkg-divert --add /bin/sh",
        ] {
            assert!(!is_idle_script(text), "{text}");
        }
    }

    #[test]
    fn interests_are_read() {
        let found = interests(
            "# note\ninterest-noawait /usr/share/man\ninterest ldconfig # late\nactivate x\n\n",
        );
        let expected = [("/usr/share/man", false), ("ldconfig", true)];
        let expected = expected.map(|(name, waits)| (name.to_owned(), waits));
        assert_eq!(found, BTreeMap::from(expected));
    }
}
