//! `Registry::copy`: from one registry to another without anything in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_client::{Error, Outcome, Pushed, Settings};
use kiln_http::Cancel;
use kiln_oci::{Digest, Reference};

use crate::docker::{DockerRegistry, assert_whole, images, missing};
use crate::fake::{Contents, asked, on, registry};
use crate::memory::{Blobs, TestImage, index, indexed};
use crate::mutable::Mutable;
use crate::pull::other_hosts::mirrored;
use crate::server::Answer;

fn pair() -> (TestImage, TestImage) {
    (
        TestImage::new("linux/amd64", &[300_000, 20]),
        TestImage::new("linux/arm64", &[5_000, 20]),
    )
}

fn origin() -> Contents {
    let (one, other) = pair();
    Contents::new()
        .image("team/app", "one", &one)
        .image("team/app", "other", &other)
        .index("team/app", "all", &index(&[&one, &other]))
}

fn copy(from: &Reference, to: &Reference, platform: Option<&str>) -> Result<Pushed, Error> {
    let platform = platform.map(|platform| platform.parse().unwrap());
    let settings = Settings::default();
    registry(settings).copy(from, to, platform.as_ref(), &|_| {}, &Cancel::new())
}

#[test]
fn an_index_comes_with_all_its_platforms_or_one() {
    let (one, other) = pair();
    let (from, to) = (origin().serve(), Mutable::start());
    let pushed = copy(
        &on(&from, "team/app:all"),
        &on(&to.server, "mine/app:1"),
        None,
    )
    .unwrap();
    let documents = indexed(&[&one, &other]);
    assert_eq!(pushed.digest, documents.root.digest);
    assert_eq!(to.manifest("mine/app:1"), Some(documents.root.bytes));
    for image in [&one, &other] {
        assert!(image.blobs().all(|blob| to.has_blob("mine/app", blob)));
    }
    let to = Mutable::start();
    let pushed = copy(
        &on(&from, "team/app:all"),
        &on(&to.server, "mine/app:1"),
        Some("linux/arm64"),
    )
    .unwrap();
    assert_eq!(pushed.digest, other.digest());
    assert!(!to.has_blob("mine/app", &one.layers[0]));
    let error = copy(
        &on(&from, "team/app:all"),
        &on(&to.server, "mine/app:1"),
        Some("linux/s390x"),
    )
    .unwrap_err();
    assert!(matches!(error, Error::Platform { .. }), "{error}");
}

#[test]
fn a_mirror_that_falls_silent_in_a_copy_is_left() {
    let (image, _) = pair();
    let upstream = Contents::new().image("app", "latest", &image).serve();
    let layer = Digest::of(&image.layers[0]).hex();
    let stalled = layer.clone();
    let mirror = Contents::new()
        .image("cache/app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&stalled) {
                answer.stall_after = Some(100_000);
            }
            answer
        });
    let to = Mutable::start();
    let (from, name) = (on(&upstream, "app"), on(&to.server, "mine/app:1"));
    let registry = mirrored(&upstream, &mirror);
    registry
        .copy(&from, &name, None, &|_| {}, &Cancel::new())
        .unwrap();
    assert!(to.has_blob("mine/app", &image.layers[0]));
    let of_layer = |server| {
        asked(server)
            .iter()
            .filter(|it| it.ends_with(&layer))
            .count()
    };
    assert_eq!((of_layer(&mirror), of_layer(&upstream)), (1, 1));
}

#[test]
fn within_a_registry_no_blob_travels() {
    let server = Mutable::start();
    let (image, _) = pair();
    let from = on(&server.server, "team/app:1");
    registry(Settings::default())
        .push(
            &from,
            &image.documents(),
            &Blobs::of(&[&image]),
            &|_| {},
            &Cancel::new(),
        )
        .unwrap();
    let before = asked(&server.server).len();
    let pushed = copy(&from, &on(&server.server, "mine/app:1"), None).unwrap();
    let how = Outcome::Mounted("team/app".to_owned());
    assert!(pushed.blobs.values().all(|outcome| *outcome == how));
    let blobs = asked(&server.server)[before..]
        .iter()
        .filter(|request| request.starts_with("GET team/app/blobs"))
        .count();
    assert_eq!(blobs, 0);
}

#[test]
fn a_blob_that_breaks_off_at_its_origin_goes_on() {
    let count = AtomicUsize::new(0);
    let (image, _) = pair();
    let spoilt = origin().spoiled(move |request, real| {
        let mut answer = real();
        let large = request.method == "GET" && answer.body.len() > 50_000;
        if large && count.fetch_add(1, Ordering::SeqCst) < 5 {
            answer.cut_after = Some(50_000);
        }
        answer
    });
    let to = Mutable::start();
    copy(
        &on(&spoilt, "team/app:one"),
        &on(&to.server, "mine/app:1"),
        None,
    )
    .unwrap();
    assert!(image.blobs().all(|blob| to.has_blob("mine/app", blob)));
    // Each byte was asked for once.
    let starts: Vec<_> = spoilt
        .received()
        .iter()
        .filter_map(|request| request.range_start())
        .collect();
    assert_eq!(starts, [50_000, 100_000, 150_000, 200_000, 250_000]);
    assert_eq!(to.state.lock().unwrap().uploads.len(), 3);
}

#[test]
fn both_ends_may_break() {
    let (image, _) = pair();
    let from = origin().serve();
    let count = AtomicUsize::new(0);
    let to = Mutable::spoiled(move |request, state| {
        let large = request.method == "PUT" && request.body.len() > 100_000;
        (large && count.fetch_add(1, Ordering::SeqCst) == 0).then(|| {
            let number = crate::mutable::upload_number(request);
            let upload = state.uploads[number].as_mut().unwrap();
            upload.extend_from_slice(&request.body[..70_000]);
            Answer {
                hang_up: true,
                ..Answer::ok("")
            }
        })
    });
    copy(
        &on(&from, "team/app:one"),
        &on(&to.server, "mine/app:1"),
        None,
    )
    .unwrap();
    assert!(image.blobs().all(|blob| to.has_blob("mine/app", blob)));
    let ranges: Vec<_> = from
        .received()
        .iter()
        .filter_map(|request| request.range_start())
        .collect();
    assert_eq!(ranges, [70_000]);
}

#[test]
fn a_blob_that_the_origin_lacks_or_has_wrong_is_not_copied() {
    let (image, _) = pair();
    let to = Mutable::start();
    let layer = kiln_oci::Digest::of(&image.layers[0]).to_string();
    for (status, expected) in [(404, "does not have its blob"), (200, "DIGEST_INVALID")] {
        let (layer, length) = (layer.clone(), image.layers[0].len());
        let from = origin().spoiled(move |request, real| {
            if request.target.ends_with(&layer) {
                return Answer::new(status).body(vec![7; length]);
            }
            real()
        });
        let error = copy(
            &on(&from, "team/app:one"),
            &on(&to.server, "mine/app:1"),
            None,
        )
        .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(to.manifest("mine/app:1"), None);
    }
}

#[test]
fn docker_registries_copy_to_each_other() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let (from, to) = (
        DockerRegistry::start("", "", &[]),
        DockerRegistry::start("", "", &[]),
    );
    let client = registry(Settings::default());
    client
        .push(
            &from.reference("app:all"),
            &indexed(&[&image, &other]),
            &Blobs::of(&[&image, &other]),
            &|_| {},
            &Cancel::new(),
        )
        .unwrap();
    copy(&from.reference("app:all"), &to.reference("copy:all"), None).unwrap();
    let (pulled, sink) = to.pull(&client, "copy:all").unwrap();
    assert_whole(&image, &pulled, &sink);
    to.read_by_skopeo("copy:all", &["--src-tls-verify=false"]);
}
