//! Debian's `docker-registry` on the loopback device.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::PeerError;
use crate::patience;
use crate::port::Port;

const PROGRAM: &str = "/usr/bin/docker-registry";

/// A running registry that keeps nothing in memory: what is removed from its folder is gone.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    port: Port,
    folder: PathBuf,
}

impl Registry {
    /// Tells whether it is installed.
    pub fn is_installed() -> bool {
        Path::new(PROGRAM).is_file()
    }

    /// Starts one that has everything of its own below `folder`, which is made, with `further` lines at the
    /// end of its configuration. Blocks until it answers.
    ///
    /// # Errors
    /// [`PeerError::Silent`] with its log, and what the system says.
    pub fn start(folder: &Path, further: &str) -> Result<Self, PeerError> {
        Self::configured(folder, "  delete:\n    enabled: true\n", further)
    }

    /// The same, which deletes nothing, as Debian configures it.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_keeping(folder: &Path, further: &str) -> Result<Self, PeerError> {
        Self::configured(folder, "", further)
    }

    fn configured(folder: &Path, storage: &str, further: &str) -> Result<Self, PeerError> {
        let written = |path: &Path, source| PeerError::Write {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(|source| written(folder, source))?;
        let started = |source| PeerError::Start {
            program: "docker-registry",
            package: "docker-registry",
            source,
        };
        let port = Port::reserve().map_err(started)?;
        let configuration = folder.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n{storage}\
             http:\n  addr: 127.0.0.1:{}\n{further}",
            folder.join("data").display(),
            port.number()
        );
        fs::write(&configuration, text).map_err(|source| written(&configuration, source))?;
        let path = folder.join("log");
        let log = fs::File::create(&path).map_err(|source| written(&path, source))?;
        let process = Command::new(PROGRAM)
            .arg("serve")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(started)?;
        let address = ("127.0.0.1", port.number());
        let mut registry = Self {
            process,
            port,
            folder: folder.to_owned(),
        };
        let answers = || TcpStream::connect(address).is_ok();
        if patience::until_up(&mut registry.process, answers) {
            return Ok(registry);
        }
        Err(PeerError::Silent {
            program: "docker-registry",
            log: fs::read_to_string(path).unwrap_or_default(),
        })
    }

    /// `127.0.0.1:<port>`, to put in front of a repository.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Where it listens, on the loopback device.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The folder of all that it was given.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        patience::end(&mut self.process, "docker-registry");
    }
}
