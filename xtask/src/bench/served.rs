//! Registry servers that are measured: kiln's and Debian's.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use kiln_peers::Port;

use super::Place;
use crate::process::{Failure, Outcome, read, say};

/// The media type of what is put.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A server that is measured.
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) process: Child,
    /// Nobody else has it.
    _port: Port,
    pub(super) host: String,
    /// A header that says who asks.
    pub(super) login: Option<String>,
    pub(super) folder: PathBuf,
}

/// kiln's, with an account, and with further lines of settings.
pub(super) fn own(place: &Place, folder: &Path, further: &str) -> Outcome<Server> {
    let folder = folder.join("kiln");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let config = folder.join("registry.toml");
    let settings = format!("[access]\nlogin = \"required\"\n[log]\nrequests = false\n{further}");
    fs::write(&config, settings).map_err(|error| Failure::io(&config, &error))?;
    let port = reserve()?;
    let host = format!("127.0.0.1:{}", port.number());
    let data = folder.join("data");
    let registry = |arguments: &[&str]| {
        let mut command = Command::new(&place.kiln);
        command
            .arg("registry")
            .args(arguments)
            .arg("--config")
            .arg(&config)
            .arg("--data")
            .arg(&data);
        command
    };
    let mut serve = registry(&["serve", "--listen", &host]);
    let process = start(&mut serve)?;
    let mut server = Server {
        name: "kiln",
        process,
        _port: port,
        host,
        login: None,
        folder,
    };
    server.wait()?;
    read(&mut registry(&[
        "user",
        "add",
        "bench",
        "--admin",
        "--no-password",
    ]))?;
    let token = read(&mut registry(&["token", "add", "bench", "bench"]))?;
    let token = String::from_utf8_lossy(&token).trim().to_owned();
    let login = shell(&format!("printf %s 'bench:{token}' | base64 --wrap=0"))?;
    server.login = Some(format!("Authorization: Basic {login}"));
    Ok(server)
}

/// Debian's, open to everybody.
pub(super) fn other(folder: &Path) -> Outcome<Server> {
    let folder = folder.join("docker-registry");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let port = reserve()?;
    let host = format!("127.0.0.1:{}", port.number());
    let config = folder.join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  cache:\n    \
         blobdescriptor: inmemory\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
        folder.join("data").display()
    );
    fs::write(&config, text).map_err(|error| Failure::io(&config, &error))?;
    let process = start(Command::new("docker-registry").arg("serve").arg(&config))?;
    let server = Server {
        name: "docker-registry",
        process,
        _port: port,
        host,
        login: None,
        folder,
    };
    server.wait()?;
    Ok(server)
}

fn start(command: &mut Command) -> Outcome<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Failure::io(command.get_program(), &error))
}

fn reserve() -> Outcome<Port> {
    Port::reserve().map_err(|error| Failure::io("127.0.0.1", &error))
}

/// Runs a line of shell and returns what it printed.
pub(super) fn shell(line: &str) -> Outcome<String> {
    let output = read(Command::new("sh").args(["-ec", line]))?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}

impl Server {
    fn wait(&self) -> Outcome {
        for _ in 0..200 {
            if TcpStream::connect(&self.host).is_ok() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(Failure(format!(
            "{} does not answer on {}",
            self.name, self.host
        )))
    }

    pub(super) fn login(&self) -> String {
        self.login
            .as_ref()
            .map_or_else(String::new, |login| format!("-H '{login}'"))
    }

    /// Pushes a file as a blob; returns its digest.
    pub(super) fn push(&self, file: &Path) -> Outcome<String> {
        let (login, host, file) = (self.login(), &self.host, file.display());
        shell(&format!(
            "digest=sha256:$(sha256sum {file} | cut -d' ' -f1)\n{}",
            push_script(&login, host, &file.to_string())
        ))
    }

    /// Two blobs, an image and 1,500 tags.
    pub(super) fn fill(&self) -> Outcome {
        let small = self.folder.join("small");
        shell(&format!(
            "head -c 1048576 /dev/urandom > {}",
            small.display()
        ))?;
        let layer = self.push(&small)?;
        let config = self.folder.join("config");
        fs::write(&config, "{}").map_err(|error| Failure::io(&config, &error))?;
        let config = self.push(&config)?;
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\
             \"application/vnd.oci.image.config.v1+json\",\"digest\":\"{config}\",\"size\":2}},\"layers\":[{{\"mediaType\":\
             \"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"{layer}\",\"size\":1048576}}]}}"
        );
        let path = self.folder.join("manifest");
        fs::write(&path, manifest).map_err(|error| Failure::io(&path, &error))?;
        shell(&format!(
            "curl -sf {} -X PUT -H 'Content-Type: {MANIFEST}' --data-binary @{} 'http://{}/v2/bench/app/manifests/t[1-1500]' > /dev/null",
            self.login(),
            path.display(),
            self.host
        ))?;
        Ok(())
    }

    /// Requests answered per second.
    pub(super) fn load(&self, load: &[&str], path: &str, script: &str) -> Outcome<f64> {
        let file = self.folder.join("script.lua");
        fs::write(&file, script).map_err(|error| Failure::io(&file, &error))?;
        let mut wrk = Command::new("wrk");
        wrk.args(load).arg("-s").arg(&file);
        // The other registry does not give what it is not told to be welcome.
        wrk.args(["-H", &format!("Accept: {MANIFEST}")]);
        if let Some(login) = &self.login {
            wrk.args(["-H", login]);
        }
        let text = read(wrk.arg(format!("http://{}{path}", self.host)))?;
        let text = String::from_utf8_lossy(&text);
        if text.contains("Non-2xx") {
            return Err(Failure(format!("{}: {path} fails:\n{text}", self.name)));
        }
        let rate = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Requests/sec:"));
        rate.and_then(|rate| rate.trim().parse().ok())
            .ok_or_else(|| Failure(format!("wrk does not say how fast it was:\n{text}")))
    }

    pub(super) fn layer(&self) -> Outcome<String> {
        let digest = shell(&format!(
            "sha256sum {} | cut -d' ' -f1",
            self.folder.join("small").display()
        ))?;
        Ok(format!("/v2/bench/app/blobs/sha256:{digest}"))
    }

    pub(super) fn large(&self) -> PathBuf {
        self.folder.with_file_name("large")
    }
}

/// Pushes `$digest` and prints it.
pub(super) fn push_script(login: &str, host: &str, file: &str) -> String {
    format!(
        "place=$(curl -sf {login} -X POST -D- -o /dev/null http://{host}/v2/bench/app/blobs/uploads/ | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p')\n\
         case $place in http*) ;; *) place=http://{host}$place;; esac\n\
         case $place in *\\?*) place=$place\\&;; *) place=$place?;; esac\n\
         curl -sf {login} -T {file} -H 'Expect:' -H 'Content-Type: application/octet-stream' \"${{place}}digest=$digest\" > /dev/null\n\
         echo $digest"
    )
}

impl Drop for Server {
    fn drop(&mut self) {
        if self
            .process
            .kill()
            .and_then(|()| self.process.wait())
            .is_err()
        {
            say(&format!("{} could not be ended", self.name));
        }
    }
}
