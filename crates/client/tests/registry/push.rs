//! `Registry::push`: what is sent, in which order, and what becomes of it when the registry goes wrong.

mod credentials;
mod uploads;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fake::{asked, on, registry};
use crate::memory::{Blobs, Memory, TestImage, indexed};
use crate::mutable::{Mutable, State, refusal};
use crate::server::{Answer, Received, Server};
use kiln_client::{Document, Documents, Error, Outcome, Pushed, Settings};
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
