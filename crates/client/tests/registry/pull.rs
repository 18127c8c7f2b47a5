//! Pulling from a registry that works, and from one that does not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::fake::{Contents, asked, on, registry};
use crate::memory::{Memory, TestImage, index};
use crate::server::{Answer, Server};
use kiln_client::{
    Error, Mirror, Progress, Pulled, Registry, RegistrySettings, Resolved, Settings,
};
use kiln_http::Cancel;
use kiln_oci::{Digest, Platform, Reference};

fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

fn pull(registry: &Registry, reference: &Reference, sink: &Memory) -> Result<Pulled, Error> {
    registry.pull(reference, &amd64(), sink, &|_| {}, &Cancel::new())
}

fn resolve(registry: &Registry, reference: &Reference) -> Result<Resolved, Error> {
    registry.resolve(reference, &amd64(), &Cancel::new())
}

/// Pulls into a new sink.
fn pull_from(server: &Server, name: &str) -> Result<Memory, Error> {
    let sink = Memory::default();
    pull(&registry(Settings::default()), &on(server, name), &sink)?;
    Ok(sink)
}

fn two_platforms() -> (TestImage, TestImage, Vec<u8>) {
    let image = TestImage::new("linux/amd64", &[100_000, 0, 5000]);
    let other = TestImage::new("linux/arm64", &[7]);
    let index = index(&[&other, &image]);
    (image, other, index)
}

#[test]
fn an_image_arrives_whole_and_its_manifest_last() {
    let (image, other, index) = two_platforms();
    let server = Contents::new()
        .image("team/app", "a", &image)
        .image("team/app", "b", &other)
        .index("team/app", "latest", &index)
        .serve();
    let sink = Memory::default();
    let seen = Mutex::new(BTreeMap::<Digest, Vec<Progress>>::new());
    let note = |progress: Progress| {
        seen.lock()
            .unwrap()
            .entry(progress.digest)
            .or_default()
            .push(progress);
    };
    let registry = registry(Settings::default());
    let pulled = registry
        .pull(
            &on(&server, "team/app"),
            &amd64(),
            &sink,
            &note,
            &Cancel::new(),
        )
        .unwrap();
    assert_eq!(pulled.image.manifest.digest, image.digest());
    assert_eq!(pulled.image.indexes[0].bytes, index);
    assert_eq!(pulled.received_bytes, 105_000);
    for blob in image.blobs().chain([&image.manifest, &index]) {
        assert!(sink.get(Digest::of(blob)).unwrap() == *blob);
    }
    assert_eq!(sink.blobs.lock().unwrap().len(), 6);
    let committed = sink.committed.lock().unwrap();
    assert_eq!(
        committed[3..],
        [
            Digest::of(&image.config),
            image.digest(),
            Digest::of(&index)
        ]
    );
    for layer in &image.layers {
        let last = *seen.lock().unwrap()[&Digest::of(layer)].last().unwrap();
        let size = layer.len() as u64;
        assert_eq!(
            (last.done_bytes, last.total_bytes, last.committed),
            (size, size, true)
        );
    }
    drop(committed);
    // All of it is there now: only the documents are asked for.
    let before = asked(&server).len();
    let pulled = pull(&registry, &on(&server, "team/app"), &sink).unwrap();
    assert_eq!(pulled.received_bytes, 0);
    let after = asked(&server);
    assert_eq!(after.len() - before, 3, "{after:?}");
}

#[test]
fn resolving_asks_for_headers_where_they_suffice() {
    let (image, other, index) = two_platforms();
    let server = Contents::new()
        .image("app", "one", &image)
        .image("app", "two", &other)
        .index("app", "all", &index)
        .serve();
    let registry = registry(Settings::default());
    let one = resolve(&registry, &on(&server, "app:one")).unwrap();
    assert_eq!((one.index, one.manifest), (None, image.digest()));
    assert_eq!(asked(&server), ["HEAD app/manifests/one"]);
    let all = resolve(&registry, &on(&server, "app:all")).unwrap();
    assert_eq!(
        (all.index, all.manifest),
        (Some(Digest::of(&index)), image.digest())
    );
    let pinned = on(&server, "app:gone").with_digest(Digest::of(&index));
    assert_eq!(resolve(&registry, &pinned).unwrap(), all);
    let accept = server.received()[1].header("accept").unwrap().to_owned();
    for media_type in [
        "oci.image.index",
        "oci.image.manifest",
        "manifest.list.v2",
        "manifest.v2",
    ] {
        assert!(accept.contains(media_type), "{accept}");
    }
}

#[test]
fn registries_that_do_not_announce_digests_are_read_all_the_same() {
    let image = TestImage::new("linux/amd64", &[10]);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(|request, real| {
            let mut answer = real();
            answer.headers.retain(|(name, _)| name == "content-range");
            if request.method == "HEAD" {
                Answer::new(405)
            } else {
                answer
            }
        });
    let resolved = resolve(&registry(Settings::default()), &on(&server, "app")).unwrap();
    assert_eq!(resolved.manifest, image.digest());
    pull_from(&server, "app").unwrap();
}

#[test]
fn a_missing_platform_is_told_with_those_there_are() {
    let (_, other, _) = two_platforms();
    let windows = TestImage::new("windows/amd64", &[1]);
    let server = Contents::new()
        .image("app", "single", &other)
        .index("app", "several", &index(&[&other, &windows]))
        .serve();
    for (name, available) in [
        ("app:several", "`linux/arm64`, `windows/amd64`"),
        ("app:single", "`linux/arm64`"),
    ] {
        let error = pull_from(&server, name).unwrap_err();
        assert!(matches!(error, Error::Platform { .. }), "{error}");
        assert!(
            error.to_string().ends_with(&format!(
                "is not available for `linux/amd64`; it is for {available}"
            )),
            "{error}"
        );
    }
}

#[test]
fn a_missing_tag_a_missing_repository_and_a_missing_blob_are_told_apart() {
    let image = TestImage::new("linux/amd64", &[10, 20]);
    let lost = format!("GET app/blobs/{}", Digest::of(&image.layers[1]));
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            if format!("GET {}", request.target.trim_start_matches("/v2/")) == lost {
                Answer::new(404).body("not here")
            } else {
                real()
            }
        });
    let error = pull_from(&server, "app:1.0").unwrap_err();
    assert!(matches!(error, Error::ManifestNotFound { .. }), "{error}");
    assert!(error.to_string().ends_with("has no tag `1.0`"), "{error}");
    let error = pull_from(&server, "nothing:1.0").unwrap_err();
    assert!(matches!(error, Error::RepositoryNotFound { .. }), "{error}");
    let error = pull_from(&server, "app").unwrap_err();
    let Error::BlobNotFound { digest, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(digest, Digest::of(&image.layers[1]));
}

#[test]
fn half_a_blob_is_completed() {
    let image = TestImage::new("linux/amd64", &[200_000]);
    let layer = Digest::of(&image.layers[0]);
    let cut = AtomicBool::new(false);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&layer.hex()) && !cut.swap(true, Ordering::SeqCst) {
                answer.cut_after = Some(120_000);
            }
            answer
        });
    let sink = pull_from(&server, "app").unwrap();
    assert!(sink.get(layer).unwrap() == image.layers[0]);
    assert!(
        server
            .received()
            .iter()
            .any(|request| request.range_start() == Some(120_000))
    );
}

#[test]
fn a_later_pull_goes_on_with_the_beginning_of_a_blob() {
    let image = TestImage::new("linux/amd64", &[200_000, 300_000]);
    let server = Contents::new().image("app", "latest", &image).serve();
    let sink = Memory::default();
    let first = Digest::of(&image.layers[0]);
    sink.partial
        .lock()
        .unwrap()
        .insert(first, image.layers[0][..150_000].to_vec());
    let pulled = pull(&registry(Settings::default()), &on(&server, "app"), &sink).unwrap();
    assert_eq!(pulled.received_bytes, 350_000);
    assert!(sink.get(first).unwrap() == image.layers[0]);
    let ranges: Vec<_> = server
        .received()
        .iter()
        .filter_map(crate::server::Received::range_start)
        .collect();
    assert_eq!(ranges, [150_000]);
}

#[test]
fn a_corrupt_blob_is_refused_and_nothing_of_it_is_kept() {
    let image = TestImage::new("linux/amd64", &[200_000]);
    let layer = Digest::of(&image.layers[0]);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&layer.hex()) {
                answer.body[100_000] ^= 1;
            }
            answer
        });
    let sink = Memory::default();
    let error = pull(&registry(Settings::default()), &on(&server, "app"), &sink).unwrap_err();
    let Error::Http { ref source, .. } = error else {
        panic!("{error}")
    };
    assert!(
        matches!(**source, kiln_http::Error::WrongDigest { expected, .. } if expected == layer),
        "{error}"
    );
    assert!(sink.blobs.lock().unwrap().is_empty());
    assert!(sink.partial.lock().unwrap()[&layer].is_empty());
}

#[test]
fn a_manifest_that_is_not_the_announced_one_is_refused() {
    let image = TestImage::new("linux/amd64", &[10]);
    let wrong = |name: &'static str| {
        Contents::new()
            .image("app", "latest", &image)
            .spoiled(move |request, real| {
                let mut answer = real();
                if request.target.contains("/manifests/") && request.method == "GET" {
                    match name {
                        "header" => {
                            answer
                                .headers
                                .retain(|(name, _)| name != "docker-content-digest");
                            answer = answer
                                .header("docker-content-digest", Digest::of(b"x").to_string());
                        }
                        _ => answer.body.push(b' '),
                    }
                }
                answer
            })
    };
    let error = pull_from(&wrong("header"), "app").unwrap_err();
    assert!(
        matches!(error, Error::WrongManifest { expected, .. } if expected == Digest::of(b"x")),
        "{error}"
    );
    assert!(
        error.to_string().contains("`Docker-Content-Digest`"),
        "{error}"
    );
    let server = wrong("body");
    let pinned = on(&server, "app").with_digest(image.digest());
    let error = pull(&registry(Settings::default()), &pinned, &Memory::default()).unwrap_err();
    assert!(
        matches!(error, Error::WrongManifest { expected, .. } if expected == image.digest()),
        "{error}"
    );
}

#[test]
fn a_redirected_blob_comes_from_the_other_host() {
    let image = TestImage::new("linux/amd64", &[1000]);
    let contents = Contents::new().image("app", "latest", &image);
    let storage = contents.clone().serve();
    let target = storage.url("");
    let server = contents.spoiled(move |request, real| {
        if request.target.contains("/blobs/") {
            Answer::new(307).header(
                "location",
                format!("{target}{}?signature=x", request.target),
            )
        } else {
            real()
        }
    });
    pull_from(&server, "app").unwrap();
    assert_eq!(storage.received().len(), 2);
    assert!(
        storage
            .received()
            .iter()
            .all(|request| request.header("authorization").is_none())
    );
}

#[test]
fn trouble_at_the_registry_is_named() {
    let image = TestImage::new("linux/amd64", &[1000]);
    let with = |answer: Answer| {
        let server =
            Contents::new()
                .image("app", "latest", &image)
                .spoiled(move |request, real| {
                    if request.target == "/v2/" {
                        real()
                    } else {
                        answer.clone()
                    }
                });
        let error = pull_from(&server, "app").unwrap_err();
        (error, server)
    };
    let http = |error: Error| {
        let Error::Http { source, .. } = error else {
            panic!("{error}")
        };
        *source
    };
    let (error, server) = with(Answer::new(500).body("oh"));
    assert!(
        error
            .to_string()
            .contains("answered 500 (tried 3 times): oh"),
        "{error}"
    );
    assert_eq!(asked(&server).len(), 3);

    let limit = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#;
    let (error, _) = with(Answer::new(429).body(limit).header("retry-after", "7200"));
    let text = error.to_string();
    assert!(
        matches!(error, Error::RateLimited { retry_after: Some(wait), .. } if wait == Duration::from_secs(7200))
    );
    assert!(
        text.contains("in 7200 s: You have reached your pull rate limit; logging in may"),
        "{text}"
    );

    let (error, _) = with(Answer {
        mute: true,
        ..Answer::new(0)
    });
    assert!(matches!(http(error), kiln_http::Error::Timeout { .. }));
    let (error, _) = with(Answer {
        hang_up: true,
        ..Answer::new(0)
    });
    assert!(matches!(http(error), kiln_http::Error::Broken { .. }));
    let (error, _) =
        with(Answer::new(403).body(r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#));
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(
        error.to_string().contains(
            "denies anonymous users access to `app`: not for you; log in with `kiln login"
        ),
        "{error}"
    );
}

#[test]
fn what_is_no_image_is_refused() {
    let image = TestImage::new("linux/amd64", &[1]);
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let layers = format!(
        "[{}]",
        vec![r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#; 600].join(",")
    );
    let config = |media_type: &str, size: u64| {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":{size}}}"#,
            Digest::of(&image.config)
        )
    };
    let oci_config = "application/vnd.oci.image.config.v1+json";
    for (name, media_type, body, expected) in [
        (
            "schema1",
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            r#"{"schemaVersion":1}"#.to_owned(),
            "schema 1",
        ),
        (
            "page",
            "text/html",
            "<html>welcome</html>".to_owned(),
            "not a container image: it is `text/html`",
        ),
        ("broken", oci, "{".to_owned(), "cannot be read"),
        (
            "both",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
                config(oci_config, 1)
            ),
            "belongs to another kind",
        ),
        (
            "helm",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                config("application/vnd.cncf.helm.config.v1+json", 1)
            ),
            "it is `application/vnd.cncf.helm.config.v1+json`",
        ),
        (
            "many",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":{layers}}}"#,
                config(oci_config, 1)
            ),
            "600 layers",
        ),
        (
            "vast",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                config(oci_config, u64::MAX)
            ),
            "more than the",
        ),
        (
            "negative",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{oci_config}","digest":"{}","size":-1}},"layers":[]}}"#,
                Digest::of(b"")
            ),
            "cannot be read",
        ),
        (
            "path",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{oci_config}","digest":"sha256:../../../etc/passwd","size":1}},"layers":[]}}"#
            ),
            "cannot be read",
        ),
        (
            "shorter",
            oci,
            format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                config(oci_config, 3)
            ),
            "bytes where 3 were expected",
        ),
        (
            "large",
            oci,
            format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "x".repeat(5 << 20)),
            "larger than 4194304 bytes",
        ),
    ] {
        let server = Contents::new()
            .blob("app", &image.config)
            .document("app", name, media_type, body.as_bytes())
            .serve();
        let error = pull_from(&server, &format!("app:{name}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn indexes_in_circles_end() {
    let entry = |digest: Digest, size: usize| {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
        )
    };
    let mut contents = Contents::new();
    let mut inner = entry(Digest::of(b"x"), 1);
    for depth in 0..6 {
        contents = contents.index("app", &format!("deep{depth}"), inner.as_bytes());
        inner = entry(Digest::of(inner.as_bytes()), inner.len());
    }
    let server = contents.serve();
    let error = pull_from(&server, "app:deep5").unwrap_err();
    assert!(matches!(error, Error::TooDeep { .. }), "{error}");
}

fn mirrored(upstream: &Server, mirror: &Server) -> Registry {
    let mut settings = Settings::default();
    let location = format!("{}/cache/", mirror.address);
    let mirrors = vec![Mirror { location }];
    settings
        .registries
        .insert(upstream.address.to_string(), RegistrySettings { mirrors });
    registry(settings)
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_for_the_rest() {
    let image = TestImage::new("linux/amd64", &[1000, 2000]);
    let upstream = Contents::new()
        .image("app", "latest", &image)
        .image("app", "new", &image)
        .serve();
    // The mirror has lost a layer and does not know the new tag.
    let lost = Digest::of(&image.layers[1]).hex();
    let mirror = Contents::new()
        .image("cache/app", "latest", &image)
        .spoiled(move |request, real| {
            if request.target.ends_with(&lost) {
                Answer::new(404)
            } else {
                real()
            }
        });
    let registry = mirrored(&upstream, &mirror);
    pull(&registry, &on(&upstream, "app"), &Memory::default()).unwrap();
    assert_eq!(
        asked(&upstream),
        [format!("GET app/blobs/{}", Digest::of(&image.layers[1]))]
    );
    assert_eq!(asked(&mirror).len(), 4);
    resolve(&registry, &on(&upstream, "app:new")).unwrap();
    let error = resolve(&registry, &on(&upstream, "app:never")).unwrap_err();
    assert!(
        error.to_string().contains(&upstream.address.to_string()),
        "{error}"
    );
}

#[test]
fn a_mirror_that_is_down_or_lies_is_no_obstacle() {
    let image = TestImage::new("linux/amd64", &[1000]);
    let upstream = Contents::new().image("app", "latest", &image).serve();
    let failing = Server::start(|_| Answer::new(502));
    pull(
        &mirrored(&upstream, &failing),
        &on(&upstream, "app"),
        &Memory::default(),
    )
    .unwrap();
    let lying = Contents::new()
        .image("cache/app", "latest", &image)
        .spoiled(|request, real| {
            let mut answer = real();
            if request.target.contains("/blobs/") {
                answer.body[0] ^= 1;
            }
            answer
        });
    let sink = Memory::default();
    pull(&mirrored(&upstream, &lying), &on(&upstream, "app"), &sink).unwrap();
    assert!(sink.get(Digest::of(&image.layers[0])).unwrap() == image.layers[0]);
}

#[test]
fn blobs_come_several_at_once_and_each_once() {
    let mut image = TestImage::new("linux/amd64", &[1000, 2000, 3000, 4000]);
    // The first layer twice.
    let again = String::from_utf8(image.manifest.clone()).unwrap();
    let first = again
        .split_once(r#""layers":["#)
        .unwrap()
        .1
        .split_once("},")
        .unwrap()
        .0
        .to_owned()
        + "},";
    image.manifest = again
        .replacen(r#""layers":["#, &format!(r#""layers":[{first}"#), 1)
        .into_bytes();
    let meeting = Arc::new(Barrier::new(4));
    let config = Digest::of(&image.config).hex();
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            if request.target.contains("/blobs/") && !request.target.ends_with(&config) {
                // Nobody is answered before all four are here.
                meeting.wait();
            }
            real()
        });
    pull_from(&server, "app").unwrap();
    let blobs = asked(&server)
        .into_iter()
        .filter(|line| line.contains("/blobs/"))
        .count();
    assert_eq!(blobs, 5);
}

#[test]
fn the_first_failure_stops_the_others() {
    let image = TestImage::new("linux/amd64", &[1000, 2000, 3000]);
    let bad = Digest::of(&image.layers[1]).hex();
    let layers: Vec<String> = image
        .layers
        .iter()
        .map(|layer| Digest::of(layer).hex())
        .collect();
    let waiting = AtomicUsize::new(0);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&bad) {
                while waiting.load(Ordering::SeqCst) < 2 {
                    thread::yield_now();
                }
                return Answer::new(404);
            }
            if layers.iter().any(|layer| request.target.ends_with(layer)) {
                waiting.fetch_add(1, Ordering::SeqCst);
                answer.stall_after = Some(10);
            }
            answer
        });
    let patient = Registry::new(
        kiln_http::Client::new(kiln_http::Settings::default()),
        Settings::default(),
    );
    let started = Instant::now();
    let error = pull(&patient, &on(&server, "app"), &Memory::default()).unwrap_err();
    assert!(matches!(error, Error::BlobNotFound { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_cancelled_pull_stops_and_keeps_what_came() {
    let image = TestImage::new("linux/amd64", &[1_000_000, 2000]);
    let large = Digest::of(&image.layers[0]);
    let server = Contents::new()
        .image("app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&large.hex()) {
                answer.stall_after = Some(600_000);
            }
            answer
        });
    let patient = Registry::new(
        kiln_http::Client::new(kiln_http::Settings::default()),
        Settings::default(),
    );
    let (sink, cancel) = (Memory::default(), Cancel::new());
    let stop = |progress: Progress| {
        if progress.digest == large && progress.done_bytes > 100_000 {
            cancel.cancel();
        }
    };
    let started = Instant::now();
    let error = patient
        .pull(&on(&server, "app"), &amd64(), &sink, &stop, &cancel)
        .unwrap_err();
    assert!(matches!(error, Error::Cancelled(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(sink.partial.lock().unwrap()[&large].len() > 100_000);
    assert!(sink.get(image.digest()).is_none());
}
