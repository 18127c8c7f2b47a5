//! How fast a registry answers, beside Debian's `docker-registry`.
//!
//! kiln's asks for accounts and looks everything up in its index; the other one asks nobody and has
//! its cache. Server and client share the machine, so what counts is the ratio within a row.

use std::fs;
use std::process::Command;
use std::time::Instant;

use super::Place;
use super::served::{MANIFEST, Server, other, own, push_script, shell};
use crate::process::{Failure, Outcome, find_program, read, say};

/// What filters look for.
pub(super) const NAME: &str = "served registry";
/// Programs that measure.
const NEEDED: [&str; 5] = ["ab", "curl", "docker-registry", "sha256sum", "wrk"];
/// Connections at once, and seconds for each row.
const LOAD: [&str; 3] = ["-t2", "-c32", "-d5s"];
/// Bytes of the large blob.
const LARGE: u64 = 1 << 30;

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
    let servers = [own(place, &folder, "")?, other(&folder)?];
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
