//! Referrers: with the API, and with the list under a tag where there is none.

use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_client::{Document, Documents, Error, Pushed, Settings};
use kiln_http::Cancel;
use kiln_oci::{Descriptor, Digest, ImageManifest, MediaType};

use crate::docker::{DockerRegistry, images, missing};
use crate::fake::{asked, on, registry};
use crate::memory::{Blobs, TestImage};
use crate::mutable::Mutable;
use crate::server::Answer;

const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.test.signature";

fn image() -> TestImage {
    TestImage::new("linux/amd64", &[10])
}

/// An artifact about `subject` and its blobs.
fn artifact(subject: &TestImage, artifact_type: &str, content: &[u8]) -> (Documents, Blobs) {
    let empty = MediaType::parse("application/vnd.oci.empty.v1+json");
    let layer = Descriptor::of(MediaType::parse(artifact_type), content);
    let mut manifest = ImageManifest::new(Descriptor::of(empty, b"{}"), vec![layer]);
    manifest.artifact_type = Some(artifact_type.to_owned());
    manifest.subject = Some(subject.document().descriptor());
    manifest
        .annotations
        .insert("note".to_owned(), "kept".to_owned());
    let document = Document::of(MediaType::OciManifest, manifest.to_bytes());
    let mut source = Blobs::default();
    for blob in [content, b"{}"] {
        source.blobs.insert(Digest::of(blob), blob.to_vec());
    }
    (Documents::single(document), source)
}

fn push(server: &Mutable, what: &(Documents, Blobs)) -> Result<Pushed, Error> {
    let name = format!("team/app@{}", what.0.root.digest);
    registry(Settings::default()).push(
        &on(&server.server, &name),
        &what.0,
        &what.1,
        &|_| {},
        &Cancel::new(),
    )
}

fn referrers(server: &Mutable, artifact_type: Option<&str>) -> Vec<Descriptor> {
    registry(Settings::default())
        .referrers(
            &on(&server.server, "team/app"),
            image().digest(),
            artifact_type,
            &Cancel::new(),
        )
        .unwrap()
}

fn digests(found: &[Descriptor]) -> Vec<Digest> {
    found.iter().map(|entry| entry.digest).collect()
}

#[test]
fn what_refers_to_an_image_is_found_with_and_without_the_api() {
    for api in [true, false] {
        let server = Mutable::start();
        server.state.lock().unwrap().referrers = api;
        assert!(referrers(&server, None).is_empty());
        let sbom = artifact(&image(), SBOM, b"parts");
        let signature = artifact(&image(), SIGNATURE, b"signed");
        push(&server, &sbom).unwrap();
        push(&server, &signature).unwrap();
        let mut all = digests(&referrers(&server, None));
        all.sort();
        let mut expected = vec![sbom.0.root.digest, signature.0.root.digest];
        expected.sort();
        assert_eq!(all, expected, "{api}");
        let found = referrers(&server, Some(SIGNATURE));
        assert_eq!(digests(&found), [signature.0.root.digest]);
        assert_eq!(found[0].artifact_type.as_deref(), Some(SIGNATURE));
        // The list under the tag is written where nobody else keeps one.
        let tag = format!("team/app:{}", image().digest()).replace("sha256:", "sha256-");
        let list = server.manifest(&tag);
        assert_eq!(list.is_none(), api);
        if !api {
            assert_eq!(found[0].annotations["note"], "kept");
        }
        // Once is enough.
        push(&server, &signature).unwrap();
        assert_eq!(referrers(&server, None).len(), 2);
        assert_eq!(server.manifest(&tag), list);
        // A push that stopped before the list was written is made good by the next one.
        server.state.lock().unwrap().manifests.remove(&tag);
        push(&server, &sbom).unwrap();
        let entries = if api { 2 } else { 1 };
        assert_eq!(referrers(&server, None).len(), entries);
    }
}

#[test]
fn an_entry_that_somebody_overwrote_is_written_again() {
    let writes = AtomicUsize::new(0);
    let server = Mutable::spoiled(move |request, state| {
        let list = request.method == "PUT" && request.target.contains("/manifests/sha256-");
        if !list {
            return None;
        }
        let answer = state.answer(request);
        if writes.fetch_add(1, Ordering::SeqCst) == 0 {
            // Another client had read the list before, and writes its own now.
            state.manifests.retain(|name, _| !name.contains(":sha256-"));
        }
        Some(answer)
    });
    let sbom = artifact(&image(), SBOM, b"parts");
    push(&server, &sbom).unwrap();
    assert_eq!(
        digests(&referrers(&server, Some(SBOM))),
        [sbom.0.root.digest]
    );
    // Not for ever.
    let server = Mutable::spoiled(|request, _| {
        let list = request.method == "PUT" && request.target.contains("/manifests/sha256-");
        list.then(|| Answer::new(201))
    });
    let error = push(&server, &sbom).unwrap_err();
    assert!(matches!(error, Error::ReferrersList { .. }), "{error}");
    let puts = asked(&server.server)
        .into_iter()
        .filter(|request| request.starts_with("PUT team/app/manifests/sha256-"));
    assert_eq!(puts.count(), 5);
}

#[test]
fn docker_registry_without_the_api_keeps_the_list() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, _) = images();
    let server = DockerRegistry::start("", "", &[]);
    let (client, cancel) = (registry(Settings::default()), Cancel::new());
    client
        .push(
            &server.reference("app:1"),
            &image.documents(),
            &Blobs::of(&[&image]),
            &|_| {},
            &cancel,
        )
        .unwrap();
    for content in [b"one", b"two"] {
        let (documents, source) = artifact(&image, SBOM, content);
        let name = server.reference(&format!("app@{}", documents.root.digest));
        client
            .push(&name, &documents, &source, &|_| {}, &cancel)
            .unwrap();
    }
    let found = client
        .referrers(
            &server.reference("app"),
            image.digest(),
            Some(SBOM),
            &cancel,
        )
        .unwrap();
    assert_eq!(found.len(), 2);
}
