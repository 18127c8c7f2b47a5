//! How long a registry takes to collect many dead blobs, and what those notice who push meanwhile.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_oci::Digest;

use super::Place;
use super::client::Client;
use super::served::{MANIFEST, Server, own};
use crate::process::{Failure, Outcome, read, say};

/// What filters look for.
pub(super) const NAME: &str = "registry collecting garbage";
/// Connections that push the blobs that are garbage.
const PUSHERS: usize = 16;
/// What nothing refers to goes when it is older than that; a push takes less.
const GRACE: Duration = Duration::from_secs(5);
/// How long pushes are measured while nothing is collected.
const PLAIN: Duration = Duration::from_secs(20);
const BYTES: &str = "application/octet-stream";

/// Pushes dead blobs, then images without a collection, and then beside one; returns the table.
///
/// # Errors
/// The registry does not answer as it should.
pub(super) fn measure(place: &Place) -> Outcome<String> {
    let count = if place.is_trial { 2_000 } else { 100_000 };
    let folder = place.folder.join("garbage");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let grace = GRACE.as_secs();
    let gc = format!("[gc]\ngrace = \"{grace}s\"\ntrash = \"0s\"\ninterval = \"0s\"\n");
    let server = own(place, &folder, &gc)?;
    say(&format!("garbage: {count} dead blobs are pushed"));
    thread::scope(|scope| {
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|pusher| {
                let server = &server;
                scope.spawn(move || push_dead(server, pusher, count))
            })
            .collect();
        pushers
            .into_iter()
            .try_for_each(|pusher| pusher.join().expect("no pusher panics"))
    })?;
    thread::sleep(GRACE + Duration::from_secs(2));
    let plain = pushes_while(&server, "plain", || thread::sleep(PLAIN))?.1;
    let (collected, beside) = pushes_while(&server, "beside", || collect(place, &server))?;
    let (time, dead) = collected?;
    if dead < count {
        return Err(Failure(format!("{dead} of {count} blobs were collected")));
    }
    let mut table = String::from(
        "\n| registry collecting garbage | kiln | without | ratio | goal |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut add = |row: String| {
        say(row.trim_end());
        table.push_str(&row);
    };
    add(format!(
        "| {count} dead blobs | {:.1} s | - | - | 60 s |\n",
        time.as_secs_f64()
    ));
    for (name, percent, goal) in [("median", 50, "-"), ("p99", 99, "1.10")] {
        let [with, without] = [&beside, &plain].map(|times| percentile(times, percent));
        add(format!(
            "| push of an image, {name} | {with:.2} ms | {without:.2} ms | {:.2} | {goal} |\n",
            with / without
        ));
    }
    add(format!(
        "| images pushed meanwhile | {} | {} | - | - |\n",
        beside.len(),
        plain.len()
    ));
    Ok(table)
}

/// Pushes a share of the blobs that nothing refers to.
fn push_dead(server: &Server, pusher: usize, count: usize) -> Outcome {
    let mut client = Client::connect(&server.host, server.login.as_ref())?;
    for number in (pusher..count).step_by(PUSHERS) {
        push_blob(&mut client, format!("dead {number}").as_bytes())?;
    }
    Ok(())
}

fn push_blob(client: &mut Client, bytes: &[u8]) -> Outcome<Digest> {
    let digest = Digest::of(bytes);
    let path = format!("/v2/bench/app/blobs/uploads/?digest={digest}");
    client.ask("POST", &path, BYTES, bytes)?;
    Ok(digest)
}

/// Pushes images one after the other as long as `work` takes; returns what that returned, and the milliseconds of each.
fn pushes_while<T>(
    server: &Server,
    name: &str,
    work: impl FnOnce() -> T,
) -> Outcome<(T, Vec<f64>)> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let pushing = scope.spawn(|| push_images(server, name, &is_over));
        let output = work();
        is_over.store(true, Ordering::Relaxed);
        let times = pushing.join().expect("nothing panics")?;
        Ok((output, times))
    })
}

fn push_images(server: &Server, name: &str, is_over: &AtomicBool) -> Outcome<Vec<f64>> {
    let mut client = Client::connect(&server.host, server.login.as_ref())?;
    let mut times = Vec::new();
    for number in 0_u32.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let layer = format!("layer {name} {number}").repeat(1000);
        let config = format!("{{\"{name}\":{number}}}");
        let begun = Instant::now();
        let parts = [config.as_bytes(), layer.as_bytes()];
        let [config_digest, layer_digest] = [
            push_blob(&mut client, parts[0])?,
            push_blob(&mut client, parts[1])?,
        ];
        let body = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\
             \"application/vnd.oci.image.config.v1+json\",\"digest\":\"{config_digest}\",\"size\":{}}},\"layers\":[{{\"mediaType\":\
             \"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{layer_digest}\",\"size\":{}}}]}}",
            config.len(),
            layer.len()
        );
        let path = format!("/v2/bench/app/manifests/{name}-{number}");
        client.ask("PUT", &path, MANIFEST, body.as_bytes())?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(times)
}

/// Has garbage collected; returns how long that took and how many blobs went.
fn collect(place: &Place, server: &Server) -> Outcome<(Duration, usize)> {
    let begun = Instant::now();
    let option = |name: &str, path: &Path| [name.to_owned(), path.display().to_string()];
    let output = read(
        Command::new(&place.kiln)
            .args(["registry", "gc", "--format", "json"])
            .args(option("--config", &server.folder.join("registry.toml")))
            .args(option("--data", &server.folder.join("data"))),
    )?;
    let time = begun.elapsed();
    let report: serde_json::Value = serde_json::from_slice(&output)
        .map_err(|error| Failure(format!("the report cannot be read: {error}")))?;
    let blobs = report["blobs"].as_u64().unwrap_or_default();
    Ok((time, usize::try_from(blobs).unwrap_or_default()))
}

/// What so many of a hundred are no longer than.
fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or(f64::NAN)
}
