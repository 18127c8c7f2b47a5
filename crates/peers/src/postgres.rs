//! Debian's PostgreSQL: a database server with one empty database.

use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::PeerError;
use crate::patience;
use crate::port::Port;

/// Where Debian has the versions of the server, each in a folder of its number.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Who it runs as where root starts it, which it refuses to run as: `nobody`.
const NOBODY: u32 = 65534;

/// A running server, for whoever can reach it on this machine.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Child>,
    programs: PathBuf,
    folder: PathBuf,
    port: Port,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Connections are cut, what was committed is written.
    Fast,
    /// As if the machine had lost its power, but for the disk.
    Kill,
}

impl Postgres {
    /// Tells whether it is installed.
    pub fn is_installed() -> bool {
        programs().is_some()
    }

    /// Makes a server that has everything of its own below `folder`, which is made, and starts it with
    /// `further` lines of settings. Blocks until it answers.
    ///
    /// If root calls, the folder is given to somebody without rights, who must be able to come to it.
    ///
    /// # Errors
    /// [`PeerError::Silent`] with its log, and what the system says.
    pub fn start(folder: &Path, further: &str) -> Result<Self, PeerError> {
        let written = |path: &Path, source| PeerError::Write {
            path: path.to_owned(),
            source,
        };
        let programs = programs().ok_or_else(|| started(io::ErrorKind::NotFound.into()))?;
        fs::create_dir_all(folder).map_err(|source| written(folder, source))?;
        let port = Port::reserve().map_err(started)?;
        let mut server = Self {
            process: None,
            programs,
            folder: folder.to_owned(),
            port,
        };
        if is_root(folder).map_err(|source| written(folder, source))? {
            chown(folder, Some(NOBODY), Some(NOBODY)).map_err(|source| written(folder, source))?;
        }
        let made = server
            .command("initdb")
            .args(["--username=kiln", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C.UTF-8", "--no-sync", "--pgdata"])
            .arg(server.data())
            .output()
            .map_err(started)?;
        if !made.status.success() {
            return Err(PeerError::Silent {
                program: "initdb",
                log: String::from_utf8_lossy(&made.stderr).into_owned(),
            });
        }
        let settings = server.data().join("postgresql.auto.conf");
        let text = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             shared_buffers = 16MB\n{further}\n",
            server.port.number(),
            folder.display()
        );
        fs::write(&settings, text).map_err(|source| written(&settings, source))?;
        server.resume()?;
        Ok(server)
    }

    /// Starts it again after it was ended. Blocks until it answers.
    ///
    /// # Errors
    /// [`PeerError::Silent`] with its log, and what the system says.
    pub fn resume(&mut self) -> Result<(), PeerError> {
        let path = self.folder.join("log");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|source| PeerError::Write {
                path: path.clone(),
                source,
            })?;
        let mut process = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(started)?;
        let ready = || {
            let asked = self
                .command("pg_isready")
                .args(["-q", "-h"])
                .arg(&self.folder)
                .arg("-p")
                .arg(self.port.number().to_string())
                .status();
            asked.is_ok_and(|status| status.success())
                && TcpStream::connect(("127.0.0.1", self.port.number())).is_ok()
        };
        let is_up = patience::until_up(&mut process, ready);
        self.process = Some(process);
        if is_up {
            return Ok(());
        }
        Err(PeerError::Silent {
            program: "postgres",
            log: fs::read_to_string(path).unwrap_or_default(),
        })
    }

    /// Ends it. Nothing happens if it has ended.
    pub fn end(&mut self, how: Ending) {
        if let Some(mut process) = self.process.take() {
            let signal = match how {
                Ending::Fast => "INT",
                // All of its processes end at once, without writing anything.
                Ending::Kill => "QUIT",
            };
            patience::end_by(&mut process, "postgres", signal);
        }
    }

    /// A connection string, by way of the loopback device.
    pub fn url(&self) -> String {
        format!(
            "postgresql://kiln@127.0.0.1:{}/postgres",
            self.port.number()
        )
    }

    /// Has the server do something, and returns what it says, a line for each row.
    ///
    /// # Errors
    /// [`PeerError::Silent`] with what it complained of.
    pub fn query(&self, sql: &str) -> Result<String, PeerError> {
        let output = self
            .command("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--command", sql, &self.url()])
            .output()
            .map_err(started)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        }
        Err(PeerError::Silent {
            program: "psql",
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The folder of its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A call of one of its programs, by somebody whom it lets run it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .stdin(Stdio::null())
            .env("HOME", &self.folder)
            .current_dir("/");
        if is_root(Path::new("/proc/self")).unwrap_or(false) {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

fn started(source: io::Error) -> PeerError {
    PeerError::Start {
        program: "postgres",
        package: "postgresql",
        source,
    }
}

/// The folder with the programs of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir(VERSIONS).ok()?.flatten();
    let numbered = versions.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let programs = entry.path().join("bin");
        programs
            .join("postgres")
            .is_file()
            .then_some((number, programs))
    });
    numbered.max().map(|(_, programs)| programs)
}

/// Whether what this process makes belongs to root, as `path` does.
fn is_root(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.uid() == 0)
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end(Ending::Fast);
    }
}
