//! Blobs from other hosts than the registry: mirrors and redirections.

use super::*;

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

pub(crate) fn mirrored(upstream: &Server, mirror: &Server) -> Registry {
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
fn a_mirror_that_is_silent_is_waited_for_once() {
    let image = TestImage::new("linux/amd64", &[1000, 2000]);
    let upstream = Contents::new().image("app", "latest", &image).serve();
    let mute = Server::start(|request| Answer {
        mute: request.target != "/v2/",
        ..Answer::new(200)
    });
    let registry = mirrored(&upstream, &mute);
    pull(&registry, &on(&upstream, "app"), &Memory::default()).unwrap();
    pull(&registry, &on(&upstream, "app"), &Memory::default()).unwrap();
    assert_eq!(asked(&mute), ["GET cache/app/manifests/latest"]);
}

#[test]
fn a_mirror_that_falls_silent_hands_over_what_it_sent() {
    let image = TestImage::new("linux/amd64", &[100_000]);
    let upstream = Contents::new().image("app", "latest", &image).serve();
    let layer = Digest::of(&image.layers[0]).hex();
    let stalling = Contents::new()
        .image("cache/app", "latest", &image)
        .spoiled(move |request, real| {
            let mut answer = real();
            if request.target.ends_with(&layer) {
                answer.stall_after = Some(60_000);
            }
            answer
        });
    let registry = mirrored(&upstream, &stalling);
    pull(&registry, &on(&upstream, "app"), &Memory::default()).unwrap();
    let received = upstream.received();
    let rest = received.iter().find(|it| it.target.contains("/blobs/"));
    assert_eq!(rest.unwrap().header("range"), Some("bytes=60000-"));
    let of_layer = |target: &String| target.contains(&Digest::of(&image.layers[0]).hex());
    assert_eq!(asked(&stalling).iter().filter(|it| of_layer(it)).count(), 1);
}

#[test]
fn a_mirror_whose_token_server_is_silent_is_passed_over() {
    let image = TestImage::new("linux/amd64", &[1000]);
    let upstream = Contents::new().image("app", "latest", &image).serve();
    let tokens = Server::start(|_| Answer {
        mute: true,
        ..Answer::new(200)
    });
    let challenge = format!("Bearer realm=\"{}\"", tokens.url("/token"));
    let mirror =
        Server::start(move |_| Answer::new(401).header("www-authenticate", challenge.clone()));
    let registry = mirrored(&upstream, &mirror);
    pull(&registry, &on(&upstream, "app"), &Memory::default()).unwrap();
    assert_eq!(tokens.received().len(), 1);
}

#[test]
fn a_mirror_that_is_asked_too_often_is_not_waited_for() {
    let image = TestImage::new("linux/amd64", &[1000]);
    let upstream = Contents::new().image("app", "latest", &image).serve();
    let limited = Server::start(|_| Answer::new(429).header("retry-after", "5"));
    let sink = Memory::default();
    pull(&mirrored(&upstream, &limited), &on(&upstream, "app"), &sink).unwrap();
    assert_eq!(asked(&limited).len(), 1);
}
