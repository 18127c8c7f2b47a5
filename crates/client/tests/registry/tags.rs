//! Tags: whole lists from pages, and deletions that delete no more than they should.

use kiln_client::{Error, Settings};
use kiln_http::Cancel;

use crate::docker::{DockerRegistry, images, missing};
use crate::fake::{asked, on, registry};
use crate::memory::{Blobs, TestImage};
use crate::mutable::{Mutable, refusal};
use crate::server::{Answer, Server};

fn pushed(server: &Mutable, tags: &[&str]) {
    let image = TestImage::new("linux/amd64", &[10]);
    for tag in tags {
        registry(Settings::default())
            .push(
                &on(&server.server, &format!("team/app:{tag}")),
                &image.documents(),
                &Blobs::of(&[&image]),
                &|_| {},
                &Cancel::new(),
            )
            .unwrap();
    }
}

fn tags(server: &Server) -> Result<Vec<String>, Error> {
    registry(Settings::default()).tags(&on(server, "team/app"), &Cancel::new())
}

fn delete(server: &Server, name: &str) -> Result<(), Error> {
    registry(Settings::default()).delete(&on(server, name), &Cancel::new())
}

#[test]
fn a_list_is_read_to_its_last_page() {
    let server = Mutable::start();
    server.state.lock().unwrap().page = Some(2);
    pushed(&server, &["a", "b", "c", "d", "e"]);
    let before = asked(&server.server).len();
    assert_eq!(tags(&server.server).unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(
        asked(&server.server)[before..],
        [
            "GET team/app/tags/list?n=1000",
            "GET team/app/tags/list?last=b&n=2",
            "GET team/app/tags/list?last=d&n=2"
        ]
    );
    let error = registry(Settings::default())
        .tags(&on(&server.server, "team/none"), &Cancel::new())
        .unwrap_err();
    assert!(matches!(error, Error::RepositoryNotFound { .. }), "{error}");
}

#[test]
fn a_list_leads_nowhere_else_and_holds_tags() {
    let other = Server::start(|_| Answer::ok(r#"{"tags":["stolen"]}"#));
    let link = format!(r#"<{}>; rel="next""#, other.url("/v2/team/app/tags/list"));
    let link = link.replace("127.0.0.1", "localhost");
    let server = Server::start(move |request| match request.target.as_str() {
        "/v2/" => Answer::ok("{}"),
        _ => Answer::ok(r#"{"tags":["a"]}"#).header("link", link.clone()),
    });
    assert_eq!(tags(&server).unwrap(), ["a"]);
    assert!(other.received().is_empty());
    for (body, expected) in [
        (r#"{"name":"team/app","tags":null}"#, Some(0)),
        (r#"{"tags":["\u001b[31m"]}"#, None),
        ("<html>", None),
    ] {
        let server = Server::start(move |_| Answer::ok(body));
        assert_eq!(
            tags(&server).ok().map(|tags| tags.len()),
            expected,
            "{body}"
        );
    }
    let server = Server::start(|_| Answer::ok("<html>"));
    let error = tags(&server).unwrap_err().to_string();
    let (list, _) = error.split_once(": ").unwrap();
    assert!(
        list.starts_with("cannot list the tags of `127.0.0.1:"),
        "{error}"
    );
    assert!(list.ends_with("/team/app`"), "{error}");
}

#[test]
fn a_tag_goes_alone_and_a_digest_with_all() {
    let server = Mutable::start();
    pushed(&server, &["a", "b"]);
    delete(&server.server, "team/app:a").unwrap();
    assert_eq!(tags(&server.server).unwrap(), ["b"]);
    let error = delete(&server.server, "team/app:a").unwrap_err();
    assert!(matches!(error, Error::ManifestNotFound { .. }), "{error}");
    let digest = TestImage::new("linux/amd64", &[10]).digest();
    delete(&server.server, &format!("team/app@{digest}")).unwrap();
    let requests = asked(&server.server);
    let last = format!("DELETE team/app/manifests/{digest}");
    assert_eq!(requests.last(), Some(&last));
    // Older registries would take the other tags along: the choice is the user's.
    let old = Mutable::spoiled(|request, _| {
        let by_tag = request.method == "DELETE" && !request.target.contains("sha256:");
        by_tag.then(|| refusal(400, "DIGEST_INVALID", "provided digest did not match"))
    });
    pushed(&old, &["a", "b"]);
    let error = delete(&old.server, "team/app:a").unwrap_err();
    let advice = format!("/team/app@{digest}` removes what the tag names");
    assert!(error.to_string().contains(&advice), "{error}");
    assert_eq!(tags(&old.server).unwrap(), ["a", "b"]);
}

#[test]
fn docker_registry_lists_and_deletes() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, _) = images();
    let server = DockerRegistry::start("", "", &[]);
    let client = registry(Settings::default());
    let (source, cancel) = (Blobs::of(&[&image]), Cancel::new());
    for tag in ["x", "y", "z"] {
        let reference = server.reference(&format!("app:{tag}"));
        client
            .push(&reference, &image.documents(), &source, &|_| {}, &cancel)
            .unwrap();
    }
    let repository = server.reference("app");
    let mut tags = client.tags(&repository, &cancel).unwrap();
    // Version 2.8 has no order.
    tags.sort();
    assert_eq!(tags, ["x", "y", "z"]);
    // Debian's configuration of it does not delete.
    let pinned = repository.with_digest(image.digest());
    let error = client.delete(&pinned, &cancel).unwrap_err();
    assert!(
        matches!(error, Error::Rejected { status: 405, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("does not delete the manifest"),
        "{error}"
    );
}
