//! Tokens during a push, and who does not get them.

use kiln_client::CredentialFiles;

use super::*;

/// Settings that know `me:hunter2` at the server.
fn known(folder: &tempfile::TempDir, server: &Server) -> Settings {
    let path = folder.path().join("auth.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6aHVudGVyMg=="}}}}}}"#,
        server.address
    );
    std::fs::write(&path, text).unwrap();
    Settings {
        credentials: CredentialFiles {
            files: vec![path],
            helper_folders: Vec::new(),
        },
        ..Settings::default()
    }
}

/// A token server that numbers its tokens, and a registry that wants one of them, the one that
/// `wanted` says for a request.
fn guarded(wanted: impl Fn(&Received) -> usize + Send + Sync + 'static) -> (Server, Mutable) {
    let count = AtomicUsize::new(0);
    let tokens = Server::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        Answer::ok(format!(r#"{{"token":"t0ken{number}"}}"#))
    });
    let challenge = format!(
        r#"Bearer realm="{}",service="reg",scope="repository:team/app:pull""#,
        tokens.url("/token")
    );
    let server = Mutable::spoiled(move |request, _| {
        let shown = request.header("authorization").unwrap_or_default();
        let number = shown
            .strip_prefix("Bearer t0ken")
            .and_then(|number| number.parse::<usize>().ok());
        match number {
            Some(number) if number >= wanted(request) => None,
            _ => Some(
                refusal(401, "UNAUTHORIZED", "authentication required")
                    .header("www-authenticate", challenge.clone()),
            ),
        }
    });
    (tokens, server)
}

#[test]
fn one_token_for_pull_and_push_serves_the_whole_push() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, server) = guarded(|_| 0);
    let image = image();
    let mut source = Blobs::of(&[&image]);
    push_with(
        known(&folder, &server.server),
        &server.server,
        "team/app:1",
        &image.documents(),
        &source,
    )
    .unwrap();
    assert_there(&server, "team/app", &image);
    let asked = tokens.received();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0]
            .target
            .contains("scope=repository:team/app:pull,push&"),
        "{}",
        asked[0].target
    );
    // A mount needs to read the other repository, and its token costs no refused request.
    source.known_in = vec![on(&server.server, "team/app")];
    let refused = |server: &Mutable| {
        let received = server.server.received();
        let open = received
            .iter()
            .filter(|request| request.header("authorization").is_none());
        open.count()
    };
    let before = refused(&server);
    let pushed = push_with(
        known(&folder, &server.server),
        &server.server,
        "team/other:1",
        &image.documents(),
        &source,
    )
    .unwrap();
    let how = Outcome::Mounted("team/app".to_owned());
    assert!(pushed.blobs.values().all(|outcome| *outcome == how));
    let asked = tokens.received();
    assert_eq!(asked.len(), 3);
    assert!(
        asked[2]
            .target
            .contains("scope=repository:team/other:pull,push&scope=repository:team/app:pull"),
        "{}",
        asked[2].target
    );
    // The ping and the first request.
    assert_eq!(refused(&server) - before, 2);
}

#[test]
fn a_token_that_runs_out_is_renewed_in_the_middle_of_an_upload() {
    let folder = tempfile::tempdir().unwrap();
    let (tokens, server) = guarded(|request| usize::from(is_large(request)));
    let image = image();
    push_with(
        known(&folder, &server.server),
        &server.server,
        "team/app:1",
        &image.documents(),
        &Blobs::of(&[&image]),
    )
    .unwrap();
    assert_there(&server, "team/app", &image);
    assert_eq!(tokens.received().len(), 2);
    // One that is never content ends it.
    let (tokens, server) = guarded(|request| if is_large(request) { 99 } else { 0 });
    let error = push_with(
        known(&folder, &server.server),
        &server.server,
        "team/app:1",
        &image.documents(),
        &Blobs::of(&[&image]),
    )
    .unwrap_err();
    assert!(
        matches!(&error, Error::Unauthorised { user: Some(user), .. } if user == "me"),
        "{error}"
    );
    assert!(tokens.received().len() < 6);
}

#[test]
fn who_is_unknown_is_told_to_log_in() {
    let (_tokens, server) = guarded(|_| 99);
    let error = push(&server, &image()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("does not let anonymous users push to `team/app`"),
        "{text}"
    );
    let login = format!("`kiln login {}`", server.server.address);
    assert!(text.ends_with(&login), "{text}");
}

#[test]
fn storage_elsewhere_gets_the_bytes_and_no_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Server::start(|request| match request.method.as_str() {
        // It wants to know more than it should.
        "PUT" if request.body.len() == 2_000 => {
            Answer::new(401).header("www-authenticate", "Basic realm=\"x\"")
        }
        _ => Answer::new(201),
    });
    let there = storage.url("/storage?signature=x");
    let serve = move |request: &Received, _: &mut State| {
        if request.header("authorization") != Some("Basic bWU6aHVudGVyMg==") {
            return Some(Answer::new(401).header("www-authenticate", "Basic realm=\"x\""));
        }
        let begins = request.method == "POST";
        begins.then(|| Answer::new(202).header("location", there.clone()))
    };
    let server = Mutable::spoiled(serve);
    let image = TestImage::new("linux/amd64", &[300_000, 2_000]);
    let error = push_with(
        known(&folder, &server.server),
        &server.server,
        "team/app:1",
        &image.documents(),
        &Blobs::of(&[&image]),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Unauthorised { .. }), "{error}");
    let stored = storage.received();
    assert!(!stored.is_empty());
    for request in stored {
        assert_eq!(request.header("authorization"), None);
        assert!(
            request
                .target
                .starts_with("/storage?signature=x&digest=sha256:"),
            "{}",
            request.target
        );
    }
}
