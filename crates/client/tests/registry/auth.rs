//! Logging in: challenges, tokens, passwords, and that none of them shows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::fake::{Contents, on, registry};
use crate::memory::{Memory, TestImage, index};
use crate::server::{Answer, Received, Server};
use kiln_client::{CredentialFiles, Error, Mirror, RegistrySettings, Settings};
use kiln_http::Cancel;
use kiln_oci::Digest;

/// `me:hunter2`
const ME: &str = "bWU6aHVudGVyMg==";

/// Settings with one credentials file, which says `entry` about the server.
fn settings(folder: &tempfile::TempDir, server: &Server, entry: &str) -> Settings {
    let path = folder.path().join("auth.json");
    std::fs::write(
        &path,
        format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.address),
    )
    .unwrap();
    let credentials = CredentialFiles {
        files: vec![path],
        helper_folders: Vec::new(),
    };
    Settings {
        credentials,
        ..Settings::default()
    }
}

fn pull(settings: Settings, server: &Server) -> Result<Memory, Error> {
    let sink = Memory::default();
    let platform = "linux/amd64".parse().unwrap();
    registry(settings).pull(
        &on(server, "team/app"),
        &platform,
        &sink,
        &|_| {},
        &Cancel::new(),
    )?;
    Ok(sink)
}

fn image() -> TestImage {
    TestImage::new("linux/amd64", &[1000, 2000, 3000])
}

/// A registry that lets in who shows `wanted`, and challenges others.
fn guarded(challenge: String, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Server {
    let image = image();
    Contents::new()
        .image("team/app", "one", &image)
        .index("team/app", "latest", &index(&[&image]))
        .spoiled(move |request, real| match request.header("authorization") {
            Some(shown) if wanted(shown) => real(),
            _ => Answer::new(401)
                .header("www-authenticate", challenge.clone())
                .body(
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
                ),
        })
}

fn bearer(tokens: &Server) -> String {
    format!(
        r#"Bearer realm="{}",service="reg",scope="repository:team/app:pull""#,
        tokens.url("/token?x=y")
    )
}

fn assert_secret(error: &Error) {
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(
            !text.contains("hunter2") && !text.contains(ME) && !text.contains("t0ken"),
            "{text}"
        );
    }
}

#[test]
fn basic_credentials_are_sent_after_a_challenge() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded("Basic realm=\"x\"".to_owned(), |shown| {
        shown == format!("Basic {ME}")
    });
    let entry = format!(r#"{{"auth":"{ME}"}}"#);
    pull(settings(&folder, &server, &entry), &server).unwrap();
    let unasked = server
        .received()
        .iter()
        .filter(|request| request.header("authorization").is_none())
        .count();
    // The ping and the first request; the rest know.
    assert_eq!(unasked, 2);
}

#[test]
fn without_credentials_the_error_says_how_to_log_in() {
    let server = guarded("Basic realm=\"x\"".to_owned(), |_| false);
    let error = pull(Settings::default(), &server).unwrap_err();
    assert!(
        matches!(error, Error::Unauthorised { user: None, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("`kiln login {}`", server.address)),
        "{error}"
    );
}

#[test]
fn wrong_credentials_end_and_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let server = guarded("Basic realm=\"x\"".to_owned(), |_| false);
    let entry = format!(r#"{{"auth":"{ME}"}}"#);
    let error = pull(settings(&folder, &server, &entry), &server).unwrap_err();
    assert!(
        matches!(&error, Error::Unauthorised { user: Some(user), .. } if user == "me"),
        "{error}"
    );
    assert!(
        error.to_string().contains("authentication required"),
        "{error}"
    );
    assert_secret(&error);
    assert!(server.received().len() < 6, "{}", server.received().len());
}

#[test]
fn an_unknown_scheme_is_named() {
    let server = guarded("Negotiate".to_owned(), |_| false);
    let error = pull(Settings::default(), &server).unwrap_err();
    assert!(error.to_string().contains("negotiate"), "{error}");
}

#[test]
fn one_anonymous_token_serves_a_whole_pull() {
    let tokens = Server::start(|_| Answer::ok(r#"{"token":"t0ken","expires_in":300}"#));
    let server = guarded(bearer(&tokens), |shown| shown == "Bearer t0ken");
    pull(Settings::default(), &server).unwrap();
    let asked = tokens.received();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].target,
        "/token?x=y&service=reg&scope=repository:team/app:pull"
    );
    assert_eq!(asked[0].header("authorization"), None);
}

#[test]
fn a_password_is_shown_to_the_token_server_and_not_to_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = Server::start(|request| match request.header("authorization") {
        Some(shown) if shown == format!("Basic {ME}") => Answer::ok(r#"{"access_token":"t0ken"}"#),
        _ => Answer::new(401),
    });
    let server = guarded(bearer(&tokens), |shown| shown == "Bearer t0ken");
    let entry = r#"{"username":"me","password":"hunter2"}"#;
    pull(settings(&folder, &server, entry), &server).unwrap();
    let basic = |request: &Received| {
        request
            .header("authorization")
            .is_some_and(|shown| shown.starts_with("Basic"))
    };
    assert!(!server.received().iter().any(basic));
    assert!(tokens.received()[0].target.ends_with("&account=me"));
}

#[test]
fn a_mirror_is_shown_what_is_kept_for_its_repository() {
    let folder = tempfile::tempdir().unwrap();
    let mirror = guarded("Basic realm=\"r\"".to_owned(), |shown| {
        shown == format!("Basic {ME}")
    });
    let upstream = Server::start(|_| Answer::new(404));
    let mut settings = settings(&folder, &mirror, "null");
    let entry = format!(
        r#"{{"auths":{{"{}/team":{{"auth":"{ME}"}}}}}}"#,
        mirror.address
    );
    std::fs::write(folder.path().join("auth.json"), entry).unwrap();
    let location = format!("{}/team", mirror.address);
    let mirrors = vec![Mirror { location }];
    settings
        .registries
        .insert(upstream.address.to_string(), RegistrySettings { mirrors });
    let platform = "linux/amd64".parse().unwrap();
    registry(settings)
        .resolve(&on(&upstream, "app"), &platform, &Cancel::new())
        .unwrap();
}

#[test]
fn an_identity_token_is_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = Server::start(|request| {
        let form = String::from_utf8(request.body.clone()).unwrap();
        let expected = "service=reg&grant_type=refresh_token&client_id=kiln&scope=repository:team/app:pull&refresh_token=a%2Bb%3D";
        if request.method == "POST" && form == expected {
            Answer::ok(r#"{"access_token":"t0ken"}"#)
        } else {
            Answer::new(400)
        }
    });
    let server = guarded(bearer(&tokens), |shown| shown == "Bearer t0ken");
    pull(
        settings(&folder, &server, r#"{"identitytoken":"a+b="}"#),
        &server,
    )
    .unwrap();
}

#[test]
fn a_registry_token_is_used_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = Server::start(|_| Answer::new(500));
    let server = guarded(bearer(&tokens), |shown| shown == "Bearer t0ken");
    pull(
        settings(&folder, &server, r#"{"registrytoken":"t0ken"}"#),
        &server,
    )
    .unwrap();
    assert!(tokens.received().is_empty());
}

#[test]
fn a_token_server_that_refuses_or_fails_is_told_with_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let entry = format!(r#"{{"auth":"{ME}"}}"#);
    for (answer, expected) in [
        (
            Answer::new(401).body(r#"{"details":"incorrect username or password"}"#),
            "does not let `me` read `team/app`: incorrect username or password; ",
        ),
        (
            Answer::new(500).body("down"),
            "answered 500 (tried 3 times): down",
        ),
        (Answer::ok("{}"), "answered without a token"),
        (Answer::ok("<html>"), "did not answer with a token"),
        (
            Answer::ok("{\"token\":\"t0ken\\r\\nx: y\"}"),
            "with a token that is not one",
        ),
        (Answer::ok(vec![b'x'; 2 << 20]), "larger than 1048576 bytes"),
    ] {
        let tokens = Server::start(move |_| answer.clone());
        let server = guarded(bearer(&tokens), |_| false);
        let error = pull(settings(&folder, &server, &entry), &server).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_secret(&error);
    }
}

#[test]
fn a_token_that_runs_out_in_the_middle_is_renewed_once() {
    let count = AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        Answer::ok(format!(r#"{{"token":"t0ken{number}"}}"#))
    });
    let image = image();
    let challenge = bearer(&tokens);
    let config = Digest::of(&image.config).hex();
    // Layers want a younger token than manifest and config do.
    let server =
        Contents::new()
            .image("team/app", "latest", &image)
            .spoiled(move |request, real| {
                let layer =
                    request.target.contains("/blobs/") && !request.target.ends_with(&config);
                let wanted = if layer {
                    "Bearer t0ken1"
                } else {
                    "Bearer t0ken0"
                };
                if request.header("authorization") == Some(wanted) {
                    return real();
                }
                // Some registries do not repeat the challenge.
                let refusal = Answer::new(401);
                if layer {
                    refusal
                } else {
                    refusal.header("www-authenticate", challenge.clone())
                }
            });
    pull(Settings::default(), &server).unwrap();
    assert_eq!(tokens.received().len(), 2);
}

#[test]
fn a_short_token_is_renewed_before_it_is_refused() {
    let count = AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        Answer::ok(format!(r#"{{"token":"t0ken{number}","expires_in":0}}"#))
    });
    let server = guarded(bearer(&tokens), |shown| shown.starts_with("Bearer t0ken"));
    // Even a token of no length is good for the few requests of a pull.
    pull(Settings::default(), &server).unwrap();
    assert_eq!(tokens.received().len(), 1);
}

#[test]
fn a_registry_that_never_is_content_is_left() {
    let tokens = Server::start(|_| Answer::ok(r#"{"token":"t0ken"}"#));
    let server = guarded(bearer(&tokens), |_| false);
    let error = pull(Settings::default(), &server).unwrap_err();
    assert!(matches!(error, Error::Unauthorised { .. }), "{error}");
    assert!(tokens.received().len() <= 3, "{}", tokens.received().len());
    // Blobs alone may be refused too.
    let image = image();
    let challenge = bearer(&tokens);
    let server =
        Contents::new()
            .image("team/app", "latest", &image)
            .spoiled(move |request, real| {
                if request.target.contains("/blobs/") {
                    Answer::new(401).header("www-authenticate", challenge.clone())
                } else {
                    real()
                }
            });
    let error = pull(Settings::default(), &server).unwrap_err();
    assert!(matches!(error, Error::Unauthorised { .. }), "{error}");
}

#[test]
fn a_realm_that_is_not_encrypted_gets_no_password() {
    let folder = tempfile::tempdir().unwrap();
    // The address is not routed anywhere; nothing is sent before the check.
    let server = guarded(
        r#"Bearer realm="http://192.0.2.1/token""#.to_owned(),
        |_| false,
    );
    let entry = format!(r#"{{"auth":"{ME}"}}"#);
    let error = pull(settings(&folder, &server, &entry), &server).unwrap_err();
    assert!(error.to_string().contains("is not encrypted"), "{error}");
}

#[test]
fn a_locked_helper_is_an_error_and_a_slow_one_can_be_cancelled() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let server = guarded("Basic realm=\"x\"".to_owned(), |shown| {
        shown == format!("Basic {ME}")
    });
    let with = |script: &str| {
        let helper = folder.path().join("docker-credential-test");
        std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, r#"{"credsStore":"test"}"#).unwrap();
        let credentials = CredentialFiles {
            files: vec![path],
            helper_folders: vec![folder.path().to_owned()],
        };
        Settings {
            credentials,
            ..Settings::default()
        }
    };
    pull(
        with(r#"echo '{"Username":"me","Secret":"hunter2"}'"#),
        &server,
    )
    .unwrap();
    let error = pull(with("echo locked >&2; exit 1"), &server).unwrap_err();
    assert!(error.to_string().ends_with("locked"), "{error}");
    let cancel = Cancel::new();
    let slow = registry(with("exec sleep 100"));
    let error = thread::scope(|scope| {
        let platform = "linux/amd64".parse().unwrap();
        let reference = on(&server, "team/app");
        let before = server.received().len();
        let cancel = &cancel;
        let worker = scope.spawn(move || slow.resolve(&reference, &platform, cancel).unwrap_err());
        while server.received().len() < before + 2 {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(50));
        cancel.cancel();
        worker.join().unwrap()
    });
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
}
