//! `Registry::log_in`: credentials are tried, exchanged, kept for other programs, and never shown.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_client::{Credential, CredentialFiles, Kept, Login, LoginError, Secret, Settings};
use kiln_http::Cancel;

use crate::docker::{DockerRegistry, images, missing};
use crate::fake::registry;
use crate::memory::Blobs;
use crate::server::{Answer, Server};

const ME: &str = "Basic bWU6aHVudGVyMg==";

fn me(password: &str) -> Credential {
    Credential::Password {
        user: "me".to_owned(),
        password: Secret::new(password),
    }
}

fn log_in(name: &str, credential: &Credential) -> Result<Login, LoginError> {
    registry(Settings::default()).log_in(name, credential, &Cancel::new())
}

fn at(server: &Server, credential: &Credential) -> Result<Login, LoginError> {
    log_in(&server.address.to_string(), credential)
}

fn assert_secret(error: &LoginError) {
    let text = format!("{error} {error:?}");
    for secret in ["hunter2", "wrong", "bWU6", "t0ken"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// A registry that lets in who shows `wanted`.
fn guarded(challenge: String, wanted: &'static str) -> Server {
    Server::start(move |request| {
        assert_eq!(request.target, "/v2/");
        if request.header("authorization") == Some(wanted) {
            Answer::ok("{}")
        } else {
            Answer::new(401).header("www-authenticate", challenge.clone())
        }
    })
}

#[test]
fn a_password_is_tried() {
    let server = guarded("Basic realm=x".to_owned(), ME);
    assert_eq!(
        at(&server, &me("hunter2")).unwrap(),
        Login::Accepted(me("hunter2"))
    );
    let error = at(&server, &me("wrong")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("does not accept the password or token of `me`"),
        "{error}"
    );
    assert_secret(&error);
    // Who is not asked cannot be told from who is known.
    let open = Server::start(|_| Answer::ok("{}"));
    assert_eq!(at(&open, &me("hunter2")).unwrap(), Login::NotAsked);
    let headers = open.received();
    assert!(
        headers
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn a_token_is_kept_in_place_of_the_password_where_there_is_one() {
    let lasting = AtomicUsize::new(0);
    let tokens = Server::start(move |request| {
        let exchanged = request.method == "POST"
            && String::from_utf8_lossy(&request.body).contains("refresh_token=lasting");
        if request.header("authorization") != Some(ME) && !exchanged {
            return Answer::new(401).body(r#"{"details":"incorrect username or password"}"#);
        }
        match lasting.fetch_add(1, Ordering::SeqCst) {
            0 => Answer::ok(r#"{"token":"t0ken"}"#),
            _ => Answer::ok(r#"{"access_token":"t0ken","refresh_token":"lasting"}"#),
        }
    });
    let challenge = format!(r#"Bearer realm="{}",service="reg""#, tokens.url("/token"));
    let server = guarded(challenge, "Bearer t0ken");
    assert_eq!(
        at(&server, &me("hunter2")).unwrap(),
        Login::Accepted(me("hunter2"))
    );
    let target = &tokens.received()[0].target;
    assert_eq!(
        target,
        "/token?service=reg&offline_token=true&client_id=kiln&account=me"
    );
    let lasting = Credential::Identity(Secret::new("lasting"));
    for credential in [me("hunter2"), lasting.clone()] {
        assert_eq!(
            at(&server, &credential).unwrap(),
            Login::Accepted(lasting.clone())
        );
    }
    let error = at(&server, &me("wrong")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with(": incorrect username or password"),
        "{error}"
    );
    assert_secret(&error);
}

#[test]
fn what_is_no_registry_gets_no_password() {
    let elsewhere = Server::start(|_| Answer::new(401).header("www-authenticate", "Basic realm=x"));
    let there = elsewhere.url("/v2/");
    for (server, expected) in [
        (
            Server::start(|_| Answer::new(404)),
            "it answers 404 to `/v2/`",
        ),
        (
            Server::start(|_| Answer::new(401).header("www-authenticate", "Negotiate")),
            "wants to know who asks by: negotiate",
        ),
        (
            Server::start(move |_| Answer::new(302).header("location", there.clone())),
            "does not accept",
        ),
    ] {
        let error = at(&server, &me("hunter2")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_secret(&error);
        let received = server.received();
        assert!(
            received
                .iter()
                .all(|request| request.header("authorization").is_none())
        );
    }
    let received = elsewhere.received();
    assert!(
        received
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
    for name in ["", "a/b", "http://x", "a b"] {
        let error = log_in(name, &me("hunter2")).unwrap_err();
        assert!(matches!(error, LoginError::Name { .. }), "{name}: {error}");
    }
    let colon = Credential::Password {
        user: "a:b".to_owned(),
        password: Secret::new("p"),
    };
    let error = log_in("localhost:1", &colon).unwrap_err();
    assert!(matches!(error, LoginError::UserName), "{error}");
}

#[test]
fn what_is_kept_serves_other_programs_and_is_forgotten() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let auth = "auth: {htpasswd: {realm: test, path: FOLDER/htpasswd}}\n";
    let server = DockerRegistry::start("", auth, &[]);
    let name = format!("localhost:{}", server.port);
    let credential = me("hunter2");
    let Login::Accepted(kept) = log_in(&name, &credential).unwrap() else {
        panic!("it was not asked")
    };
    let error = log_in(&name, &me("wrong")).unwrap_err();
    assert!(matches!(error, LoginError::Refused { .. }), "{error}");
    let file = server.folder.path().join("config.json");
    let files = CredentialFiles {
        files: vec![file.clone()],
        helper_folders: Vec::new(),
    };
    let cancel = Cancel::new();
    let put = files.store(&file, &name, &kept, &cancel).unwrap();
    assert_eq!(put, Kept::File(file.clone()));
    let settings = Settings {
        credentials: files.clone(),
        ..Settings::default()
    };
    let (image, _) = images();
    let push = || {
        registry(settings.clone()).push(
            &server.reference("app:1"),
            &image.documents(),
            &Blobs::of(&[&image]),
            &|_| {},
            &cancel,
        )
    };
    push().unwrap();
    let skopeo = Command::new("/usr/bin/skopeo")
        .args(["inspect", "--tls-verify=false", "--authfile"])
        .arg(&file)
        .arg(format!("docker://{name}/app:1"))
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&skopeo.stderr);
    assert!(skopeo.status.success(), "{errors}");
    assert_eq!(files.erase(&name, &cancel).unwrap(), [file]);
    assert!(push().is_err());
}
