//! Docker's engine with BuildKit, started for one run of the benchmark.
//!
//! Debian's docker 20.10 carries BuildKit in the engine and its client in the program. Newer clients
//! need a plugin for it, so the program is named by its path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::process::{Failure, Outcome, find_program, run, say};

/// Debian's client.
const CLIENT: &str = "/usr/bin/docker";
/// How long the engine may take to start or to end, in tenths of a second.
const PATIENCE: u32 = 300;

/// A running engine with everything of its own below one folder.
pub(super) struct Docker {
    engine: Child,
    folder: PathBuf,
}

impl Docker {
    /// Starts an engine below `folder`; `None`, and said so, where Debian's is not installed.
    ///
    /// # Errors
    /// It is installed and does not come up; its log is named.
    pub(super) fn start(folder: &Path) -> Outcome<Option<Self>> {
        if find_program("dockerd").is_none() || !Path::new(CLIENT).is_file() {
            say("docker is not installed and left out; as root: apt-get install docker.io");
            return Ok(None);
        }
        fs::create_dir(folder).map_err(|error| Failure::io(folder, &error))?;
        let path = folder.join("log");
        let log = fs::File::create(&path).map_err(|error| Failure::io(&path, &error))?;
        // Otherwise it leaves a key in /etc.
        let settings = folder.join("daemon.json");
        let key = format!("{{\"deprecated-key-path\": \"{}/key\"}}", folder.display());
        fs::write(&settings, key).map_err(|error| Failure::io(&settings, &error))?;
        let engine = Command::new("dockerd")
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
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| Failure::io("dockerd", &error))?;
        let docker = Self {
            engine,
            folder: folder.to_owned(),
        };
        for _ in 0..PATIENCE {
            let answer = docker.client().arg("version").output();
            if answer.is_ok_and(|answer| answer.status.success()) {
                return Ok(Some(docker));
            }
            thread::sleep(Duration::from_millis(100));
        }
        Err(Failure(format!(
            "docker's engine does not answer; see {}",
            path.display()
        )))
    }

    fn client(&self) -> Command {
        let mut client = Command::new(CLIENT);
        client
            .env("DOCKER_HOST", self.host())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        client
    }

    fn host(&self) -> String {
        format!("unix://{}/socket", self.folder.display())
    }

    /// Makes an image called `name` of a root file system.
    pub(super) fn import(&self, rootfs: &Path, name: &str) -> Outcome {
        run(self.client().arg("import").arg(rootfs).arg(name))
    }

    /// Returns a command line of the client.
    pub(super) fn command(&self, arguments: &str) -> String {
        format!(
            "env DOCKER_HOST={} DOCKER_BUILDKIT=1 {CLIENT} {arguments}",
            self.host()
        )
    }
}

impl Drop for Docker {
    /// Asks the engine to end and waits for it: it unmounts what it mounted.
    fn drop(&mut self) {
        let id = self.engine.id().to_string();
        let asked = Command::new("kill").arg(&id).status();
        for _ in 0..PATIENCE {
            match self.engine.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(100)),
                Ok(Some(_)) => return,
                Err(_) => break,
            }
        }
        say(&format!("docker's engine ({id}) did not end: {asked:?}"));
    }
}
