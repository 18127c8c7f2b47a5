//! Several blobs at once, and how they stop.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn blobs_come_several_at_once_and_each_once() {
    let mut image = TestImage::new("linux/amd64", &[1000, 2000, 3000, 4000]);
    // The first layer twice.
    let again = String::from_utf8(image.manifest.clone()).unwrap();
    let first = again
        .split_once(r#""layers":["#)
        .unwrap()
        .1
        .split_once("},")
        .unwrap()
        .0
        .to_owned()
        + "},";
    image.manifest = again
        .replacen(r#""layers":["#, &format!(r#""layers":[{first}"#), 1)
        .into_bytes();
    let meeting = Arc::new(Barrier::new(4));
    let config = Digest::of(&image.config).hex();
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            if request.target.contains("/blobs/") && !request.target.ends_with(&config) {
                // Nobody is answered before all four are here.
                meeting.wait();
            }
            real()
        });
    pull_from(&server, "app").unwrap();
    let blobs = asked(&server)
        .into_iter()
        .filter(|line| line.contains("/blobs/"))
        .count();
    assert_eq!(blobs, 5);
}

#[test]
fn the_first_failure_stops_the_others() {
    let image = TestImage::new("linux/amd64", &[1000, 2000, 3000]);
    let bad = Digest::of(&image.layers[1]).hex();
    let layers: Vec<String> = image
        .layers
        .iter()
        .map(|layer| Digest::of(layer).hex())
        .collect();
    let waiting = AtomicUsize::new(0);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&bad) {
                while waiting.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
                return Answer::new(404);
            }
            if layers.iter().any(|layer| request.target.ends_with(layer)) {
                waiting.fetch_add(1, Ordering::SeqCst);
                answer.stall_after = Some(10);
            }
            answer
        });
    let patient = Registry::new(
        kiln_http::Client::new(kiln_http::Settings::default()),
        Settings::default(),
    );
    let started = Instant::now();
    let error = pull(&patient, &on(&server, "app"), &Memory::default()).unwrap_err();
    assert!(matches!(error, Error::BlobNotFound { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_cancelled_pull_stops_and_keeps_what_came() {
    let image = TestImage::new("linux/amd64", &[1_000_000, 2000]);
    let large = Digest::of(&image.layers[0]);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&large.hex()) {
                answer.stall_after = Some(600_000);
            }
            answer
        });
    let patient = Registry::new(
        kiln_http::Client::new(kiln_http::Settings::default()),
        Settings::default(),
    );
    let (sink, cancel) = (Memory::default(), Cancel::new());
    let stop = |progress: Progress| {
        if progress.digest == large && progress.done_bytes > 100_000 {
            cancel.cancel();
        }
    };
    let started = Instant::now();
    let error = patient
        .pull(&on(&server, "app"), &amd64(), &sink, &stop, &cancel)
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(sink.partial.lock().unwrap()[&large].len() > 100_000);
    assert!(sink.get(image.digest()).is_none());
}
