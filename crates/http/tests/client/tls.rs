//! Whom the client trusts over TLS, what it shows, and tunnels through a proxy.

use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::certificates::{Authority, Pair};
use crate::server::{Answer, Server};
use kiln_http::{
    Cancel, Client, ClientCertificate, Error, HostSettings, Phase, Proxies, RedirectProblem,
    Request, RetryPolicy, Roots, Settings, TlsProblem,
};

fn settings() -> Settings {
    Settings {
        retry: RetryPolicy {
            tries: 1,
            ..RetryPolicy::default()
        },
        ..Settings::default()
    }
}

fn trusting(authority: &Authority) -> Settings {
    let host = HostSettings {
        authorities: vec![authority.path()],
        ..HostSettings::default()
    };
    let mut settings = settings();
    settings.hosts.insert("localhost".to_owned(), host);
    settings
}

fn get(settings: Settings, server: &Server) -> Result<Vec<u8>, Error> {
    let url = format!("https://localhost:{}/x", server.address.port())
        .parse()
        .unwrap();
    let reply = Client::new(settings).fetch(&Request::get(url), 1000, &Cancel::new())?;
    Ok(reply.body)
}

fn problem(result: Result<Vec<u8>, Error>) -> TlsProblem {
    match result {
        Err(Error::Tls { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_unknown_issuer_is_refused_and_a_named_one_trusted() {
    let authority = Authority::new();
    let server = authority.serve(&authority.issue("localhost", 2999), false, |_| {
        Answer::ok("secure")
    });
    let error = get(settings(), &server).unwrap_err();
    assert!(
        error.to_string().contains("add the issuer's certificate"),
        "{error}"
    );
    assert_eq!(problem(Err(error)), TlsProblem::UnknownIssuer);
    assert_eq!(get(trusting(&authority), &server).unwrap(), b"secure");
    // As the system's store, by file and by folder.
    let by_file = Roots {
        files: vec!["/nonexistent".into(), authority.path()],
        directories: Vec::new(),
    };
    let by_folder = Roots {
        files: Vec::new(),
        directories: vec![authority.folder.path().to_owned()],
    };
    for roots in [by_file, by_folder] {
        let settings = Settings {
            roots,
            ..settings()
        };
        assert_eq!(get(settings, &server).unwrap(), b"secure");
    }
}

#[test]
fn wrong_names_dates_and_protocols_are_told_apart() {
    let authority = Authority::new();
    let serve =
        |name: &str, year| authority.serve(&authority.issue(name, year), false, |_| Answer::ok(""));
    let wrong_name = serve("elsewhere.test", 2999);
    assert_eq!(
        problem(get(trusting(&authority), &wrong_name)),
        TlsProblem::WrongName
    );
    let expired = serve("localhost", 2001);
    assert_eq!(
        problem(get(trusting(&authority), &expired)),
        TlsProblem::Date("expired")
    );
    let own = authority.serve(&authority.own(), false, |_| Answer::ok(""));
    assert_eq!(
        problem(get(trusting(&authority), &own)),
        TlsProblem::Authority
    );
    let raw = Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    let plain = Server::start_wrapped(
        |mut stream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
            Ok(Box::new(stream))
        },
        move |_| Answer {
            raw: raw.clone(),
            ..Answer::new(0)
        },
    );
    assert_eq!(
        problem(get(trusting(&authority), &plain)),
        TlsProblem::NotTls
    );
}

#[test]
fn a_client_certificate_is_shown_where_it_is_set() {
    let authority = Authority::new();
    let server = authority.serve(&authority.issue("localhost", 2999), true, |_| {
        Answer::ok("known")
    });
    let refused = get(trusting(&authority), &server).unwrap_err();
    let Error::Tls {
        problem: TlsProblem::Refused(_),
        ..
    } = refused
    else {
        panic!("{refused:?}")
    };
    let with = |pair: &Pair| {
        let mut settings = trusting(&authority);
        settings
            .hosts
            .get_mut("localhost")
            .unwrap()
            .client_certificate = Some(ClientCertificate {
            certificate: pair.certificate.clone(),
            key: pair.key.clone(),
        });
        get(settings, &server)
    };
    let mine = authority.issue("me", 2999);
    assert_eq!(with(&mine).unwrap(), b"known");
    // A key that does not belong to the certificate, a file that is no key, and keys as openssl seals them.
    let other = authority.issue("other", 2999);
    let sealed = |name: &str, text: &str| {
        let path = authority.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let new = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n\
               AAAA\n-----END EC PRIVATE KEY-----\n";
    for (key, said) in [
        (&other.key, "is not its key"),
        (&mine.certificate, "holds no private key"),
        (&sealed("new", new), "is sealed by a password"),
        (&sealed("old", old), "is sealed by a password"),
    ] {
        let mixed = Pair {
            certificate: mine.certificate.clone(),
            key: key.clone(),
        };
        let error = with(&mixed).unwrap_err();
        assert!(matches!(error, Error::CertificateFile { .. }), "{error:?}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let server = authority.serve(&authority.issue("localhost", 2999), false, |_| {
        Answer::ok("")
    });
    let empty = authority.folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    for path in [empty, "/nonexistent/ca.pem".into()] {
        let mut settings = settings();
        let host = HostSettings {
            authorities: vec![path.clone()],
            ..HostSettings::default()
        };
        settings
            .hosts
            .insert(format!("localhost:{}", server.address.port()), host);
        let error = get(settings, &server).unwrap_err();
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn encryption_is_not_given_up_on_the_way() {
    let plain = Server::start(|_| Answer::ok("readable by all"));
    let target = plain.url("/");
    let authority = Authority::new();
    let server = authority.serve(&authority.issue("localhost", 2999), false, move |_| {
        Answer::new(302).header("location", target.clone())
    });
    let error = get(trusting(&authority), &server).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Redirect {
                problem: RedirectProblem::Downgrade,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(plain.received().is_empty());
}

#[test]
fn https_goes_through_a_proxy_in_a_tunnel() {
    let authority = Authority::new();
    let server = authority.serve(&authority.issue("secure.test", 2999), false, |_| {
        Answer::ok("through")
    });
    let target = server.address;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut settings = settings();
    settings.proxies = Proxies {
        https: Some(format!("http://me:pass@{}", listener.local_addr().unwrap())),
        ..Proxies::default()
    };
    let host = HostSettings {
        authorities: vec![authority.path()],
        ..HostSettings::default()
    };
    settings.hosts.insert("secure.test".to_owned(), host);
    let client = Client::new(settings);
    let request = thread::scope(|scope| {
        let proxy = scope.spawn(|| {
            let (mut near, _) = listener.accept().unwrap();
            let request =
                crate::server::read_request(&mut BufReader::new(near.try_clone().unwrap()))
                    .unwrap()
                    .unwrap();
            near.write_all(b"HTTP/1.1 200 Established\r\n\r\n").unwrap();
            let mut far = TcpStream::connect(target).unwrap();
            let (mut near_in, mut far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let pump = thread::spawn(move || {
                std::io::copy(&mut near_in, &mut far_out).ok();
                far_out.shutdown(Shutdown::Both).ok();
            });
            std::io::copy(&mut far, &mut near).ok();
            drop((near, far));
            (request, pump)
        });
        let request = Request::get("https://secure.test/x".parse().unwrap());
        let reply = client.fetch(&request, 1000, &Cancel::new()).unwrap();
        assert_eq!(reply.body, b"through");
        // Its connections end with the client, and with them the tunnel.
        drop(client);
        let (request, pump) = proxy.join().unwrap();
        pump.join().unwrap();
        request
    });
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("CONNECT", "secure.test:443")
    );
    assert_eq!(
        request.header("proxy-authorization"),
        Some("Basic bWU6cGFzcw==")
    );
}

#[test]
fn a_server_silent_in_the_handshake_is_a_timeout() {
    let server = Server::start_wrapped(
        |stream| {
            // Reads and never answers, until the client goes away.
            std::io::copy(&mut &stream, &mut std::io::sink())?;
            Ok(Box::new(stream))
        },
        |_| Answer::ok(""),
    );
    let mut settings = settings();
    settings.timeouts.connect = Duration::from_millis(300);
    let error = get(settings, &server).unwrap_err();
    let Error::Timeout {
        phase: Phase::Connect,
        tries: 1,
        ..
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(
        error
            .to_string()
            .ends_with("no answer within 0.3 s while connecting"),
        "{error}"
    );
}
