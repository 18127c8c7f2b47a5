//! `Client::download`: resume, restart, and bytes that are not the right ones.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{Answer, Received, Server};
use kiln_http::{
    Cancel, Client, Download, Downloaded, Error, Request, RetryPolicy, Settings, Sink, Timeouts,
};
use kiln_oci::Digest;

fn client() -> Client {
    Client::new(Settings {
        timeouts: Timeouts {
            first_byte: Duration::from_millis(500),
            idle: Duration::from_millis(300),
            ..Timeouts::default()
        },
        retry: RetryPolicy {
            tries: 3,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_millis(2),
            ..RetryPolicy::default()
        },
        ..Settings::default()
    })
}

/// Bytes without repetition, so that a piece in the wrong place shows.
fn content(size: usize) -> Vec<u8> {
    (0..size as u64 / 8 + 1)
        .flat_map(|n| (n ^ 0x5bd1_e995).to_be_bytes())
        .take(size)
        .collect()
}

fn asked(server: &Server, body: &[u8]) -> Download {
    Download {
        request: Request::get(server.url("/blob").parse().unwrap()),
        digest: Some(Digest::of(body)),
        size_bytes: Some(body.len() as u64),
        limit_bytes: 1 << 30,
    }
}

fn run(download: &Download, sink: &mut dyn Sink) -> Result<Downloaded, Error> {
    client().download(download, sink, &mut |_| {}, &Cancel::new())
}

/// Serves `body` with ranges; the n-th answer is spoiled by `spoil`.
fn serving(
    body: &[u8],
    spoil: impl Fn(usize, &Received, Answer) -> Answer + Send + Sync + 'static,
) -> Server {
    let body = body.to_vec();
    let count = AtomicUsize::new(0);
    Server::start(move |request| {
        let answer = Answer::ranged(request, &body);
        spoil(count.fetch_add(1, Ordering::SeqCst), request, answer)
    })
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let body = content(3_000_000);
    // Each try gets a little further, more often than there are tries without progress.
    let server = serving(&body, |count, _, mut answer| {
        answer.cut_after = (count < 6).then_some(400_000);
        answer
    });
    let mut sink = Vec::new();
    let done = run(&asked(&server, &body), &mut sink).unwrap();
    assert_eq!(
        (done.size_bytes, done.digest, done.held_bytes),
        (3_000_000, Digest::of(&body), 0)
    );
    assert!(sink == body);
    let starts: Vec<_> = server
        .received()
        .iter()
        .map(Received::range_start)
        .collect();
    assert_eq!(starts[0], None);
    assert_eq!(starts[6], Some(2_400_000), "{starts:?}");
}

#[test]
fn a_stalled_download_goes_on_on_another_connection() {
    let body = content(100_000);
    let server = serving(&body, |count, _, mut answer| {
        answer.stall_after = (count == 0).then_some(60_000);
        answer
    });
    let mut sink = Vec::new();
    run(&asked(&server, &body), &mut sink).unwrap();
    assert!(sink == body);
    assert_eq!(server.received()[1].range_start(), Some(60_000));
}

#[test]
fn a_server_without_ranges_is_asked_for_all_again() {
    let body = content(100_000);
    let whole = body.clone();
    let server = serving(&body, move |count, _, _| Answer {
        cut_after: (count == 0).then_some(60_000),
        ..Answer::ok(whole.clone())
    });
    let mut sink = Vec::new();
    run(&asked(&server, &body), &mut sink).unwrap();
    assert!(sink == body);
}

#[test]
fn a_later_process_goes_on_with_the_file() {
    let body = content(100_000);
    let server = serving(&body, |_, _, answer| answer);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("partial");
    std::fs::write(&path, &body[..70_000]).unwrap();
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap()
    };
    let done = run(&asked(&server, &body), &mut open()).unwrap();
    assert_eq!(done.held_bytes, 70_000);
    assert!(std::fs::read(&path).unwrap() == body);
    assert_eq!(server.received()[0].range_start(), Some(70_000));
    // Complete already: nothing is asked.
    run(&asked(&server, &body), &mut open()).unwrap();
    assert_eq!(server.received().len(), 1);
}

#[test]
fn bad_bytes_of_an_earlier_process_are_fetched_again() {
    let body = content(100_000);
    for held in [vec![0; 70_000], vec![0; 100_000], vec![0; 200_000]] {
        let server = serving(&body, |_, _, answer| answer);
        let mut sink = held;
        let done = run(&asked(&server, &body), &mut sink).unwrap();
        assert_eq!(done.held_bytes, 0);
        assert!(sink == body);
    }
}

#[test]
fn without_a_digest_nothing_of_an_earlier_process_is_used() {
    let body = content(1000);
    let server = serving(&body, |_, _, answer| answer);
    let mut sink = body[..500].to_vec();
    let download = Download {
        digest: None,
        size_bytes: None,
        ..asked(&server, &body)
    };
    let done = run(&download, &mut sink).unwrap();
    assert!(sink == body);
    assert_eq!(done.digest, Digest::of(&body));
    assert_eq!(server.received()[0].range_start(), None);
}

#[test]
fn without_a_digest_pieces_of_two_versions_are_not_mixed() {
    let (old, new) = (content(100_000), content(90_000));
    let body = new.clone();
    let server = Server::start(move |request| {
        if request.header("if-range").is_some() {
            // The version has changed: all of the new one.
            assert_eq!(request.header("if-range"), Some("\"v1\""));
            return Answer::ok(body.clone()).header("etag", "\"v2\"");
        }
        Answer {
            cut_after: Some(50_000),
            ..Answer::ok(old.clone()).header("etag", "\"v1\"")
        }
    });
    let mut sink = Vec::new();
    let download = Download {
        digest: None,
        size_bytes: None,
        ..asked(&server, &new)
    };
    run(&download, &mut sink).unwrap();
    assert!(sink == new);
}

#[test]
fn a_digest_that_differs_is_an_error_that_keeps_nothing() {
    let (body, page) = (content(5000), b"<html>log in to the hotel's network</html>");
    let server = Server::start(|_| Answer::ok(*page));
    let mut sink = Vec::new();
    let download = Download {
        size_bytes: None,
        ..asked(&server, &body)
    };
    let error = run(&download, &mut sink).unwrap_err();
    let Error::WrongDigest {
        expected,
        actual,
        ref body,
        status: 200,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(
        (expected, actual),
        (download.digest.unwrap(), Digest::of(page))
    );
    assert!(body.text().contains("hotel"));
    assert!(sink.is_empty());
    assert_eq!(server.received().len(), 1);
}

#[test]
fn a_size_that_differs_is_an_error_before_the_body() {
    let body = content(5000);
    for wrong in [4999, 5001] {
        let served = content(wrong);
        let server = Server::start(move |_| Answer::ok(served.clone()));
        let mut sink = Vec::new();
        let error = run(&asked(&server, &body), &mut sink).unwrap_err();
        let Error::WrongSize {
            expected: 5000,
            actual,
            ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(actual, wrong as u64);
        assert!(sink.is_empty());
    }
}

#[test]
fn bodies_of_unknown_length_are_limited_all_the_same() {
    let body = content(2_000_000);
    let served = body.clone();
    let server = Server::start(move |_| Answer {
        chunked: true,
        ..Answer::ok(served.clone())
    });
    let mut sink = Vec::new();
    let unknown = Download {
        digest: None,
        size_bytes: None,
        limit_bytes: 1_000_000,
        ..asked(&server, &body)
    };
    let error = run(&unknown, &mut sink).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLarge {
                limit_bytes: 1_000_000,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(sink.is_empty());
    let shorter = Download {
        size_bytes: Some(1_500_000),
        ..asked(&server, &body)
    };
    let error = run(&shorter, &mut sink).unwrap_err();
    assert!(
        matches!(
            error,
            Error::WrongSize {
                expected: 1_500_000,
                ..
            }
        ),
        "{error:?}"
    );
    let longer = Download {
        size_bytes: Some(2_500_000),
        digest: Some(Digest::of(b"")),
        ..asked(&server, &body)
    };
    let error = run(&longer, &mut sink).unwrap_err();
    assert!(
        matches!(
            error,
            Error::WrongSize {
                expected: 2_500_000,
                ..
            }
        ),
        "{error:?}"
    );
    let right = asked(&server, &body);
    run(&right, &mut sink).unwrap();
    assert!(sink == body);
}

#[test]
fn a_part_from_the_wrong_place_is_refused() {
    let body = content(100_000);
    let server = serving(&body, |count, _, mut answer| {
        if count == 0 {
            answer.cut_after = Some(60_000);
        } else {
            answer.headers.retain(|(name, _)| name != "content-range");
            answer = answer.header("content-range", "bytes 10-99999/100000");
        }
        answer
    });
    let mut sink = Vec::new();
    let error = run(&asked(&server, &body), &mut sink).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[test]
fn empty_bodies_are_bodies() {
    let server = Server::start(|_| Answer::ok(""));
    let mut sink = Vec::new();
    assert_eq!(run(&asked(&server, b""), &mut sink).unwrap().size_bytes, 0);
}

#[test]
fn a_missing_file_and_a_full_disk_are_told_apart() {
    struct Full;
    impl Sink for Full {
        fn held(&mut self) -> std::io::Result<u64> {
            Ok(0)
        }
        fn reread(&mut self, _: &mut dyn FnMut(&[u8])) -> std::io::Result<()> {
            Ok(())
        }
        fn append(&mut self, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn restart(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let body = content(1000);
    let server = serving(&body, |_, _, answer| answer);
    let error = run(&asked(&server, &body), &mut Full).unwrap_err();
    assert!(matches!(error, Error::Sink { .. }), "{error:?}");

    let server = Server::start(|_| Answer::new(404).body("no such blob"));
    let error = run(&asked(&server, &body), &mut Vec::new()).unwrap_err();
    assert!(
        matches!(error, Error::Status { status: 404, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().ends_with("answered 404: no such blob"),
        "{error}"
    );
}

#[test]
fn a_cancelled_download_keeps_what_came_and_goes_on_later() {
    let body = content(1_000_000);
    let server = serving(&body, |count, _, mut answer| {
        answer.stall_after = (count == 0).then_some(600_000);
        answer
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("partial");
    let mut file = File::create_new(&path).unwrap();
    let cancel = Cancel::new();
    let download = asked(&server, &body);
    let patient = Client::new(Settings::default());
    let error = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            patient
                .download(&download, &mut file, &mut |_| {}, &cancel)
                .unwrap_err()
        });
        while std::fs::metadata(&path).unwrap().len() < 262_144 {
            thread::yield_now();
        }
        let cancelled = Instant::now();
        cancel.cancel();
        let error = worker.join().unwrap();
        assert!(cancelled.elapsed() < Duration::from_secs(2));
        error
    });
    assert!(matches!(error, Error::Cancelled(_)), "{error:?}");
    drop(file);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let done = run(&download, &mut file).unwrap();
    assert!(done.held_bytes >= 262_144);
    file.flush().unwrap();
    file.rewind().unwrap();
    assert!(std::fs::read(&path).unwrap() == body);
}

#[test]
fn progress_is_told() {
    let body = content(2_000_000);
    let server = serving(&body, |_, _, answer| answer);
    let mut seen = Vec::new();
    let mut sink = Vec::new();
    client()
        .download(
            &asked(&server, &body),
            &mut sink,
            &mut |progress| seen.push(progress),
            &Cancel::new(),
        )
        .unwrap();
    assert!(seen.is_sorted_by_key(|progress| progress.done_bytes));
    let last = seen.last().unwrap();
    assert_eq!(
        (last.done_bytes, last.total_bytes),
        (2_000_000, Some(2_000_000))
    );
    assert!(seen.len() > 3);
}
