//! Lists: tags, repositories, referrers, and their pages.

use serde_json::json;

use crate::fixtures::http::Reply;
use crate::fixtures::own_registry::{
    INDEX, MANIFEST, OwnRegistry, descriptor, image, index, sha256,
};
use crate::space::TestSpace;

/// Where the next page is.
fn next(reply: &Reply) -> Option<String> {
    let link = reply.header("link")?;
    let (place, rest) = link.strip_prefix('<')?.split_once('>')?;
    assert_eq!(rest, "; rel=\"next\"");
    Some(place.to_owned())
}

#[test]
pub(super) fn the_base_is_a_registry() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    for path in ["/v2/", "/v2"] {
        let reply = registry.get(path).expect(200);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(
            reply.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    registry.head("/v2/").expect(200);
    registry.delete("/v2/").expect_error(405, "UNSUPPORTED");
    registry.get("/").expect_error(404, "UNSUPPORTED");
}

#[test]
pub(super) fn tags_come_in_the_order_of_their_bytes_and_in_pages() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry
        .get("/v2/a/tags/list")
        .expect_error(404, "NAME_UNKNOWN");
    let (_, body) = registry.image("a", "b", b"layer");
    for tag in ["a", "B", "A", "_", "1", "b1"] {
        registry.manifest("a", tag, MANIFEST, &body).expect(201);
    }
    let all = ["1", "A", "B", "_", "a", "b", "b1"];
    let reply = registry.get("/v2/a/tags/list").expect(200);
    assert_eq!(reply.json(), json!({ "name": "a", "tags": all }));
    assert_eq!(next(&reply), None);
    let (mut path, mut found) = ("/v2/a/tags/list?n=3".to_owned(), Vec::new());
    loop {
        let reply = registry.get(&path).expect(200);
        let page = reply.json()["tags"].as_array().expect("a list").clone();
        assert!(page.len() <= 3);
        found.extend(page);
        match next(&reply) {
            Some(place) => path = place,
            None => break,
        }
    }
    assert_eq!(found, all);
    let some = |query: &str| {
        registry
            .get(&format!("/v2/a/tags/list?{query}"))
            .expect(200)
    };
    assert_eq!(some("last=a").json()["tags"], json!(["b", "b1"]));
    assert_eq!(some("last=B&n=1").json()["tags"], json!(["_"]));
    assert_eq!(some("last=zz").json()["tags"], json!([]));
    assert_eq!(some("last=%2f..").json()["tags"], json!(all));
    let none = some("n=0");
    assert_eq!(
        (none.json()["tags"].clone(), next(&none)),
        (json!([]), None)
    );
    let exact = some("n=7");
    assert_eq!(
        (exact.json()["tags"].clone(), next(&exact)),
        (json!(all), None)
    );
    assert_eq!(
        some("n=999999999999999999999999").json()["tags"],
        json!(all)
    );
    for query in ["n=-1", "n=x", "n=", "n=1.5"] {
        registry
            .get(&format!("/v2/a/tags/list?{query}"))
            .expect(400);
    }
    registry.delete("/v2/a/tags/list").expect(405);
}

#[test]
pub(super) fn repositories_are_listed_while_they_hold_something() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    assert_eq!(
        registry.get("/v2/_catalog").expect(200).json(),
        json!({ "repositories": [] })
    );
    let mut last = String::new();
    for repo in ["b", "a/x", "a", "c"] {
        last = registry.image(repo, "t", b"layer").0;
    }
    registry.blob("only-a-blob", b"x");
    let reply = registry.get("/v2/_catalog").expect(200);
    assert_eq!(reply.json()["repositories"], json!(["a", "a/x", "b", "c"]));
    let reply = registry.get("/v2/_catalog?n=2").expect(200);
    assert_eq!(reply.json()["repositories"], json!(["a", "a/x"]));
    let reply = registry
        .get(&next(&reply).expect("another page"))
        .expect(200);
    assert_eq!(reply.json()["repositories"], json!(["b", "c"]));
    assert_eq!(next(&reply), None);
    registry
        .delete(&format!("/v2/c/manifests/{last}"))
        .expect(202);
    assert_eq!(
        registry.get("/v2/_catalog?last=a/x").expect(200).json()["repositories"],
        json!(["b"])
    );
}

#[test]
pub(super) fn referrers_are_found_by_what_they_are_about() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "v1", b"layer");
    let subject = descriptor(MANIFEST, &body);
    let path = format!("/v2/a/referrers/{digest}");
    let empty = registry.get(&path).expect(200);
    assert_eq!(empty.header("content-type"), Some(INDEX));
    assert_eq!(
        empty.json(),
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] })
    );
    registry.blob("a", b"{}");
    let signature = image(
        b"{}",
        &[],
        &json!({ "artifactType": "a/signature", "subject": subject, "annotations": { "k": "v" } }),
    );
    let sbom = image(
        b"{}",
        &[],
        &json!({ "artifactType": "a/sbom", "subject": subject }),
    );
    let plain = image(b"{}", &[], &json!({ "subject": subject }));
    let list = index(
        &[],
        &json!({ "subject": subject, "artifactType": "a/list" }),
    );
    for (kind, one) in [
        (MANIFEST, &signature),
        (MANIFEST, &sbom),
        (MANIFEST, &plain),
        (INDEX, &list),
    ] {
        let reply = registry.manifest("a", &sha256(one), kind, one).expect(201);
        assert_eq!(reply.header("oci-subject"), Some(digest.as_str()));
    }
    let found = registry.get(&path).expect(200).json();
    let found = found["manifests"].as_array().expect("a list");
    assert_eq!(found.len(), 4);
    let entry = |body: &[u8]| {
        let digest = sha256(body);
        found
            .iter()
            .find(|entry| entry["digest"] == digest.as_str())
            .expect("an entry")
            .clone()
    };
    assert_eq!(
        entry(&signature),
        json!({ "mediaType": MANIFEST, "digest": sha256(&signature), "size": signature.len(),
            "artifactType": "a/signature", "annotations": { "k": "v" } })
    );
    assert_eq!(
        entry(&plain)["artifactType"],
        "application/vnd.oci.image.config.v1+json"
    );
    assert_eq!(entry(&list)["mediaType"], INDEX);
    let reply = registry
        .get(&format!("{path}?artifactType=a/sbom"))
        .expect(200);
    assert_eq!(reply.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(reply.json()["manifests"], json!([entry(&sbom)]));
    let reply = registry
        .get(&format!("{path}?artifactType=a%2Fnone"))
        .expect(200);
    assert_eq!(reply.json()["manifests"], json!([]));
    assert_eq!(
        registry
            .get(&path)
            .expect(200)
            .header("oci-filters-applied"),
        None
    );
    registry
        .delete(&format!("/v2/a/manifests/{}", sha256(&sbom)))
        .expect(202);
    assert_eq!(
        registry.get(&path).expect(200).json()["manifests"]
            .as_array()
            .map(Vec::len),
        Some(3)
    );
    registry
        .get("/v2/a/referrers/nonsense")
        .expect_error(400, "DIGEST_INVALID");
    registry
        .get(&format!("/v2/nowhere/referrers/{digest}"))
        .expect(200);
}

#[test]
pub(super) fn what_refers_may_come_before_what_it_is_about() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"{}");
    let missing = descriptor(MANIFEST, b"not there yet");
    let one = image(
        b"{}",
        &[],
        &json!({ "artifactType": "a/b", "subject": missing }),
    );
    let reply = registry.manifest("a", "early", MANIFEST, &one).expect(201);
    assert_eq!(
        reply.header("oci-subject"),
        Some(sha256(b"not there yet").as_str())
    );
    let path = format!("/v2/a/referrers/{}", sha256(b"not there yet"));
    assert_eq!(
        registry.get(&path).expect(200).json()["manifests"][0]["digest"],
        sha256(&one).as_str()
    );
}

#[test]
pub(super) fn lists_that_clients_kept_under_a_tag_count() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, _) = registry.image("a", "v1", b"layer");
    registry.blob("a", b"{}");
    // Pushed by a client that found no list of referrers, and so said no subject.
    let old = image(b"{}", &[], &json!({ "artifactType": "a/old" }));
    registry
        .manifest("a", &sha256(&old), MANIFEST, &old)
        .expect(201);
    let mut entry = descriptor(MANIFEST, &old);
    entry["artifactType"] = "a/old".into();
    let kept = serde_json::to_vec(
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }),
    )
    .expect("JSON");
    registry
        .manifest("a", &digest.replace(':', "-"), INDEX, &kept)
        .expect(201);
    let path = format!("/v2/a/referrers/{digest}");
    assert_eq!(
        registry.get(&path).expect(200).json()["manifests"],
        json!([entry])
    );
    let filtered = registry
        .get(&format!("{path}?artifactType=a/new"))
        .expect(200);
    assert_eq!(filtered.json()["manifests"], json!([]));
}

#[test]
pub(super) fn many_referrers_come_in_pages_that_clients_can_read() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    registry.blob("a", b"{}");
    let subject = descriptor(MANIFEST, b"subject");
    let note = "n".repeat(800_000);
    for number in 0..6 {
        let further = json!({ "artifactType": "a/b", "subject": subject, "annotations": { "n": note, "i": number.to_string() } });
        let one = image(b"{}", &[], &further);
        registry
            .manifest("a", &sha256(&one), MANIFEST, &one)
            .expect(201);
    }
    let mut path = format!("/v2/a/referrers/{}?artifactType=a/b", sha256(b"subject"));
    let (mut count, mut pages) = (0, 0);
    loop {
        let reply = registry.get(&path).expect(200);
        assert!(reply.body.len() < 4 << 20);
        count += reply.json()["manifests"].as_array().map_or(0, Vec::len);
        pages += 1;
        match next(&reply) {
            Some(place) => path = place,
            None => break,
        }
    }
    assert_eq!(count, 6);
    assert!(pages > 1);
}

#[test]
pub(super) fn odd_texts_are_no_failures() {
    let space = TestSpace::new();
    let registry = OwnRegistry::start(&space, "");
    let (digest, body) = registry.image("a", "v1", b"layer");
    registry.blob("a", b"{}");
    let odd = json!({
        "artifactType": "a/\0b", "annotations": { "\0": "\0", "\u{fffd}": "\u{1f980}" }, "subject": descriptor(MANIFEST, &body),
    });
    let one = image(b"{}", &[], &odd);
    registry
        .manifest("a", &sha256(&one), MANIFEST, &one)
        .expect(201);
    for query in ["last=%00", "last=%00v2", "last=a%00&n=1"] {
        let reply = registry
            .get(&format!("/v2/a/tags/list?{query}"))
            .expect(200);
        assert_eq!(reply.json()["tags"], json!(["v1"]), "{query}");
        registry.get(&format!("/v2/_catalog?{query}")).expect(200);
    }
    let reply = registry.get("/v2/a/tags/list?last=v1%00").expect(200);
    assert_eq!(reply.json()["tags"], json!([]));
    for query in [
        "",
        "?last=%00",
        "?artifactType=a/%00b",
        "?last=%ff%00&artifactType=%00",
    ] {
        let reply = registry
            .get(&format!("/v2/a/referrers/{digest}{query}"))
            .expect(200);
        let count = reply.json()["manifests"].as_array().map_or(0, Vec::len);
        assert_eq!(count, usize::from(!query.contains("=%ff")), "{query}");
    }
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/?mount=%00&from=%00"),
        ("POST", "/v2/a/blobs/uploads/?digest=%00"),
        ("PUT", "/v2/a/manifests/v2?tag=%00"),
        ("GET", "/v2/a%00/tags/list"),
        ("GET", "/v2/a/manifests/%00"),
        ("GET", "/token?scope=repository:%00:pull&account=%00"),
    ] {
        let status = registry.ask(method, path, &[], &one).status;
        assert!((200..500).contains(&status), "{method} {path}: {status}");
    }
}
