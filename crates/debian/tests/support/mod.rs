//! What the tests put behind the crate's doors: a folder for downloads, `curl` for the network, and
//! `chroot` in namespaces of its own for the sandbox.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "each test uses its part; helpers of tests may panic"
)]

pub(crate) mod archive;
pub(crate) mod keys;

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use kiln_debian::{
    ArchiveSet, DownloadError, Downloads, Fetch, FetchError, LockedPackage, Outside, RootCommand,
    RootExit, RunInRoot, Silent, SnapshotTime, while_arriving,
};
use kiln_oci::{Digest, VerifiedReader};

/// Downloads in a folder, fetched by `curl`; remembers what was asked for.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        Self {
            folder: folder.to_owned(),
            asked: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn outside(&self) -> Outside<'_> {
        Outside {
            fetch: self,
            downloads: self,
            progress: &Silent,
        }
    }

    fn curl(&self, url: &str, file: &Path) -> Result<(), FetchError> {
        self.asked.lock().unwrap().push(url.to_owned());
        let output = Command::new("curl")
            .args([
                "--silent",
                "--location",
                "--retry",
                "3",
                "--retry-all-errors",
                "--max-time",
                "120",
                "--write-out",
                "%{http_code}",
            ])
            .arg("--output")
            .arg(file)
            .arg(url)
            .output()
            .unwrap();
        match String::from_utf8_lossy(&output.stdout).as_ref() {
            "200" => Ok(()),
            "403" | "404" | "410" => Err(FetchError::NotFound {
                url: url.to_owned(),
            }),
            status => Err(FetchError::Failed {
                url: url.to_owned(),
                source: format!("status {status}").into(),
            }),
        }
    }
}

impl Fetch for World {
    fn read(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        self.curl(url, file.path())?;
        let bytes = fs::read(file.path()).unwrap();
        assert!(bytes.len() as u64 <= limit_bytes);
        Ok(bytes)
    }

    fn download(
        &self,
        url: &str,
        digest: &Digest,
        size_bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, FetchError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        self.curl(url, file.path())?;
        progress(size_bytes);
        let mut reader =
            VerifiedReader::new(fs::File::open(file.path()).unwrap(), *digest, size_bytes);
        self.put(digest, &mut reader)
            .map_err(|error| FetchError::WrongContent {
                url: url.to_owned(),
                source: error.into(),
            })
    }
}

impl Downloads for World {
    fn find(&self, digest: &Digest) -> io::Result<Option<PathBuf>> {
        let path = self.folder.join(digest.hex());
        Ok(path.exists().then_some(path))
    }

    fn put(&self, digest: &Digest, reader: &mut dyn Read) -> io::Result<PathBuf> {
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        io::copy(reader, &mut file)?;
        let path = self.folder.join(digest.hex());
        file.persist(&path).map_err(|error| error.error)?;
        Ok(path)
    }
}

/// Runs commands in a root file system with `chroot`, in mount, network, process and name spaces of
/// their own. Needs root.
#[derive(Debug)]
pub(crate) struct Chroot {
    pub(crate) root: PathBuf,
    pub(crate) host_name: String,
    /// Runs before the command, for instance `date` or `faketime` tricks; usually empty.
    pub(crate) output: Vec<u8>,
}

impl Chroot {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            host_name: "test".to_owned(),
            output: Vec::new(),
        }
    }
}

const SET_UP: &str = r#"
set -e
root=$1; name=$2; shift 2
hostname "$name"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755 dev "$root/dev"
for node in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "$root/dev/${node%:*}" c 1 "${node#*:}"
done
mknod -m 666 "$root/dev/tty" c 5 0
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
while [ "$1" != -- ]; do
    mkdir -p "$root/$2"
    mount --bind -o ro "$1" "$root/$2"
    shift 2
done
shift
exec chroot "$root" /usr/bin/env -i "$@"
"#;

impl RunInRoot for Chroot {
    fn run(
        &mut self,
        command: &RootCommand,
        output: &mut dyn FnMut(&[u8]),
    ) -> io::Result<RootExit> {
        let mut child = Command::new("unshare");
        child
            .args([
                "--mount",
                "--net",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["--propagation", "private", "sh", "-c", SET_UP, "sh"])
            .arg(&self.root)
            .arg(&self.host_name);
        for mount in &command.mounts {
            child.arg(&mount.source).arg(&mount.target);
        }
        child.arg("--");
        child.args(
            command
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        child.args(&command.argv);
        let (mut reader, writer) = io::pipe()?;
        child
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut running = child.spawn()?;
        drop(child);
        let mut buffer = [0; 4096];
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.output.extend_from_slice(&buffer[..read]);
            output(&buffer[..read]);
        }
        let status = running.wait()?;
        for mount in &command.mounts {
            fs::remove_dir(self.root.join(mount.target.trim_start_matches('/')))?;
        }
        Ok(match status.code() {
            Some(code) => RootExit::Code(code),
            None => RootExit::Signal(status.signal().unwrap_or(0)),
        })
    }
}

/// Whether the tests may make namespaces and change owners.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns the files of packages, in the same order.
pub(crate) fn download(
    packages: &[LockedPackage],
    set: &ArchiveSet,
    snapshot: SnapshotTime,
    outside: Outside<'_>,
) -> Result<Vec<PathBuf>, DownloadError> {
    while_arriving(packages, set, snapshot, outside, 4, |files| {
        (0..files.count()).map(|at| files.file(at)).collect()
    })?
}
