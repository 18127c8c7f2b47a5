//! Whole requests, to a registry that runs: each is answered, and never with a failure of ours.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::api::Peer;
use crate::config::Config;
use crate::digest::{Algorithm, Digest};
use crate::registry::{Registry, runtime};
use crate::serve::Shared;

const METHODS: [&str; 8] = [
    "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW",
];
/// Headers that say where a request ends, which is not for the input to say.
const OURS: [&str; 5] = [
    "content-length",
    "transfer-encoding",
    "connection",
    "expect",
    "upgrade",
];
/// An answer that takes longer does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A registry that is asked.
#[expect(missing_debug_implementations, reason = "nobody shows it")]
pub struct Requests {
    shared: Arc<Shared>,
    runtime: Runtime,
    _stopping: watch::Sender<bool>,
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A request that ends where it says.
fn spelled(method: &str, rest: &[u8], upload: &str) -> Vec<u8> {
    let mut lines = rest.split(|byte| *byte == b'\n');
    let mut heads = Vec::new();
    for line in lines.by_ref() {
        if line.is_empty() {
            break;
        }
        heads.push(line);
    }
    let body: Vec<u8> = lines.collect::<Vec<_>>().join(&b'\n');
    let digest = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes).to_string();
    let fill = |line: &[u8]| -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = line;
        while let [first, tail @ ..] = rest {
            let (text, tail) = match (first, tail.first()) {
                (b'@', Some(b'd')) => (digest(&body), &tail[1..]),
                (b'@', Some(b'b')) => (digest(BLOB), &tail[1..]),
                (b'@', Some(b'm')) => (digest(&manifest()), &tail[1..]),
                (b'@', Some(b'u')) => (upload.to_owned(), &tail[1..]),
                _ => {
                    out.push(*first);
                    rest = tail;
                    continue;
                }
            };
            out.extend_from_slice(text.as_bytes());
            rest = tail;
        }
        out
    };
    let mut request = format!("{method} ").into_bytes();
    let mut heads = heads.into_iter();
    request.extend(fill(heads.next().unwrap_or(b"/")));
    request.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\n");
    for line in heads {
        let name: String = String::from_utf8_lossy(line)
            .split(':')
            .next()
            .unwrap_or_default()
            .trim()
            .to_lowercase();
        if !OURS.contains(&name.as_str()) {
            request.extend(fill(line));
            request.extend_from_slice(b"\r\n");
        }
    }
    request.extend_from_slice(
        format!(
            "Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    request.extend_from_slice(&body);
    request
}

const BLOB: &[u8] = b"{}";

/// A manifest whose parts are there.
fn manifest() -> Vec<u8> {
    let digest = Digest::of(Algorithm::Sha256, BLOB);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{{\"mediaType\":\"a/b\",\"digest\":\"{digest}\",\"size\":2}},\"layers\":[]}}"
    )
    .into_bytes()
}

impl Requests {
    /// Opens a registry in an empty folder.
    ///
    /// # Panics
    /// If that is not possible.
    pub fn new(folder: &Path) -> Self {
        let config: Config =
            toml::from_str("[limits]\nreserve = 0\n[log]\nrequests = false\n").expect("settings");
        // Outputs need not depend on the time, and what is collected is not for this.
        let clock = Arc::new(|| UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let registry = Registry::open(folder, config, clock).expect("a registry");
        let (stopping, stop) = watch::channel(false);
        let requests = Self {
            shared: Arc::new(Shared::alone(registry, stop).expect("a server")),
            _stopping: stopping,
            runtime: runtime().expect("a runtime"),
        };
        let put = |request: &[u8]| {
            let answer = requests.ask(request);
            let text = String::from_utf8_lossy(&answer);
            assert!(text.starts_with("HTTP/1.1 201"), "{text}");
        };
        put(&spelled(
            "POST",
            b"/v2/a/blobs/uploads/?digest=@d\n\n{}",
            "",
        ));
        let mut request = b"/v2/a/manifests/v1\n\n".to_vec();
        request.extend(manifest());
        put(&spelled("PUT", &request, ""));
        requests
    }

    /// Sends requests, one after another: a byte for the method, a line for the path, lines for headers, an empty line,
    /// and the body; a zero byte separates them. `@d` stands for the digest of the body, `@b` and `@m` for a blob and a
    /// manifest that are there, `@u` for an upload that is under way.
    ///
    /// # Panics
    /// If one is not answered, or with a failure that is not the client's.
    pub fn send(&self, bytes: &[u8]) {
        let mut upload = String::new();
        for request in bytes.split(|byte| *byte == 0).take(8) {
            let Some((method, rest)) = request.split_first() else {
                continue;
            };
            let method = METHODS[usize::from(*method) % METHODS.len()];
            if upload.is_empty() && contains(rest, b"@u") {
                upload = self.begin();
            }
            let answer = self.ask(&spelled(method, rest, &upload));
            let text = String::from_utf8_lossy(&answer);
            let status = text
                .strip_prefix("HTTP/1.1 ")
                .and_then(|rest| rest.get(..3));
            let status: u16 = status.and_then(|text| text.parse().ok()).unwrap_or(0);
            let is_ours = (500..600).contains(&status) || status == 0;
            assert!(
                !is_ours,
                "{method} {}\n{text}",
                String::from_utf8_lossy(rest)
            );
        }
    }

    /// Begins an upload; returns its id.
    fn begin(&self) -> String {
        let answer = self.ask(&spelled("POST", b"/v2/a/blobs/uploads/\n\n", ""));
        let text = String::from_utf8_lossy(&answer);
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("docker-upload-uuid: "));
        line.expect("an upload").trim().to_owned()
    }

    fn ask(&self, request: &[u8]) -> Vec<u8> {
        let peer = Peer {
            address: [127, 0, 0, 1].into(),
            tls: false,
        };
        self.runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(64 << 10);
            let shared = Arc::clone(&self.shared);
            let serving = tokio::spawn(async move { shared.answer_all(server, peer).await });
            let (mut from, mut to) = tokio::io::split(&mut client);
            let mut answer = Vec::new();
            let talk = async {
                // The answer may come before all is said.
                let (written, read) =
                    tokio::join!(to.write_all(request), from.read_to_end(&mut answer));
                drop(written);
                read
            };
            let read = tokio::time::timeout(PATIENCE, talk).await;
            read.expect("an answer in time").expect("an answer");
            drop((from, to));
            drop(client);
            serving.await.expect("no panic");
            answer
        })
    }
}
