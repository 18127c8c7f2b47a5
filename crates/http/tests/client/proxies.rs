//! What is said of proxies that do not serve: as the proxy's fault, and without its password.

use std::net::TcpListener;

use kiln_http::{Cancel, Client, Proxies, Request, RetryPolicy, Settings};

use crate::server::{Answer, Server};

/// What is said of an address behind a proxy.
fn said(proxy: &str, address: &str) -> String {
    let proxy = Some(format!("http://me:hunter2@{proxy}"));
    let client = Client::new(Settings {
        proxies: Proxies {
            http: proxy.clone(),
            https: proxy,
            no_proxy: None,
        },
        retry: RetryPolicy {
            tries: 1,
            ..RetryPolicy::default()
        },
        ..Settings::default()
    });
    let request = Request::get(address.parse().unwrap()).allow_plain_http();
    let error = client.fetch(&request, 1000, &Cancel::new()).unwrap_err();
    let said = error.to_string();
    assert!(!format!("{said} {error:?}").contains("hunter2"), "{said}");
    said
}

/// The same behind one that answers everything so.
fn said_after(answer: impl Fn() -> Answer + Send + Sync + 'static, address: &str) -> String {
    let proxy = Server::start(move |_| answer());
    let name = proxy.address.to_string();
    said(&name, address).replace(&name, "PROXY")
}

#[test]
fn a_proxy_that_is_not_there_is_named_as_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    drop(listener);
    for address in ["http://archive.test/", "https://archive.test/"] {
        let expected = format!("cannot connect to the proxy `{proxy}` for `{address}`");
        let said = said(&proxy, address);
        assert!(said.starts_with(&expected), "{said}");
    }
}

#[test]
fn a_proxy_that_wants_a_password_says_so() {
    for scheme in ["http", "https"] {
        assert_eq!(
            said_after(|| Answer::new(407), &format!("{scheme}://archive.test/")),
            format!(
                "the proxy for {scheme} addresses cannot be used: `PROXY` wants a user name and a \
                 password, or others: `http://USER:PASSWORD@HOST:PORT`"
            )
        );
    }
}

#[test]
fn a_proxy_that_opens_no_tunnel_is_said_with_its_answer() {
    assert_eq!(
        said_after(|| Answer::new(403), "https://archive.test/"),
        "the proxy for https addresses cannot be used: `PROXY` answers 403 and does not open a way there"
    );
    let silent = || Answer {
        hang_up: true,
        ..Answer::new(200)
    };
    assert_eq!(
        said_after(silent, "https://archive.test/"),
        "the proxy for https addresses cannot be used: `PROXY` closed the connection without an answer"
    );
}

#[test]
fn what_is_wrong_beyond_a_tunnel_is_said_of_the_host() {
    assert_eq!(
        said_after(|| Answer::ok("no TLS at all"), "https://archive.test/"),
        "no secure connection to `archive.test` through the proxy `PROXY` for \
         `https://archive.test/`: it does not speak TLS"
    );
}
