//! How long a large push takes to a registry whose blobs are in an object store, beside the same bytes put there
//! without a registry.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use kiln_peers::ObjectStore;

use super::Place;
use super::client::Client;
use super::served::{Server, own, shell};
use crate::process::{Failure, Outcome, say};

/// What filters look for.
pub(super) const NAME: &str = "registry in an object store";
/// How often each is measured; the median counts.
const ROUNDS: usize = 3;
/// Bytes of a part and parts at once, as the AWS command line has them unless it is told otherwise.
const PART: usize = 8 << 20;
const AT_ONCE: usize = 10;
const BYTES: &str = "application/octet-stream";

/// The file that is pushed, and its bytes.
struct Large {
    path: PathBuf,
    bytes: usize,
}

/// Pushes a blob in three ways, in turn; returns the table.
///
/// # Errors
/// The store or the registry does not answer as it should.
pub(super) fn measure(place: &Place) -> Outcome<String> {
    if !ObjectStore::is_installed() {
        say("registry in an object store: SeaweedFS is not installed; left out");
        return Ok(String::new());
    }
    let folder = place.folder.join("bucket");
    fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let store = ObjectStore::start(&folder.join("store"))?;
    let server = own(
        place,
        &folder,
        &format!(
            "[storage]\nendpoint = \"http://{}\"\nbucket = \"{}\"\ncredentials = \"{}\"\n",
            store.host(),
            ObjectStore::BUCKET,
            store.credentials().display()
        ),
    )?;
    let large = Large {
        path: folder.join("large"),
        bytes: if place.is_trial { 64 << 20 } else { 1 << 30 },
    };
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        // Others each time: what a registry has need not be sent to it again.
        let (path, bytes) = (large.path.display(), large.bytes);
        shell(&format!("head -c {bytes} /dev/urandom > {path}"))?;
        let digest = shell(&format!("sha256sum {path} | cut -d' ' -f1"))?;
        times[0].push(seconds(|| push(&server, &large, &digest))?);
        times[1].push(seconds(|| put_in_parts(&store, &large))?);
        times[2].push(seconds(|| put_whole(&store, &large))?);
    }
    let [kiln, parts, whole] = times.map(median);
    let row = format!(
        "| push of {} MiB | {kiln:.2} s | {parts:.2} s | {whole:.2} s | {:.2} | 1.20 |\n",
        large.bytes >> 20,
        kiln / parts.min(whole)
    );
    say(row.trim_end());
    Ok(format!(
        "\n| registry in an object store | kiln | put in parts, {AT_ONCE} at once | put whole | kiln to the better | goal |\n\
         | --- | --- | --- | --- | --- | --- |\n{row}"
    ))
}

fn seconds(work: impl FnOnce() -> Outcome) -> Outcome<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn push(server: &Server, large: &Large, digest: &str) -> Outcome {
    let script = super::served::push_script(
        &server.login(),
        &server.host,
        &large.path.display().to_string(),
    );
    shell(&format!("digest=sha256:{digest}\n{script}")).map(drop)
}

/// Nobody is asked who they are there: signing is not what is measured.
fn put_whole(store: &ObjectStore, large: &Large) -> Outcome {
    let (file, host, bucket) = (large.path.display(), store.host(), ObjectStore::BUCKET);
    shell(&format!(
        "curl -sf -T {file} -H 'Expect:' http://{host}/{bucket}/whole > /dev/null"
    ))
    .map(drop)
}

fn put_in_parts(store: &ObjectStore, large: &Large) -> Outcome {
    let host = store.host();
    let object = format!("/{}/parts", ObjectStore::BUCKET);
    let mut client = Client::connect(&host, None)?;
    let begun = client.ask("POST", &format!("{object}?uploads"), BYTES, b"")?;
    let text = String::from_utf8_lossy(&begun.body).into_owned();
    let id = text
        .split_once("<UploadId>")
        .and_then(|(_, rest)| rest.split_once("</UploadId>"))
        .map(|(id, _)| id.to_owned())
        .ok_or_else(|| Failure(format!("the store names no upload: {text}")))?;
    let next = AtomicUsize::new(0);
    let mut parts: Vec<(usize, String)> = thread::scope(|scope| {
        let senders: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let place = format!("{object}?uploadId={id}");
                let (next, host, file) = (&next, &host, &large.path);
                scope.spawn(move || send_parts(host, &place, file, large.bytes, next))
            })
            .collect();
        let sent = senders
            .into_iter()
            .map(|sender| sender.join().expect("nothing panics"));
        let sent: Outcome<Vec<_>> = sent.collect();
        sent.map(|sent| sent.into_iter().flatten().collect())
    })?;
    parts.sort();
    let mut document = String::from("<CompleteMultipartUpload>");
    for (number, etag) in parts {
        document.push_str(&format!(
            "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>",
            number + 1
        ));
    }
    document.push_str("</CompleteMultipartUpload>");
    let path = format!("{object}?uploadId={id}");
    client
        .ask("POST", &path, "application/xml", document.as_bytes())
        .map(drop)
}

/// Sends parts until there are no more; returns their numbers and what the store calls them.
fn send_parts(
    host: &str,
    place: &str,
    file: &Path,
    bytes: usize,
    next: &AtomicUsize,
) -> Outcome<Vec<(usize, String)>> {
    let failed = |error| Failure::io(file, &error);
    let source = File::open(file).map_err(failed)?;
    let mut client = Client::connect(host, None)?;
    let mut sent = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let at = number * PART;
        if at >= bytes {
            return Ok(sent);
        }
        let mut part = vec![0; PART.min(bytes - at)];
        source.read_exact_at(&mut part, at as u64).map_err(failed)?;
        let path = format!("{place}&partNumber={}", number + 1);
        let answer = client.ask("PUT", &path, BYTES, &part)?;
        let etag = answer.header("etag").unwrap_or_default().to_owned();
        sent.push((number, etag));
    }
}
