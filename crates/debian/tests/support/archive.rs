//! A small Debian archive in a folder, signed by a key of the tests.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kiln_oci::Digest;

use super::keys::TestKey;

/// The date of all releases, and a moment at which they are valid.
pub(crate) const DATE: &str = "Sat, 11 Jul 2026 10:16:37 UTC";
pub(crate) const NOW: jiff::Timestamp = jiff::Timestamp::constant(1_783_800_000, 0);

/// What a package is made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// More fields of its control file.
    pub(crate) fields: String,
    /// Control members beside `control`.
    pub(crate) members: Vec<(String, String)>,
    /// Its files.
    pub(crate) files: Vec<Entry>,
}

/// One entry of a package's tree.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Directory(String, u32),
    File(String, u32, String),
    Symlink(String, String),
    Hardlink(String, String),
}

impl Package {
    pub(crate) fn new(name: &str, version: &str, fields: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            fields: fields.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn member(mut self, name: &str, content: &str) -> Self {
        self.members.push((name.to_owned(), content.to_owned()));
        self
    }

    pub(crate) fn entry(mut self, entry: Entry) -> Self {
        self.files.push(entry);
        self
    }

    /// Adds a file and the folders above it.
    pub(crate) fn file(mut self, path: &str, content: &str) -> Self {
        for (at, _) in path.match_indices('/') {
            let folder = format!("./{}/", &path[..at]);
            let known = self
                .files
                .iter()
                .any(|entry| matches!(entry, Entry::Directory(name, _) if *name == folder));
            if !known {
                self.files.push(Entry::Directory(folder, 0o755));
            }
        }
        self.entry(Entry::File(format!("./{path}"), 0o644, content.to_owned()))
    }

    fn control(&self) -> String {
        format!(
            "Package: {}\nVersion: {}\nArchitecture: all\nMaintainer: Test <test@example.com>\n{}{}\
             Description: test\n long text\n",
            self.name,
            self.version,
            self.fields,
            if self.fields.is_empty() || self.fields.ends_with('\n') {
                ""
            } else {
                "\n"
            }
        )
    }

    /// Returns the package file.
    pub(crate) fn deb(&self) -> Vec<u8> {
        let mut control = vec![Entry::Directory("./".to_owned(), 0o755)];
        control.push(Entry::File("./control".to_owned(), 0o644, self.control()));
        for (name, content) in &self.members {
            control.push(Entry::File(format!("./{name}"), 0o755, content.clone()));
        }
        let mut files = vec![Entry::Directory("./".to_owned(), 0o755)];
        files.extend(self.files.iter().cloned());
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, content) in [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", tar(&control)),
            ("data.tar.xz", xz(&tar(&files))),
        ] {
            let len = content.len();
            bytes.extend(
                format!(
                    "{name:<16}{:<12}{:<6}{:<6}{:<8}{len:<10}`\n",
                    0, 0, 0, 100_644
                )
                .into_bytes(),
            );
            bytes.extend(content);
            if len % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }
}

/// Makes a tar; paths are written as they are, however bad.
fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        let (path, target, content) = match entry {
            Entry::Directory(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                (path, None, "")
            }
            Entry::File(path, mode, content) => {
                header.set_mode(*mode);
                (path, None, content.as_str())
            }
            Entry::Symlink(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                (path, Some(target), "")
            }
            Entry::Hardlink(path, target) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_mode(0o644);
                (path, Some(target), "")
            }
        };
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(target) = target {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::XzOptions::with_preset(1);
    let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A folder that is served as an archive.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) root: PathBuf,
    index: String,
}

impl Archive {
    /// Makes an empty archive in `root`.
    pub(crate) fn new(root: &Path) -> Self {
        fs::create_dir_all(root).unwrap();
        Self {
            root: root.to_owned(),
            index: String::new(),
        }
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("file:{}", self.root.display())
    }

    /// Puts a package into the pool and the next index.
    pub(crate) fn add(&mut self, package: &Package) -> &mut Self {
        let path = format!("pool/main/{}_{}_all.deb", package.name, package.version);
        let bytes = package.deb();
        let file = self.root.join(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, &bytes).unwrap();
        write!(
            self.index,
            "{}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
            package.control(),
            bytes.len(),
            Digest::of(&bytes).hex()
        )
        .unwrap();
        self
    }

    /// Writes the index and the signed release of `suite`.
    pub(crate) fn publish(&self, suite: &str, key: &TestKey) {
        self.publish_as(suite, key, |release| release);
    }

    /// The same, with the release text changed before it is signed.
    pub(crate) fn publish_as(
        &self,
        suite: &str,
        key: &TestKey,
        change: impl FnOnce(String) -> String,
    ) {
        let folder = self.root.join("dists").join(suite);
        let index_folder = folder.join("main/binary-amd64");
        let by_hash = index_folder.join("by-hash/SHA256");
        fs::create_dir_all(&by_hash).unwrap();
        let mut release = format!(
            "Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {DATE}\n\
             Valid-Until: Sat, 18 Jul 2026 10:16:37 UTC\nAcquire-By-Hash: yes\n\
             Architectures: all amd64\nNo-Support-for-Architecture-all: Packages\n\
             Components: main\nDescription: a test\n- with a dash\nSHA256:\n"
        )
        .replace("- with a dash\n", "");
        for (name, bytes) in [
            ("Packages", self.index.clone().into_bytes()),
            ("Packages.xz", xz(self.index.as_bytes())),
        ] {
            fs::write(index_folder.join(name), &bytes).unwrap();
            fs::write(by_hash.join(Digest::of(&bytes).hex()), &bytes).unwrap();
            writeln!(
                release,
                " {} {} main/binary-amd64/{name}",
                Digest::of(&bytes).hex(),
                bytes.len()
            )
            .unwrap();
        }
        fs::write(folder.join("InRelease"), key.clear_sign(&change(release))).unwrap();
    }
}
