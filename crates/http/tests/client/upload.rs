//! `Client::send` and `Client::upload`: what is sent whole, again, elsewhere, or not at all.

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{Answer, Server};
use kiln_http::{
    Cancel, Client, Error, Method, Request, Response, RetryPolicy, Settings, Source, Timeouts,
    Upload,
};

fn client() -> Client {
    Client::new(Settings {
        timeouts: Timeouts {
            first_byte: Duration::from_millis(500),
            idle: Duration::from_millis(500),
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

/// A source that counts how often it was opened, and never is in memory.
struct Zeros {
    size: u64,
    opened: AtomicUsize,
    read: AtomicUsize,
}

impl Zeros {
    fn new(size: u64) -> Self {
        Self {
            size,
            opened: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
        }
    }
}

struct Counted<'a>(&'a AtomicUsize, io::Take<io::Repeat>);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.1.read(buffer)?;
        self.0.fetch_add(read, Ordering::SeqCst);
        Ok(read)
    }
}

impl Source for Zeros {
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Counted(&self.read, io::repeat(0).take(self.size))))
    }
}

fn request(method: Method, url: &str) -> Request {
    Request::new(method, url.parse().unwrap()).header("content-type", "application/octet-stream")
}

fn upload(request: &Request, source: &dyn Source, size_bytes: u64) -> Result<Response, Error> {
    let upload = Upload {
        request,
        source,
        size_bytes: Some(size_bytes),
    };
    client().upload(&upload, &mut |_| {}, &Cancel::new())
}

#[test]
fn a_body_arrives_with_its_length_and_progress() {
    let server = Server::start(|_| Answer::new(201).header("location", "/x"));
    let client = client();
    let put = request(Method::Put, &server.url("/blob?digest=a"));
    let mut seen = Vec::new();
    let body = (0..750_000_u32)
        .flat_map(u32::to_be_bytes)
        .collect::<Vec<_>>();
    let upload = Upload {
        request: &put,
        source: &body.as_slice(),
        size_bytes: Some(body.len() as u64),
    };
    let reply = client
        .send(&upload, &mut |sent| seen.push(sent), &Cancel::new())
        .unwrap();
    assert_eq!((reply.status, reply.header("location")), (201, Some("/x")));
    let received = &server.received()[0];
    assert!(received.body == body);
    assert_eq!(received.method, "PUT");
    assert_eq!(received.header("content-length"), Some("3000000"));
    assert_eq!(received.header("transfer-encoding"), None);
    assert!(
        seen.is_sorted() && seen.last() == Some(&3_000_000),
        "{seen:?}"
    );
    // The connection is kept.
    let patch = request(Method::Patch, &server.url("/blob"));
    let upload = Upload {
        request: &patch,
        source: &[].as_slice(),
        size_bytes: Some(0),
    };
    client.send(&upload, &mut |_| {}, &Cancel::new()).unwrap();
    assert_eq!(server.received()[1].header("content-length"), Some("0"));
    assert_eq!(server.connections(), 1);
}

#[test]
fn what_may_be_repeated_starts_over() {
    for spoilt in [
        Answer::new(500),
        Answer::new(429).header("retry-after", "0"),
        Answer::new(503),
        Answer {
            hang_up: true,
            ..Answer::ok("")
        },
    ] {
        let serve = || {
            let (count, spoilt) = (AtomicUsize::new(0), spoilt.clone());
            Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
                0 => spoilt.clone(),
                _ => Answer::new(201),
            })
        };
        let (server, source) = (serve(), Zeros::new(1_000_000));
        let put = request(Method::Put, &server.url("/blob"));
        assert_eq!(upload(&put, &source, 1_000_000).unwrap().status, 201);
        assert_eq!(source.opened.load(Ordering::SeqCst), 2);
        assert_eq!(server.received()[1].body.len(), 1_000_000);
        // Half of a PATCH may have been kept: only its protocol tells how to go on.
        let (server, source) = (serve(), Zeros::new(1_000));
        let patch = request(Method::Patch, &server.url("/blob"));
        assert!(upload(&patch, &source, 1_000).is_err());
        assert_eq!(source.opened.load(Ordering::SeqCst), 1);
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn a_caller_may_count_tries_by_itself() {
    let server = Server::start(|_| Answer::new(503).header("retry-after", "0"));
    let (client, source) = (client(), Zeros::new(10));
    let patch = request(Method::Patch, &server.url("/blob"));
    let upload = Upload {
        request: &patch,
        source: &source,
        size_bytes: Some(10),
    };
    let mut attempts = client.attempts(&patch);
    let error = loop {
        let failure = client
            .send(&upload, &mut |_| {}, &Cancel::new())
            .unwrap_err();
        assert!(failure.may_pass());
        if let Err(error) = attempts.wait(failure, &Cancel::new()) {
            break error;
        }
    };
    assert!(matches!(error, Error::Server { tries: 3, .. }), "{error}");
}

#[test]
fn a_redirect_elsewhere_gets_the_body_and_no_credentials() {
    let storage = Server::start(|_| Answer::new(201));
    let there = storage.url("/storage?signature=x");
    let server = Server::start(move |request| {
        if request.target == "/blob" {
            Answer::new(307).header("location", there.clone())
        } else {
            Answer::new(302).header("location", "/blob")
        }
    });
    let source = Zeros::new(5_000);
    let put = request(Method::Put, &server.url("/moved")).authorization("Bearer s3cret");
    assert_eq!(upload(&put, &source, 5_000).unwrap().status, 201);
    let asked = server.received();
    assert!(asked.iter().all(|request| request.method == "PUT"
        && request.header("authorization") == Some("Bearer s3cret")));
    let stored = &storage.received()[0];
    assert_eq!((stored.method.as_str(), stored.body.len()), ("PUT", 5_000));
    assert_eq!(stored.header("authorization"), None);
    // A 303 leads to what the upload made.
    let server = Server::start(|request| match request.method.as_str() {
        "PUT" => Answer::new(303).header("location", "/made"),
        _ => Answer::ok("made"),
    });
    let put = request(Method::Put, &server.url("/blob"));
    assert_eq!(upload(&put, &source, 5_000).unwrap().body, b"made");
    assert_eq!(server.received()[1].header("content-length"), None);
}

#[test]
fn an_answer_before_the_end_of_the_body_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/blob", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 1024];
        let read = stream.read(&mut head).unwrap();
        assert!(head[..read].starts_with(b"PUT /blob"));
        let said = b"HTTP/1.1 413 Too Large\r\ncontent-length: 9\r\n\r\ntoo large";
        stream.write_all(said).unwrap();
        // Closed with most of the body unread: the client's next writes are reset.
    });
    const SIZE: u64 = 4 << 30;
    let source = Zeros::new(SIZE);
    let put = request(Method::Put, &url).authorization("Bearer s3cret");
    let reply = upload(&put, &source, SIZE).unwrap();
    server.join().unwrap();
    assert_eq!(
        (reply.status, reply.body.as_slice()),
        (413, &b"too large"[..])
    );
    // What nobody takes is not read either.
    assert!(source.read.load(Ordering::SeqCst) < 64 << 20);
}

#[test]
fn a_source_that_fails_or_is_too_short_is_named() {
    struct Bad;
    impl Source for Bad {
        fn open(&self) -> io::Result<Box<dyn Read + '_>> {
            Err(io::Error::other("the layer is damaged"))
        }
    }
    let server = Server::start(|_| Answer::new(201));
    let put = request(Method::Put, &server.url("/blob"));
    let error = upload(&put, &Bad, 5).unwrap_err();
    assert!(
        error.to_string().ends_with("the layer is damaged"),
        "{error}"
    );
    let short = Zeros::new(99_999);
    let error = upload(&put, &short, 100_000).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("ends after 99999 of 100000 bytes"),
        "{error}"
    );
    assert_eq!(short.opened.load(Ordering::SeqCst), 1);
}

#[test]
fn a_cancelled_upload_stops_within_a_moment() {
    // A server that takes nothing: the socket's buffers fill up.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/blob", listener.local_addr().unwrap());
    let settings = Settings::default();
    let (client, cancel, source) = (Client::new(settings), Cancel::new(), Zeros::new(1 << 40));
    let put = request(Method::Put, &url);
    let started = Instant::now();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let upload = Upload {
                request: &put,
                source: &source,
                size_bytes: Some(1 << 40),
            };
            client.upload(&upload, &mut |_| {}, &cancel)
        });
        while source.read.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(100));
        cancel.cancel();
        let error = worker.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Cancelled(_)), "{error}");
    });
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_body_can_be_read_as_it_comes() {
    let server = Server::start(|request| match request.target.as_str() {
        "/no" => Answer::new(404).body("not here"),
        "/cut" => Answer {
            cut_after: Some(5),
            ..Answer::ok("0123456789")
        },
        _ => Answer::ok("0123456789").header("x-name", "y"),
    });
    let open = |path: &str| {
        let get = request(Method::Get, &server.url(path));
        client().open(&get, &Cancel::new()).unwrap()
    };
    let mut body = open("/");
    assert_eq!((body.status(), body.header("x-name")), (200, Some("y")));
    let mut text = String::new();
    body.read_to_string(&mut text).unwrap();
    assert_eq!(text, "0123456789");
    assert!(open("/no").refusal().to_string().ends_with("404: not here"));
    let mut body = open("/cut");
    body.read_to_string(&mut String::new()).unwrap_err();
    assert!(body.failure().unwrap().may_pass());
}
