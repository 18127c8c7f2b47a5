//! Pulling from a registry that works, and from one that does not.

mod at_once;
pub(crate) mod other_hosts;
mod refusals;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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
