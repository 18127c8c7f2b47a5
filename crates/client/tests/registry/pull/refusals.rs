//! What is missing, corrupt or no image, and how it is told.

use std::time::Duration;

use super::*;

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
