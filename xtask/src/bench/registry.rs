//! How fast a registry answers, beside Debian's `docker-registry`.
//!
//! kiln's asks for accounts and looks everything up in its index; the other one asks nobody and has
//! its cache. Server and client share the machine, so what counts is the ratio within a row.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Place;
use crate::process::{Failure, Outcome, find_program, read, say};

/// What filters look for.
pub(super) const NAME: &str = "served registry";
/// Programs that measure.
const NEEDED: [&str; 5] = ["ab", "curl", "docker-registry", "sha256sum", "wrk"];
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Connections at once, and seconds for each row.
const LOAD: [&str; 3] = ["-t2", "-c32", "-d5s"];
/// Bytes of the large blob.
const LARGE: u64 = 1 << 30;

/// A server that is measured.
struct Server {
    name: &'static str,
    process: Child,
    host: String,
    /// A header that says who asks.
    login: Option<String>,
    folder: PathBuf,
}

/// How a row is measured, and in what.
type Measure = fn(&Server) -> Outcome<f64>;

/// What is measured, its unit, how, and the goal. A push comes before the pull of the same blob.
const ROWS: &[(&str, &str, Measure, &str)] = &[
    ("manifest by tag", "/s", manifest_by_tag, "40,000/s"),
    ("blob HEAD", "/s", blob_head, "40,000/s"),
    ("blob of 1 MiB", "/s", small_blob, "3,000/s"),
    ("push of 1 GiB, durable", " s", large_push, "1.5 s"),
    ("pull of 1 GiB", " MiB/s", large_pull, "2,048 MiB/s"),
    ("manifest PUT, durable", "/s", manifest_put, "2,500/s"),
    ("list of 1,500 tags", " ms", tags, "2 ms"),
    ("memory after that", " MiB", memory, "120 MiB"),
];

/// Measures every row; returns the table.
///
/// # Errors
/// A program is missing, or a server does not answer as it should.
pub(super) fn measure(place: &Place) -> Outcome<String> {
    if let Some(missing) = NEEDED
        .iter()
        .find(|program| find_program(program).is_none())
    {
        say(&format!("registry: `{missing}` is not installed; left out"));
        return Ok(String::new());
    }
    let folder = place.folder.join("registries");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let large = folder.join("large");
    shell(&format!(
        "head -c {LARGE} /dev/urandom > {}",
        large.display()
    ))?;
    let servers = [own(place, &folder)?, other(&folder)?];
    let mut table = String::from(
        "\n| registry | kiln | docker-registry | ratio | goal |\n| --- | --- | --- | --- | --- |\n",
    );
    for server in &servers {
        server.fill()?;
    }
    for (name, unit, measure, goal) in ROWS {
        let mut values = Vec::new();
        for server in &servers {
            values.push(measure(server)?);
        }
        let row = format!(
            "| {name} | {:.1}{unit} | {:.1}{unit} | {:.2} | {goal} |\n",
            values[0],
            values[1],
            values[0] / values[1]
        );
        say(row.trim_end());
        table.push_str(&row);
    }
    Ok(table)
}

/// kiln's, with an account.
fn own(place: &Place, folder: &Path) -> Outcome<Server> {
    let folder = folder.join("kiln");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let config = folder.join("registry.toml");
    let settings = "[access]\nlogin = \"required\"\n[log]\nrequests = false\n";
    fs::write(&config, settings).map_err(|error| Failure::io(&config, &error))?;
    let host = free_host()?;
    let data = folder.join("data");
    let registry = |arguments: &[&str]| {
        let mut command = Command::new(&place.kiln);
        command
            .arg("registry")
            .args(arguments)
            .arg("--data")
            .arg(&data);
        command
    };
    let mut serve = registry(&["serve", "--listen", &host]);
    let process = start(serve.arg("--config").arg(&config))?;
    let mut server = Server {
        name: "kiln",
        process,
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
fn other(folder: &Path) -> Outcome<Server> {
    let folder = folder.join("docker-registry");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let host = free_host()?;
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

fn free_host() -> Outcome<String> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.to_string())
        .map_err(|error| Failure::io("127.0.0.1", &error))
}

/// Runs a line of shell and returns what it printed.
fn shell(line: &str) -> Outcome<String> {
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

    fn login(&self) -> String {
        self.login
            .as_ref()
            .map_or_else(String::new, |login| format!("-H '{login}'"))
    }

    /// Pushes a file as a blob; returns its digest.
    fn push(&self, file: &Path) -> Outcome<String> {
        let (login, host, file) = (self.login(), &self.host, file.display());
        shell(&format!(
            "digest=sha256:$(sha256sum {file} | cut -d' ' -f1)\n{}",
            push_script(&login, host, &file.to_string())
        ))
    }

    /// Two blobs, an image and 1,500 tags.
    fn fill(&self) -> Outcome {
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
    fn load(&self, load: &[&str], path: &str, script: &str) -> Outcome<f64> {
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

    fn layer(&self) -> Outcome<String> {
        let digest = shell(&format!(
            "sha256sum {} | cut -d' ' -f1",
            self.folder.join("small").display()
        ))?;
        Ok(format!("/v2/bench/app/blobs/sha256:{digest}"))
    }

    fn large(&self) -> PathBuf {
        self.folder.with_file_name("large")
    }
}

/// Pushes `$digest` and prints it.
fn push_script(login: &str, host: &str, file: &str) -> String {
    format!(
        "place=$(curl -sf {login} -X POST -D- -o /dev/null http://{host}/v2/bench/app/blobs/uploads/ | tr -d '\\r' | sed -n 's/^[Ll]ocation: //p')\n\
         case $place in http*) ;; *) place=http://{host}$place;; esac\n\
         case $place in *\\?*) place=$place\\&;; *) place=$place?;; esac\n\
         curl -sf {login} -T {file} -H 'Expect:' -H 'Content-Type: application/octet-stream' \"${{place}}digest=$digest\" > /dev/null\n\
         echo $digest"
    )
}

fn manifest_by_tag(server: &Server) -> Outcome<f64> {
    server.load(&LOAD, "/v2/bench/app/manifests/t1", "")
}

/// By `ab`: `wrk` waits for a body that a HEAD does not have.
fn blob_head(server: &Server) -> Outcome<f64> {
    let url = format!("http://{}{}", server.host, server.layer()?);
    let mut ab = Command::new("ab");
    ab.args(["-q", "-k", "-i", "-c32", "-n100000", "-t5"]);
    if let Some(login) = &server.login {
        ab.args(["-H", login]);
    }
    let text = read(ab.arg(&url))?;
    let text = String::from_utf8_lossy(&text);
    if text.contains("Non-2xx") {
        return Err(Failure(format!("{}: {url} fails:\n{text}", server.name)));
    }
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests per second:"));
    rate.and_then(|rate| rate.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Failure(format!("ab does not say how fast it was:\n{text}")))
}

fn small_blob(server: &Server) -> Outcome<f64> {
    server.load(&LOAD, &server.layer()?, "")
}

fn large_push(server: &Server) -> Outcome<f64> {
    let digest = shell(&format!(
        "sha256sum {} | cut -d' ' -f1",
        server.large().display()
    ))?;
    let begun = Instant::now();
    let script = push_script(
        &server.login(),
        &server.host,
        &server.large().display().to_string(),
    );
    shell(&format!("digest=sha256:{digest}\n{script}"))?;
    Ok(begun.elapsed().as_secs_f64())
}

fn large_pull(server: &Server) -> Outcome<f64> {
    let digest = shell(&format!(
        "sha256sum {} | cut -d' ' -f1",
        server.large().display()
    ))?;
    let url = format!("http://{}/v2/bench/app/blobs/sha256:{digest}", server.host);
    let begun = Instant::now();
    shell(&format!("curl -sf {} -o /dev/null {url}", server.login()))?;
    let mebibytes = u32::try_from(LARGE >> 20).map_or(0.0, f64::from);
    Ok(mebibytes / begun.elapsed().as_secs_f64())
}

fn manifest_put(server: &Server) -> Outcome<f64> {
    let script = format!(
        "local threads = 0\nfunction setup(thread) threads = threads + 1; thread:set(\"id\", threads) end\n\
         local file = io.open(\"{}\"); local body = file:read(\"*a\"); file:close()\nlocal count = 0\n\
         function request() count = count + 1; wrk.headers[\"Content-Type\"] = \"{MANIFEST}\"\n\
         return wrk.format(\"PUT\", \"/v2/bench/put/manifests/p\" .. id .. \"-\" .. count, nil, body) end\n",
        server.folder.join("manifest").display()
    );
    // The repository has to have the blobs first.
    for file in ["small", "config"] {
        let path = server.folder.join(file);
        let digest = shell(&format!("sha256sum {} | cut -d' ' -f1", path.display()))?;
        shell(&format!(
            "curl -sf {} -X POST 'http://{}/v2/bench/put/blobs/uploads/?mount=sha256:{digest}&from=bench/app'",
            server.login(),
            server.host
        ))?;
    }
    server.load(&LOAD, "/v2/bench/put/manifests/x", &script)
}

fn tags(server: &Server) -> Outcome<f64> {
    let rate = server.load(&["-t1", "-c1", "-d3s"], "/v2/bench/app/tags/list", "")?;
    Ok(1000.0 / rate)
}

/// The most memory the server has used so far.
fn memory(server: &Server) -> Outcome<f64> {
    let status = format!("/proc/{}/status", server.process.id());
    let text = fs::read_to_string(&status).map_err(|error| Failure::io(&status, &error))?;
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: f64 = peak
        .and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| Failure(format!("`{status}` does not name a peak")))?;
    Ok(kibibytes / 1024.0)
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
