//! Registries that answer wrongly, or not with what was asked for.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::fixtures::busybox_project;
use crate::space::{Run, TestSpace, host};

/// How a registry goes wrong. It answers everything else as a registry does.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Every request gets this status.
    Always(u16),
    /// The manifest gets this status.
    Manifest(u16),
    /// Layers get this status.
    Layers(u16),
    /// Every layer ends after half, for ever.
    HalfLayers,
    /// Layers have other bytes than asked for.
    WrongLayers,
    /// The manifest has other bytes than its digest says.
    WrongManifest,
    /// The manifest is no JSON.
    BrokenManifest,
    /// The first of every three requests fails; a patient client succeeds.
    EveryThird,
}

/// A registry with one repository, `base`, read from an image layout.
struct Faulty {
    address: String,
}

impl Faulty {
    fn start(layout: PathBuf, fault: Fault) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        // Ends with the test program.
        thread::spawn(move || {
            let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
            for stream in listener.incoming().flatten() {
                let (layout, asked) = (layout.clone(), asked.clone());
                thread::spawn(move || {
                    let number = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    // Whoever went away is not answered.
                    drop(answer(stream, &layout, fault, number));
                });
            }
        });
        Self { address }
    }
}

fn answer(stream: TcpStream, layout: &Path, fault: Fault, number: usize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::from("x");
    let mut from = 0;
    while !header.trim().is_empty() {
        header.clear();
        reader.read_line(&mut header)?;
        if let Some(range) = header.to_lowercase().strip_prefix("range: bytes=") {
            from = range.trim().trim_end_matches('-').parse().unwrap_or(0);
        }
    }
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let blob = |digest: &str| {
        fs::read(
            layout
                .join("blobs/sha256")
                .join(digest.trim_start_matches("sha256:")),
        )
    };
    let index = fs::read_to_string(layout.join("index.json"))?;
    let start = index.find("sha256:").expect("a digest");
    let digest = index[start..start + 71].to_owned();
    let is_layer = path.contains("/blobs/")
        && blob(path.rsplit('/').next().unwrap_or("")).is_ok_and(|blob| blob.len() > 3000);
    let (mut status, mut body) = if path == "/v2/" {
        (200, b"{}".to_vec())
    } else if path.contains("/manifests/") {
        (200, blob(&digest)?)
    } else if let Some(name) = path.strip_prefix("/v2/base/blobs/") {
        blob(name).map_or((404, Vec::new()), |blob| (200, blob))
    } else {
        (404, Vec::new())
    };
    let mut length = None;
    match fault {
        Fault::Always(code) => status = code,
        Fault::EveryThird if number.is_multiple_of(3) => status = 503,
        Fault::Manifest(code) if path.contains("/manifests/") => status = code,
        Fault::Layers(code) if is_layer => status = code,
        Fault::HalfLayers if is_layer => {
            length = Some(body.len());
            body.truncate(body.len() / 2);
        }
        Fault::WrongLayers if is_layer => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Fault::WrongManifest if path.contains("/manifests/") => body.push(b' '),
        Fault::BrokenManifest if path.contains("/manifests/") => body = b"<html>".to_vec(),
        Fault::None
        | Fault::EveryThird
        | Fault::Manifest(_)
        | Fault::Layers(_)
        | Fault::HalfLayers
        | Fault::WrongLayers
        | Fault::WrongManifest
        | Fault::BrokenManifest => {}
    }
    if status != 200 {
        body = br#"{"errors":[{"code":"DENIED","message":"so says the test"}]}"#.to_vec();
    } else if from > 0 && from <= body.len() && length.is_none() {
        status = 206;
        body.drain(..from);
    }
    let length = length.unwrap_or(body.len());
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\
         content-type: application/vnd.oci.image.manifest.v1+json\r\n\
         docker-content-digest: {digest}\r\nretry-after: 0\r\n\r\n"
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// A layout of a small image, and a project that starts from a registry of it.
fn project(fault: Fault) -> (TestSpace, TestSpace, String) {
    let keeper = busybox_project("[image.app.step.one]\nrun = \"echo one > /one\"\n");
    keeper.kiln_ok(["build"]);
    keeper.kiln_ok(["save", "-o", "image.tar", "app"]);
    let layout = keeper.path().join("layout");
    fs::create_dir(&layout).expect("a folder");
    host(
        Command::new("tar")
            .args(["-xf", "image.tar", "-C"])
            .arg(&layout)
            .current_dir(keeper.project()),
    );
    let address = Faulty::start(layout, fault).address;
    let space = TestSpace::with_manifest(&format!(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n\
         [image.app]\nfrom = {{ registry = \"{address}/base\" }}\n"
    ));
    (keeper, space, address)
}

#[track_caller]
fn failed(fault: Fault, code: i32, says: &[&str]) -> Run {
    let (_keeper, space, address) = project(fault);
    let run = space.kiln(["build"]);
    assert_eq!(run.code, Some(code), "{fault:?}: {}", run.shown());
    for part in says.iter().copied().chain([&*address]) {
        assert!(
            run.stderr.contains(part),
            "{fault:?}: no `{part}` in {}",
            run.shown()
        );
    }
    assert!(!run.stderr.contains("panicked"), "{}", run.shown());
    assert_eq!(run.stdout, "");
    let images = space.kiln_ok(["images", "--format", "json"]).stdout;
    assert_eq!(images.trim(), "[]", "{fault:?}");
    // A layer that came whole may stay for the next try; of the faulty one there is nothing.
    for layer in fs::read_dir(space.store().join("layers")).expect("a store") {
        let path = layer.expect("a layer").path();
        assert!(path.join("fs/one").exists(), "{fault:?} left a layer");
    }
    run
}

#[test]
fn the_control_a_good_registry() {
    let (_keeper, space, _) = project(Fault::None);
    assert_eq!(space.kiln_ok(["run", "app", "cat", "/one"]).stdout, "one\n");
}

#[test]
fn a_registry_that_says_no() {
    failed(Fault::Always(401), 1, &["anonymous", "kiln login"]);
    failed(Fault::Manifest(403), 1, &["base"]);
    failed(Fault::Manifest(404), 1, &["base"]);
    failed(Fault::Layers(404), 3, &["sha256:"]);
}

#[test]
fn a_registry_that_is_overloaded_or_broken() {
    failed(Fault::Manifest(429), 3, &["limits how often"]);
    failed(Fault::Manifest(500), 3, &["500"]);
    failed(Fault::Layers(503), 3, &["503"]);
}

#[test]
fn blobs_and_manifests_that_are_not_what_was_asked_for() {
    failed(Fault::HalfLayers, 3, &[]);
    failed(Fault::WrongLayers, 3, &["sha256:"]);
    failed(Fault::WrongManifest, 3, &["sha256:"]);
    failed(Fault::BrokenManifest, 3, &[]);
}

#[test]
fn a_registry_that_fails_now_and_then_is_asked_again() {
    let (_keeper, space, _) = project(Fault::EveryThird);
    let mut command = space.command();
    let run = space.run(
        command
            .args(["run", "app", "cat", "/one"])
            .env("KILN_LOG", "debug"),
    );
    run.assert_code(0)
        .assert_says("detail: trying again in ")
        .assert_says("so says the test");
    assert_eq!(run.stdout, "one\n");
}

#[test]
fn a_registry_that_is_not_there() {
    let space = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n\
         [image.app]\nfrom = { registry = \"127.0.0.1:1/base\" }\n",
    );
    space
        .kiln(["build"])
        .assert_code(3)
        .assert_says("127.0.0.1:1");
}
