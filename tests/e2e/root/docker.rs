//! Docker's engine, started for the test and ended by it, takes what kiln makes and gives back.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::is_root;
use crate::fixtures::{Registry, busybox_project};
use crate::space::{TestSpace, host};

/// How long the engine may take to start or to end, in tenths of a second.
const PATIENCE: u32 = 300;

/// A running engine, with all it has below the space.
struct Docker {
    engine: Child,
    folder: PathBuf,
}

impl Docker {
    fn start(space: &TestSpace) -> Self {
        let folder = space.path().join("docker");
        fs::create_dir(&folder).expect("a folder for docker");
        let log = fs::File::create(folder.join("log")).expect("a log for docker");
        // Otherwise it leaves a key in /etc.
        let settings = folder.join("daemon.json");
        let key = format!("{{\"deprecated-key-path\": \"{}/key\"}}", folder.display());
        fs::write(&settings, key).expect("settings for docker");
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
            // The machine's temporary folder may be gone before its helpers are.
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Debian's `docker.io` is installed (`cargo xtask test` does it)");
        let docker = Self { engine, folder };
        for _ in 0..PATIENCE {
            let answer = docker.client(&["version"]).output();
            if answer.is_ok_and(|answer| answer.status.success()) {
                return docker;
            }
            thread::sleep(Duration::from_millis(100));
        }
        let log = fs::read_to_string(docker.folder.join("log")).unwrap_or_default();
        panic!("docker's engine does not answer:\n{log}");
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut client = Command::new("docker");
        client
            .env(
                "DOCKER_HOST",
                format!("unix://{}/socket", self.folder.display()),
            )
            .env("HOME", &self.folder)
            .args(arguments)
            .stdin(Stdio::null());
        client
    }

    /// Runs the client to its end and returns what it printed.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        host(&mut self.client(arguments))
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
                Ok(Some(_)) | Err(_) => return,
            }
        }
        assert!(
            thread::panicking(),
            "docker's engine ({id}) did not end: {asked:?}"
        );
    }
}

#[test]
fn docker_runs_what_kiln_saves_and_pushes_and_kiln_what_docker_does() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        "[image.app.step.text]\nrun = \"echo text > /file\"\n[image.app.config]\ncmd = [\"cat\", \"/file\"]\n",
    );
    let name = "localhost/test/app:latest";
    space.kiln_ok(["build"]);
    space.kiln_ok(["tag", "app", name]);
    let docker = Docker::start(&space);
    let run = |image: &str| docker.run(&["run", "--rm", "--network=none", image]);

    // As a file; docker 20.10 knows no zstd.
    for method in ["gzip", "none"] {
        let archive = format!("{method}.tar");
        space.kiln_ok(["save", "--compress", method, "-o", &archive, name]);
        let archive = space.project().join(archive);
        let loaded = docker.run(&["load", "-i", &archive.display().to_string()]);
        assert!(loaded.contains(name), "{method}: {loaded}");
        assert_eq!(run(name), "text\n", "{method}");
        docker.run(&["rmi", name]);
    }

    // A registry between them, both ways.
    let registry = Registry::start(&space);
    let pushed = format!("{}/kiln/app", registry.host());
    space.kiln_ok(["push", name, &pushed]);
    docker.run(&["pull", &pushed]);
    assert_eq!(run(&pushed), "text\n");
    let again = format!("{}/docker/app", registry.host());
    docker.run(&["tag", &pushed, &again]);
    docker.run(&["push", &again]);
    let other = TestSpace::new();
    assert_eq!(other.kiln_ok(["run", &again]).stdout, "text\n");

    // And back as an archive.
    let archive = space.project().join("docker.tar");
    docker.run(&["save", "-o", &archive.display().to_string(), &pushed]);
    let third = TestSpace::new();
    third.kiln_ok(["load".as_ref(), archive.as_os_str()]);
    assert_eq!(third.kiln_ok(["run", &pushed]).stdout, "text\n");
}
