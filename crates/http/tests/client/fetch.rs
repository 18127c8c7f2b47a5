//! `Client::fetch` against a server that misbehaves: retries, redirects, limits, timeouts, cancel.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::{Answer, Server};
use kiln_http::{
    Cancel, Client, Error, Patience, Phase, Proxies, RedirectProblem, Request, RetryPolicy,
    Settings, Timeouts, Url,
};

const LIMIT: u64 = 1 << 20;

fn settings() -> Settings {
    Settings {
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_millis(300),
            idle: Duration::from_millis(300),
        },
        retry: RetryPolicy {
            tries: 3,
            first_delay: Duration::from_millis(1),
            longest_delay: Duration::from_millis(2),
            ..RetryPolicy::default()
        },
        ..Settings::default()
    }
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

fn get(client: &Client, text: &str) -> Result<kiln_http::Response, Error> {
    client.fetch(&Request::get(url(text)), LIMIT, &Cancel::new())
}

/// Answers the n-th request with the n-th answer, and the last one for ever.
fn in_turn(answers: Vec<Answer>) -> Server {
    let next = AtomicUsize::new(0);
    Server::start(move |_| {
        let at = next.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        answers[at].clone()
    })
}

#[test]
fn a_connection_serves_many_requests() {
    let server = Server::start(|request| Answer::ok(request.target.clone()));
    let client = Client::new(settings());
    for path in ["/a", "/b?c=d", "/e"] {
        let reply = get(&client, &server.url(path)).unwrap();
        assert_eq!((reply.status, reply.body), (200, path.as_bytes().to_vec()));
    }
    assert_eq!(server.connections(), 1);
    let first = &server.received()[0];
    let agent = first.header("user-agent").unwrap();
    assert_eq!(agent, concat!("kiln/", env!("CARGO_PKG_VERSION")));
    assert_eq!(first.header("accept-encoding"), Some("identity"));
}

#[test]
fn trouble_is_retried_and_then_reported() {
    let server = in_turn(vec![Answer::new(500), Answer::new(503), Answer::ok("x")]);
    assert_eq!(
        get(&Client::new(settings()), &server.url("/"))
            .unwrap()
            .body,
        b"x"
    );

    let server = in_turn(vec![Answer::new(502).body("<h1>bad\x1b[1m gateway</h1>")]);
    let error = get(&Client::new(settings()), &server.url("/x?token=secret")).unwrap_err();
    let Error::Server {
        status: 502,
        tries: 3,
        ref body,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(body.text(), "<h1>bad\\u{1b}[1m gateway</h1>");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert_eq!(server.received().len(), 3);
}

#[test]
fn refusals_are_not_retried() {
    for status in [400, 401, 403, 404, 405, 410, 501] {
        let server = in_turn(vec![Answer::new(status).body("no")]);
        let reply = get(&Client::new(settings()), &server.url("/")).unwrap();
        assert_eq!(
            (reply.status, reply.body.as_slice()),
            (status, b"no".as_slice())
        );
        assert_eq!(server.received().len(), 1);
    }
}

#[test]
fn retry_after_is_waited_for_up_to_a_limit() {
    let soon = Answer::new(429)
        .header("date", "Sun, 06 Nov 1994 08:49:36 GMT")
        .header("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT");
    let server = in_turn(vec![soon, Answer::ok("x")]);
    let started = Instant::now();
    assert_eq!(
        get(&Client::new(settings()), &server.url("/"))
            .unwrap()
            .body,
        b"x"
    );
    assert!(started.elapsed() >= Duration::from_secs(1));

    let server = in_turn(vec![Answer::new(429).header("retry-after", "3600")]);
    let error = get(&Client::new(settings()), &server.url("/")).unwrap_err();
    let Error::RateLimited {
        retry_after: Some(wait),
        tries: 1,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(wait, Duration::from_secs(3600));
    assert!(error.to_string().contains("3600 s"), "{error}");
}

#[test]
fn broken_connections_are_retried() {
    let hang_up = Answer {
        hang_up: true,
        ..Answer::new(0)
    };
    let cut = Answer {
        cut_after: Some(2),
        ..Answer::ok("hello")
    };
    let server = in_turn(vec![hang_up.clone(), cut, Answer::ok("hello")]);
    assert_eq!(
        get(&Client::new(settings()), &server.url("/"))
            .unwrap()
            .body,
        b"hello"
    );

    let server = in_turn(vec![hang_up]);
    let error = get(&Client::new(settings()), &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Broken { tries: 3, .. }), "{error}");
}

#[test]
fn a_kept_connection_that_the_server_closed_costs_no_try() {
    let server = Server::start(|_| Answer {
        close_silently: true,
        ..Answer::ok("x")
    });
    let mut settings = settings();
    settings.retry.tries = 1;
    let client = Client::new(settings);
    for _ in 0..20 {
        assert_eq!(get(&client, &server.url("/")).unwrap().body, b"x");
    }
}

#[test]
fn nobody_listening_is_said_with_the_host() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = get(
        &Client::new(settings()),
        &format!("http://localhost:{port}/"),
    )
    .unwrap_err();
    assert!(
        matches!(error, Error::Connect { tries: 1, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&format!("`localhost:{port}`")),
        "{error}"
    );
}

#[test]
fn credentials_stay_with_their_host() {
    let other = Server::start(|_| Answer::ok("elsewhere"));
    // Another port is another origin.
    let target = other.url("/there");
    let server = Server::start(move |request| match request.target.as_str() {
        "/away" => Answer::new(307).header("location", target.clone()),
        "/near" => Answer::new(301).header("location", "here?x=1"),
        _ => Answer::ok(request.target.clone()),
    });
    let client = Client::new(settings());
    let ask = |path: &str| {
        let request = Request::get(url(&server.url(path)))
            .header("accept", "a/b")
            .authorization("Bearer s3cret");
        assert!(!format!("{request:?}").contains("s3cret"));
        client.fetch(&request, LIMIT, &Cancel::new()).unwrap()
    };
    let near = ask("/near");
    assert_eq!(near.body, b"/here?x=1");
    assert_eq!(near.url.path(), "/here");
    assert_eq!(
        server.received()[1].header("authorization"),
        Some("Bearer s3cret")
    );
    assert_eq!(ask("/away").body, b"elsewhere");
    let there = &other.received()[0];
    assert_eq!(there.header("authorization"), None);
    assert_eq!(there.header("accept"), Some("a/b"));
}

#[test]
fn redirects_end() {
    let server = Server::start(|_| Answer::new(302).header("location", "/again"));
    let error = get(&Client::new(settings()), &server.url("/")).unwrap_err();
    let Error::Redirect {
        problem: RedirectProblem::TooMany(11),
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!(server.received().len(), 11);

    let server = Server::start(|_| Answer::new(302).header("location", "gopher://x"));
    let error = get(&Client::new(settings()), &server.url("/")).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Redirect {
                problem: RedirectProblem::NotAnAddress(_),
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn what_was_posted_is_not_sent_on() {
    let other = Server::start(|_| Answer::ok("got it"));
    let target = other.url("/");
    let server = Server::start(move |_| Answer::new(308).header("location", target.clone()));
    let request = Request::post(
        url(&server.url("/")),
        "text/plain",
        b"refresh token".to_vec(),
    );
    let error = Client::new(settings())
        .fetch(&request, LIMIT, &Cancel::new())
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Redirect {
                problem: RedirectProblem::Body,
                ..
            }
        ),
        "{error}"
    );
    assert!(other.received().is_empty());
    assert_eq!(server.received()[0].body, b"refresh token");
}

#[test]
fn bodies_and_heads_are_limited() {
    let server = Server::start(|request| {
        let mut answer = Answer::ok(vec![b'x'; 3000]);
        answer.chunked = request.target == "/chunked";
        answer
    });
    let client = Client::new(settings());
    for path in ["/", "/chunked"] {
        let request = Request::get(url(&server.url(path)));
        let error = client.fetch(&request, 2999, &Cancel::new()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::TooLarge {
                    limit_bytes: 2999,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(
            client
                .fetch(&request, 3000, &Cancel::new())
                .unwrap()
                .body
                .len(),
            3000
        );
    }
    let server = Server::start(|_| Answer::ok("x").header("padding", "y".repeat(100_000)));
    let error = get(&Client::new(settings()), &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");

    let server = Server::start(|_| Answer::new(404).body(vec![b'x'; 10 << 20]));
    let reply = get(&Client::new(settings()), &server.url("/")).unwrap();
    assert_eq!(reply.body.len(), 64 * 1024);
}

#[test]
fn what_is_not_http_is_said_so() {
    let raw = Some(b"220 mail.example.com ESMTP\r\n\r\n".to_vec());
    let server = Server::start(move |_| Answer {
        raw: raw.clone(),
        ..Answer::new(0)
    });
    let error = get(&Client::new(settings()), &server.url("/")).unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}

#[test]
fn silence_is_a_timeout_and_slowness_is_not() {
    let server = Server::start(|request| {
        let mut answer = Answer::ok("hello");
        match request.target.as_str() {
            "/mute" => answer.mute = true,
            "/stall" => answer.stall_after = Some(2),
            _ => {}
        }
        answer
    });
    let mut settings = settings();
    settings.retry.tries = 2;
    let client = Client::new(settings);
    for (path, expected) in [("/mute", Phase::FirstByte), ("/stall", Phase::Body)] {
        let error = get(&client, &server.url(path)).unwrap_err();
        let Error::Timeout {
            phase, tries: 2, ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(phase, expected);
    }
    assert_eq!(get(&client, &server.url("/")).unwrap().body, b"hello");
}

#[test]
fn a_request_that_is_worth_less_waits_less_and_once() {
    let server = Server::start(|request| {
        let mut answer = Answer::ok("hello");
        match request.target.as_str() {
            "/mute" => answer.mute = true,
            _ => answer.stall_after = Some(2),
        }
        answer
    });
    let mut settings = settings();
    settings.timeouts = Timeouts::default();
    let client = Client::new(settings);
    let silence = Duration::from_millis(200);
    let patience = Patience {
        silence,
        ..Patience::FULL
    };
    for (path, expected) in [("/mute", Phase::FirstByte), ("/stall", Phase::Body)] {
        let request = Request::get(url(&server.url(path))).patience(patience);
        let error = client.fetch(&request, LIMIT, &Cancel::new()).unwrap_err();
        let Error::Timeout {
            phase,
            after,
            tries: 1,
            ..
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!((phase, after), (expected, silence));
    }
}

#[test]
fn a_cancelled_request_stops_within_a_moment() {
    let server = Server::start(|request| {
        let mut answer = Answer::ok("hello");
        match request.target.as_str() {
            "/mute" => answer.mute = true,
            "/stall" => answer.stall_after = Some(2),
            _ => answer = Answer::new(503).header("retry-after", "50"),
        }
        answer
    });
    let mut settings = settings();
    settings.timeouts = Timeouts::default();
    let client = Client::new(settings);
    for path in ["/mute", "/stall", "/wait"] {
        let cancel = Cancel::new();
        let request = Request::get(url(&server.url(path)));
        let error = thread::scope(|scope| {
            let worker = scope.spawn(|| client.fetch(&request, LIMIT, &cancel).unwrap_err());
            while !server
                .received()
                .iter()
                .any(|request| request.target == path)
            {
                thread::yield_now();
            }
            let cancelled = Instant::now();
            cancel.cancel();
            let error = worker.join().unwrap();
            assert!(
                cancelled.elapsed() < Duration::from_secs(2),
                "{path} {:?}",
                cancelled.elapsed()
            );
            error
        });
        assert!(matches!(error, Error::Cancelled(_)), "{path}: {error:?}");
    }
}

#[test]
fn plain_http_needs_permission() {
    // The address is not routed anywhere; nothing is sent before the check.
    let error = get(&Client::new(settings()), "http://192.0.2.1/").unwrap_err();
    assert!(matches!(error, Error::PlainHttp { .. }), "{error}");
}

#[test]
fn a_proxy_is_asked_for_plain_http() {
    let proxy = Server::start(|request| Answer::ok(request.target.clone()));
    let mut settings = settings();
    settings.proxies = Proxies {
        http: Some(format!("http://me:pass@{}", proxy.address)),
        https: None,
        no_proxy: Some("direct.test".to_owned()),
    };
    let client = Client::new(settings);
    for path in ["/a?b", "/c"] {
        let request =
            Request::get(url(&format!("http://archive.test:81{path}"))).allow_plain_http();
        let reply = client.fetch(&request, LIMIT, &Cancel::new()).unwrap();
        assert_eq!(
            reply.body,
            format!("http://archive.test:81{path}").as_bytes()
        );
    }
    let received = proxy.received();
    assert_eq!(
        received[0].header("proxy-authorization"),
        Some("Basic bWU6cGFzcw==")
    );
    assert_eq!(received[0].header("host"), Some("archive.test:81"));
    assert_eq!(proxy.connections(), 1);
}
