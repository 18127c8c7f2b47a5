//! Uploads that are cut, forgotten, refused or stopped half-way.

use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::mutable::upload_number;

#[test]
fn an_upload_that_was_cut_goes_on_where_it_stopped() {
    let server = going_wrong(is_large, |count, request, state| {
        // More cuts than there are tries, but each time a part arrived.
        (count < 6).then(|| {
            let upload = state.uploads[upload_number(request)].as_mut().unwrap();
            upload.extend_from_slice(&request.body[..30_000]);
            Answer {
                hang_up: true,
                ..Answer::ok("")
            }
        })
    });
    let image = TestImage::new("linux/amd64", &[300_000]);
    let (pushed, source) = push(&server, &image).unwrap();
    assert_there(&server, "team/app", &image);
    let opened = source.opened.into_inner().unwrap();
    let large: Vec<_> = opened
        .iter()
        .filter(|(size, _)| *size == 300_000)
        .map(|(_, from)| *from)
        .collect();
    assert_eq!(
        large,
        [0, 30_000, 60_000, 90_000, 120_000, 150_000, 180_000]
    );
    assert_eq!(pushed.blobs.len(), 2);
    let posts = asked(&server.server);
    let posts = posts.iter().filter(|request| request.starts_with("POST"));
    assert_eq!(posts.count(), 2);
}

#[test]
fn an_upload_that_the_registry_forgot_starts_over() {
    let server = going_wrong(is_large, |count, _, state| {
        (count == 0).then(|| {
            state.uploads.iter_mut().for_each(|upload| *upload = None);
            Answer {
                hang_up: true,
                ..Answer::ok("")
            }
        })
    });
    let image = image();
    push(&server, &image).unwrap();
    assert_there(&server, "team/app", &image);
}

#[test]
fn pieces_that_do_not_fit_together_are_sent_again_in_one() {
    let server = going_wrong(is_large, |count, request, state| {
        (count == 0).then(|| {
            let upload = state.uploads[upload_number(request)].as_mut().unwrap();
            upload.extend_from_slice(&request.body[..90_000]);
            upload[7] ^= 1;
            Answer {
                hang_up: true,
                ..Answer::ok("")
            }
        })
    });
    let image = image();
    push(&server, &image).unwrap();
    assert_there(&server, "team/app", &image);
    let methods: Vec<_> = server
        .server
        .received()
        .into_iter()
        .filter(is_large)
        .map(|request| request.method)
        .collect();
    assert_eq!(methods, ["PUT", "PATCH", "PUT"]);
}

#[test]
fn a_lost_answer_costs_no_second_upload() {
    let server = going_wrong(is_large, |count, request, state| {
        (count == 0).then(|| {
            state.answer(request);
            Answer {
                hang_up: true,
                ..Answer::ok("")
            }
        })
    });
    let image = image();
    let (_, source) = push(&server, &image).unwrap();
    assert_there(&server, "team/app", &image);
    let opened = source.opened.into_inner().unwrap();
    let large = opened.iter().filter(|(size, _)| *size == 300_000);
    assert_eq!(large.count(), 1);
}

#[test]
fn patience_is_asked_for_and_given() {
    for trouble in [
        Answer::new(429).header("retry-after", "1"),
        Answer::new(503).header("retry-after", "1"),
        Answer::new(500),
    ] {
        let waits = trouble.status != 500;
        let server = going_wrong(is_large, move |count, _, _| {
            (count == 0).then(|| trouble.clone())
        });
        let image = image();
        let started = Instant::now();
        push(&server, &image).unwrap();
        assert_there(&server, "team/app", &image);
        assert!(!waits || started.elapsed() >= Duration::from_secs(1));
    }
    // It ends.
    let server = going_wrong(is_large, |_, _, _| Some(Answer::new(500)));
    let error = push(&server, &image()).unwrap_err();
    assert!(error.to_string().starts_with("cannot push `"), "{error}");
    assert!(error.to_string().contains("tried 3 times"), "{error}");
}

#[test]
fn a_registry_that_takes_no_large_bodies_gets_pieces() {
    const LARGEST: usize = 17 << 20;
    let server = Mutable::spoiled(|request, state| {
        if request.body.len() > LARGEST {
            return Some(Answer::new(413).body("<h1>too large</h1>"));
        }
        let mut answer = state.answer(request);
        if request.method == "POST" {
            answer = answer.header("oci-chunk-min-length", (LARGEST as u64).to_string());
        }
        Some(answer)
    });
    let image = TestImage::new("linux/amd64", &[20 << 20, 5]);
    push(&server, &image).unwrap();
    assert_there(&server, "team/app", &image);
    let pieces: Vec<_> = server
        .server
        .received()
        .iter()
        .filter(|request| request.method == "PATCH")
        .map(|request| request.body.len())
        .collect();
    // Not below what the registry wants, but for the last one.
    assert_eq!(pieces, [LARGEST, (20 << 20) - LARGEST]);
    // One that takes no pieces either says so.
    let server = going_wrong(is_large, |_, _, _| Some(Answer::new(413)));
    let error = push(&server, &image).unwrap_err();
    assert!(
        matches!(error, Error::Rejected { status: 413, .. }),
        "{error}"
    );
}

#[test]
fn a_cancelled_push_stops_within_a_moment_and_leaves_the_name_alone() {
    let server = going_wrong(is_large, |_, _, _| {
        Some(Answer {
            mute: true,
            ..Answer::ok("")
        })
    });
    let (image, cancel) = (image(), Cancel::new());
    let (documents, source) = (image.documents(), Blobs::of(&[&image]));
    let started = Instant::now();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let reference = on(&server.server, "team/app:1");
            registry(Settings::default()).push(&reference, &documents, &source, &|_| {}, &cancel)
        });
        while !server.server.received().iter().any(is_large) {
            thread::yield_now();
        }
        cancel.cancel();
        let error = worker.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled(_)), "{error}");
    });
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(server.manifest("team/app:1"), None);
}
