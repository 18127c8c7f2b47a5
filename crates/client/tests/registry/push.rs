//! `Registry::push`: what is sent, in which order, and what becomes of it when the registry goes wrong.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::fake::{asked, on, registry};
use crate::memory::{Blobs, Memory, TestImage, indexed};
use crate::mutable::{Mutable, State, refusal, upload_number};
use crate::server::{Answer, Received, Server};
use kiln_client::{CredentialFiles, Document, Documents, Error, Outcome, Pushed, Settings};
use kiln_http::Cancel;
use kiln_oci::{Compression, Descriptor, Digest, ImageManifest, MediaType};

fn image() -> TestImage {
    TestImage::new("linux/amd64", &[300_000, 2_000, 0])
}

fn push_with(
    settings: Settings,
    server: &Server,
    name: &str,
    documents: &Documents,
    source: &Blobs,
) -> Result<Pushed, Error> {
    registry(settings).push(
        &on(server, name),
        documents,
        source,
        &|_| {},
        &Cancel::new(),
    )
}

fn push(server: &Mutable, image: &TestImage) -> Result<(Pushed, Blobs), Error> {
    let source = Blobs::of(&[image]);
    let settings = Settings::default();
    let pushed = push_with(
        settings,
        &server.server,
        "team/app:1",
        &image.documents(),
        &source,
    )?;
    Ok((pushed, source))
}

fn assert_there(server: &Mutable, repository: &str, image: &TestImage) {
    for blob in image.blobs() {
        assert!(server.has_blob(repository, blob));
    }
    let pinned = format!("{repository}@{}", image.digest());
    assert_eq!(server.manifest(&pinned), Some(image.manifest.clone()));
}

/// Tells whether a request brings bytes of the largest layer, all or the rest.
fn is_large(request: &Received) -> bool {
    matches!(request.method.as_str(), "PUT" | "PATCH") && request.body.len() > 100_000
}

/// A registry that answers the first requests that `which` takes with `answers`.
fn going_wrong(
    which: impl Fn(&Received) -> bool + Send + Sync + 'static,
    answers: impl Fn(usize, &Received, &mut State) -> Option<Answer> + Send + Sync + 'static,
) -> Mutable {
    let count = AtomicUsize::new(0);
    Mutable::spoiled(move |request, state| {
        if which(request) {
            answers(count.fetch_add(1, Ordering::SeqCst), request, state)
        } else {
            None
        }
    })
}

#[test]
fn a_push_brings_blobs_and_then_what_names_them() {
    let server = Mutable::start();
    let (one, other) = (image(), TestImage::new("linux/arm64", &[700, 2_000]));
    let (documents, source) = (indexed(&[&one, &other]), Blobs::of(&[&one, &other]));
    let reports = Mutex::new(Vec::new());
    let pushed = registry(Settings::default())
        .push(
            &on(&server.server, "team/app:1"),
            &documents,
            &source,
            &|now| reports.lock().unwrap().push(now),
            &Cancel::new(),
        )
        .unwrap();
    assert_there(&server, "team/app", &one);
    assert_there(&server, "team/app", &other);
    assert_eq!(
        server.manifest("team/app:1"),
        Some(documents.root.bytes.clone())
    );
    // The registry in memory refuses manifests that come before what they name.
    let requests = asked(&server.server);
    assert_eq!(requests.last().unwrap(), "PUT team/app/manifests/1");
    let distinct = source.blobs.len();
    assert!(pushed.changed);
    assert_eq!(pushed.digest, documents.root.digest);
    assert_eq!(pushed.blobs.len(), distinct);
    assert!(pushed.blobs.values().all(|how| *how == Outcome::Pushed));
    let bytes: usize = source.blobs.values().map(Vec::len).sum();
    assert_eq!(pushed.sent_bytes, bytes as u64);
    let reports = reports.into_inner().unwrap();
    let done = reports.iter().filter(|report| report.outcome.is_some());
    assert_eq!(done.count(), distinct);
    // And back again.
    let sink = Memory::default();
    let pulled = registry(Settings::default())
        .pull(
            &on(&server.server, "team/app:1"),
            &"linux/arm64".parse().unwrap(),
            &sink,
            &|_| {},
            &Cancel::new(),
        )
        .unwrap();
    assert_eq!(pulled.image.manifest.digest, other.digest());
}

#[test]
fn a_second_push_asks_once_and_another_name_sends_one_document() {
    let server = Mutable::start();
    let image = image();
    push(&server, &image).unwrap();
    let before = asked(&server.server).len();
    let (pushed, source) = push(&server, &image).unwrap();
    assert_eq!(
        asked(&server.server)[before..],
        ["HEAD team/app/manifests/1"]
    );
    assert!(!pushed.changed && pushed.blobs.is_empty());
    assert!(source.opened.lock().unwrap().is_empty());
    let before = asked(&server.server).len();
    let pushed = push_with(
        Settings::default(),
        &server.server,
        "team/app:2",
        &image.documents(),
        &source,
    )
    .unwrap();
    assert!(pushed.changed);
    let digest = image.digest();
    assert_eq!(
        asked(&server.server)[before..],
        [
            "HEAD team/app/manifests/2".to_owned(),
            format!("HEAD team/app/manifests/{digest}"),
            "PUT team/app/manifests/2".to_owned(),
        ]
    );
    // A registry that has a manifest and lost what it names gets it again.
    server.state.lock().unwrap().blobs.clear();
    push_with(
        Settings::default(),
        &server.server,
        "team/app:3",
        &image.documents(),
        &source,
    )
    .unwrap();
    assert_there(&server, "team/app", &image);
}

#[test]
fn what_is_there_is_not_sent() {
    let server = Mutable::start();
    let image = image();
    server.blob("team/app", &image.layers[0]);
    let (pushed, source) = push(&server, &image).unwrap();
    let digest = Digest::of(&image.layers[0]);
    assert_eq!(pushed.blobs[&digest], Outcome::There);
    let opened = source.opened.into_inner().unwrap();
    assert!(
        opened.iter().all(|(size, _)| *size != 300_000),
        "{opened:?}"
    );
    assert_there(&server, "team/app", &image);
}

#[test]
fn blobs_of_another_repository_are_mounted_where_the_registry_does_that() {
    for mounts in [true, false] {
        let server = Mutable::start();
        server.state.lock().unwrap().mounts = mounts;
        let image = image();
        for layer in &image.layers {
            server.blob("team/base", layer);
        }
        let mut source = Blobs::of(&[&image]);
        source.known_in = vec![
            "elsewhere.test/x/y".parse().unwrap(),
            on(&server.server, "team/app"),
            on(&server.server, "team/base"),
        ];
        let pushed = push_with(
            Settings::default(),
            &server.server,
            "team/app:1",
            &image.documents(),
            &source,
        )
        .unwrap();
        assert_there(&server, "team/app", &image);
        let digest = Digest::of(&image.layers[0]);
        let expected = if mounts {
            Outcome::Mounted("team/base".to_owned())
        } else {
            Outcome::Pushed
        };
        assert_eq!(pushed.blobs[&digest], expected);
        // The answer to a refused mount is an upload to be used: one POST for each blob.
        let posts = asked(&server.server)
            .into_iter()
            .filter(|request| request.starts_with("POST"));
        assert_eq!(posts.count(), image.layers.len() + 1);
    }
}

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
fn layers_that_may_not_be_handed_on_are_left_where_they_are() {
    let server = Mutable::start();
    let image = image();
    let mut manifest = ImageManifest::parse(&image.manifest).unwrap();
    let foreign = MediaType::OciForeignLayer(Compression::Gzip);
    let layer = Descriptor::of(foreign, b"only at its maker's");
    manifest.layers.push(layer.clone());
    let document = Document::of(MediaType::OciManifest, manifest.to_bytes());
    let pushed = push_with(
        Settings::default(),
        &server.server,
        "team/app:1",
        &Documents::single(document),
        &Blobs::of(&[&image]),
    )
    .unwrap();
    assert!(!pushed.blobs.contains_key(&layer.digest));
    assert_eq!(server.manifest("team/app:1"), Some(manifest.to_bytes()));
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
fn refusals_are_shown_with_their_codes() {
    let is_manifest =
        |request: &Received| request.method == "PUT" && request.target.contains("/manifests/");
    let server = going_wrong(is_manifest, |_, _, _| {
        Some(refusal(400, "MANIFEST_INVALID", "no annotations here"))
    });
    let image = image();
    let error = push(&server, &image).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("does not take the manifest `{}`", image.digest())),
        "{text}"
    );
    assert!(
        text.ends_with("(status 400): MANIFEST_INVALID: no annotations here"),
        "{text}"
    );
    let server = going_wrong(
        |request| request.method == "POST",
        |_, _, _| Some(refusal(403, "DENIED", "the quota is used up")),
    );
    let text = push(&server, &image).unwrap_err().to_string();
    assert!(text.contains("the quota is used up"), "{text}");
}

#[test]
fn another_digest_than_what_was_sent_is_noticed() {
    let other = Digest::of(b"other").to_string();
    let header = other.clone();
    let server = going_wrong(
        |request| request.target.contains("/manifests/") && request.method == "PUT",
        move |_, _, _| Some(Answer::new(201).header("docker-content-digest", header.clone())),
    );
    let error = push(&server, &image()).unwrap_err();
    assert!(
        matches!(&error, Error::Mangled { actual, .. } if *actual == other),
        "{error}"
    );
    let server = going_wrong(is_large, move |_, _, _| {
        Some(Answer::new(201).header("docker-content-digest", other.clone()))
    });
    let error = push(&server, &image()).unwrap_err();
    assert!(matches!(&error, Error::Mangled { .. }), "{error}");
    // A source with other bytes than the descriptor's is refused by the registry.
    let server = Mutable::start();
    let image = image();
    let mut source = Blobs::of(&[&image]);
    let layer = source.blobs.get_mut(&Digest::of(&image.layers[0])).unwrap();
    layer[7] ^= 1;
    let error = push_with(
        Settings::default(),
        &server.server,
        "team/app:1",
        &image.documents(),
        &source,
    )
    .unwrap_err();
    assert!(error.to_string().contains("DIGEST_INVALID"), "{error}");
    let pinned = on(&server.server, &format!("team/app:1@{}", Digest::of(b"x")));
    let error = registry(Settings::default())
        .push(
            &pinned,
            &image.documents(),
            &source,
            &|_| {},
            &Cancel::new(),
        )
        .unwrap_err();
    assert!(matches!(error, Error::WrongManifest { .. }), "{error}");
}

#[test]
fn a_source_that_fails_is_named() {
    let server = Mutable::start();
    let image = image();
    let mut source = Blobs::of(&[&image]);
    source.blobs.remove(&Digest::of(&image.layers[0]));
    let error = push_with(
        Settings::default(),
        &server.server,
        "team/app:1",
        &image.documents(),
        &source,
    )
    .unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{error}");
    assert!(error.to_string().ends_with("no such blob"), "{error}");
    assert_eq!(server.manifest("team/app:1"), None);
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
