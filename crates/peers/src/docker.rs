//! Docker's engine: Debian's `docker.io`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::error::PeerError;
use crate::patience;

/// Debian's client. Newer ones, which may come first in `PATH`, build only with a plugin.
const CLIENT: &str = "/usr/bin/docker";
/// Where Debian has the engine.
const ENGINE: &str = "/usr/sbin/dockerd";

/// A running engine, without networks. Needs root.
#[derive(Debug)]
pub struct Docker {
    engine: Child,
    folder: PathBuf,
}

impl Docker {
    /// Tells whether engine and client are installed.
    pub fn is_installed() -> bool {
        [CLIENT, ENGINE]
            .into_iter()
            .all(|it| Path::new(it).is_file())
    }

    /// Starts an engine that has everything of its own below `folder`, which is made. Blocks until it
    /// answers.
    ///
    /// # Errors
    /// [`PeerError::Silent`] with its log, and what the system says.
    pub fn start(folder: &Path) -> Result<Self, PeerError> {
        Self::with_settings(folder, "")
    }

    /// As [`Docker::start`], with further `"key": value` pairs in the engine's settings, separated by commas.
    ///
    /// # Errors
    /// As [`Docker::start`].
    pub fn with_settings(folder: &Path, more: &str) -> Result<Self, PeerError> {
        let write = |path: &Path, result: std::io::Result<()>| {
            result.map_err(|source| PeerError::Write {
                path: path.to_owned(),
                source,
            })
        };
        write(folder, fs::create_dir_all(folder))?;
        let settings = folder.join("daemon.json");
        // Otherwise it leaves a key in /etc.
        let key = format!("\"deprecated-key-path\": \"{}/key\"", folder.display());
        let comma = if more.is_empty() { "" } else { ", " };
        write(
            &settings,
            fs::write(&settings, format!("{{{key}{comma}{more}}}")),
        )?;
        let path = folder.join("log");
        let log = fs::File::create(&path).map_err(|source| PeerError::Write {
            path: path.clone(),
            source,
        })?;
        let engine = Command::new(ENGINE)
            .arg("--config-file")
            .arg(&settings)
            .arg("--data-root")
            .arg(folder.join("data"))
            .arg("--exec-root")
            .arg(folder.join("exec"))
            .arg("--pidfile")
            .arg(folder.join("pid"))
            .arg(format!("--host=unix://{}/socket", folder.display()))
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            // The machine's temporary folder may be gone before its helpers are.
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| PeerError::Start {
                program: "dockerd",
                package: "docker.io",
                source,
            })?;
        let mut docker = Self {
            engine,
            folder: folder.to_owned(),
        };
        let asked = |client: &mut Command| {
            let answer = client.arg("version").output();
            answer.is_ok_and(|answer| answer.status.success())
        };
        let client = || Self::client_of(folder);
        if patience::until_up(&mut docker.engine, || asked(&mut client())) {
            return Ok(docker);
        }
        Err(PeerError::Silent {
            program: "dockerd",
            log: fs::read_to_string(path).unwrap_or_default(),
        })
    }

    /// Returns a call of the client, with a home of its own.
    pub fn client(&self) -> Command {
        Self::client_of(&self.folder)
    }

    fn client_of(folder: &Path) -> Command {
        let mut client = Command::new(CLIENT);
        client
            .env("DOCKER_HOST", host(folder))
            .env("HOME", folder)
            .stdin(Stdio::null());
        client
    }

    /// Returns a call of the client as one types it into a shell, with BuildKit for builds.
    pub fn command_line(&self, arguments: &str) -> String {
        format!(
            "env DOCKER_HOST={} HOME={} DOCKER_BUILDKIT=1 {CLIENT} {arguments}",
            host(&self.folder),
            self.folder.display()
        )
    }
}

fn host(folder: &Path) -> String {
    format!("unix://{}/socket", folder.display())
}

impl Drop for Docker {
    /// The engine unmounts what it mounted.
    fn drop(&mut self) {
        patience::end(&mut self.engine, "dockerd");
    }
}
