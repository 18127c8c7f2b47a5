use std::collections::BTreeMap;

use super::*;
use crate::gc::GcPolicy;
use crate::session::{Pin, Session};
use crate::testing::TestStore;

fn place(test: &TestStore, session: &Session, name: &str, kept: &Kept) -> ContainerClaim {
    let draft = test.store.containers().draft(session).unwrap();
    draft.keep(kept).unwrap();
    draft.write("config.json", b"{}").unwrap();
    draft.place(&Name::new(name).unwrap()).unwrap()
}

#[test]
fn containers_are_found_by_name_and_by_the_beginning_of_their_id() {
    let test = TestStore::new();
    let session = test.session();
    let containers = test.store.containers();
    let one = place(&test, &session, "one", &Kept::default());
    let id = one.id().clone();
    for text in ["one", id.as_str(), id.short(), &id.as_str()[..1]] {
        assert_eq!(containers.find(text).unwrap(), id, "{text}");
    }
    for text in ["", "two", "..", "ONE", "zz"] {
        let error = containers.find(text).unwrap_err();
        assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    }
    // Of 17 ids at least two begin alike.
    let others: Vec<_> = (0..16)
        .map(|it| place(&test, &session, &format!("c{it}"), &Kept::default()))
        .collect();
    let twice = others.iter().map(ContainerClaim::id).chain([&id]);
    let firsts: Vec<&str> = twice.map(|id| &id.as_str()[..1]).collect();
    let shared = firsts
        .iter()
        .find(|it| firsts.iter().filter(|other| other == it).count() > 1)
        .unwrap();
    let error = containers.find(shared).unwrap_err();
    assert!(matches!(error, StoreError::Ambiguous { .. }), "{error}");
}

#[test]
fn names_are_unique_and_free_again_when_their_container_is_gone() {
    let test = TestStore::new();
    let session = test.session();
    let containers = test.store.containers();
    let name = |text: &str| Name::new(text).unwrap();
    let one = place(&test, &session, "web", &Kept::default());
    let draft = containers.draft(&session).unwrap();
    let error = draft.place(&name("web")).unwrap_err();
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    assert_eq!(containers.list().unwrap().len(), 1);
    containers.rename(one.id(), &name("db")).unwrap();
    assert_eq!(containers.named(&name("web")).unwrap(), None);
    assert_eq!(containers.names().unwrap()[one.id()], name("db"));
    let two = place(&test, &session, "web", &Kept::default());
    assert!(containers.rename(two.id(), &name("db")).is_err());
    // A kiln that died between the two steps leaves a name of nobody.
    discard(&test.store, &containers.folder(one.id())).unwrap();
    containers.rename(two.id(), &name("db")).unwrap();
    containers.remove(two).unwrap();
    assert_eq!(containers.names().unwrap().len(), 0);
}

#[test]
fn whoever_has_the_claim_is_alone_and_the_kernel_knows() {
    let test = TestStore::new();
    let session = test.session();
    let containers = test.store.containers();
    let claim = place(&test, &session, "one", &Kept::default());
    let id = claim.id().clone();
    assert!(containers.is_claimed(&id).unwrap());
    assert!(containers.claim(&id).unwrap().is_none());
    drop(claim);
    assert!(!containers.is_claimed(&id).unwrap());
    let claim = containers.claim(&id).unwrap().unwrap();
    containers.remove(claim).unwrap();
    assert!(!containers.is_claimed(&id).unwrap());
    let error = containers.claim(&id).unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

#[test]
fn gc_leaves_what_a_container_keeps_and_its_volumes_stay() {
    let test = TestStore::new();
    let digest = {
        let session = test.session();
        let blob = test
            .store
            .blobs()
            .put_document(&session, kiln_oci::MediaType::OciConfig, b"{}");
        let digest = blob.unwrap().digest;
        let volume = Name::new("data").unwrap();
        let volumes = test.store.volumes();
        drop(volumes.open(&session, &volume, &BTreeMap::new()).unwrap());
        let kept = Kept {
            pins: vec![Pin::Blob(digest)],
            volumes: vec![volume],
        };
        drop(place(&test, &session, "one", &kept));
        assert_eq!(
            test.store
                .containers()
                .kept(&test.store.containers().find("one").unwrap())
                .unwrap(),
            kept
        );
        session.finish().unwrap();
        digest
    };
    let everything = GcPolicy {
        unused_since: None,
        keep_bytes: None,
        dry_run: false,
    };
    let blob = test.store.at(&Pin::Blob(digest).path());
    test.store.gc(everything).unwrap();
    assert!(blob.exists());
    let volume = Name::new("data").unwrap();
    let error = test.store.volumes().remove(&volume).unwrap_err();
    assert!(matches!(error, StoreError::VolumeOf { .. }), "{error}");
    let containers = test.store.containers();
    let id = containers.find("one").unwrap();
    containers
        .remove(containers.claim(&id).unwrap().unwrap())
        .unwrap();
    test.store.gc(everything).unwrap();
    assert!(!blob.exists());
    test.store.volumes().remove(&volume).unwrap();
}
