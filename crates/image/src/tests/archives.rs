//! What is saved can be loaded, and has always the same bytes.

use std::fs::File;

use kiln_oci::{Compression, Digest, MediaType, Platform, Reference};

use crate::testing::{TestStore, settings, tree};
use crate::{Archive, Depth, Image, export, history, inspect, list, save, validate};

fn platform() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn name() -> Reference {
    "localhost/notes/app:latest".parse().unwrap()
}

fn saved(test: &TestStore, compression: Compression) -> std::path::PathBuf {
    let path = test.path("out.tar");
    let mut out = File::create(&path).unwrap();
    let images = [test.saved(vec![name()])];
    save(&test.session, &images, compression, &mut out).unwrap();
    path
}

fn assert_whole(test: &TestStore, image: &Image) {
    let problems = validate(&test.store, &image.descriptor, &platform(), Depth::Contents).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn a_saved_image_loads_elsewhere_as_the_same() {
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let (here, there) = (TestStore::new(), TestStore::new());
        let path = saved(&here, compression);
        let archive = Archive::open(&there.session, &path).unwrap();
        let [found] = archive.images() else {
            panic!("{:?}", archive.images())
        };
        assert_eq!(found.references, [name()]);
        let loaded = archive
            .import(&there.session, found, &platform(), &settings())
            .unwrap();
        let original = here.image();
        assert_eq!(loaded.id(), original.id());
        assert_eq!(archive.image_id(found, &platform()).unwrap(), original.id());
        assert_eq!(loaded.diff_ids(), original.diff_ids());
        assert_whole(&here, &original);
        assert_whole(&there, &loaded);
        for diff_id in original.diff_ids() {
            let fs = |test: &TestStore| tree(&test.store.layers().path(diff_id));
            assert_eq!(fs(&here), fs(&there));
        }
        // It leaves again with the digest it came with.
        let again = export(&there.session, &loaded, Compression::Gzip).unwrap();
        assert_eq!(again.descriptor, loaded.descriptor);
    }
}

#[test]
fn layers_saved_as_they_are_do_not_stand_in_for_compressed_ones() {
    let test = TestStore::new();
    let compressed = |compression| {
        let exported = export(&test.session, &test.image(), compression).unwrap();
        exported.descriptor
    };
    let before = [Compression::Gzip, Compression::Zstd].map(compressed);
    saved(&test, Compression::None);
    assert_eq!(
        [Compression::Gzip, Compression::Zstd].map(compressed),
        before
    );
}

#[test]
fn the_same_image_is_saved_as_the_same_bytes() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: files of other users than root are other bytes");
        return;
    }
    let digest = |compression| {
        let test = TestStore::new();
        let path = saved(&test, compression);
        let first = std::fs::read(&path).unwrap();
        saved(&test, compression);
        assert_eq!(first, std::fs::read(&path).unwrap(), "the second time");
        Digest::of(&first).to_string()
    };
    assert_eq!(
        digest(Compression::None),
        "sha256:4fb759392714c2af04c74da2f12d38868b559efae77b8c521bcdc1f2f9de648f"
    );
    assert_eq!(
        digest(Compression::Gzip),
        "sha256:01e13f644e9cb4f5d69ef3231ae140a14626674c255fe6f5c3376bc794c4aaab"
    );
    assert_eq!(digest(Compression::Gzip), digest(Compression::Gzip));
}

#[test]
fn compressed_archives_and_links_in_dockers_are_read() {
    let test = TestStore::new();
    let plain = std::fs::read(saved(&test, Compression::None)).unwrap();
    let packed = test.path("packed.tar.gz");
    let mut encoder = kiln_layer::Encoder::new(Compression::Gzip, Vec::new());
    std::io::Write::write_all(&mut encoder, &plain).unwrap();
    std::fs::write(&packed, encoder.finish().unwrap()).unwrap();
    let archive = Archive::open(&test.session, &packed).unwrap();
    assert_eq!(archive.images().len(), 1);

    // As Docker wrote it before it knew the image specification: equal layers are links.
    let image = test.image();
    let layer = image.diff_ids()[0];
    let mut config = image.config.clone();
    config.rootfs.diff_ids = vec![layer, layer];
    let mut bytes = Vec::new();
    crate::write_layer_tar(&test.store, &layer, &mut bytes).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content).unwrap();
    };
    add("aa/layer.tar", &bytes);
    add("cc.json", &config.to_bytes());
    let manifest =
        r#"[{"Config":"cc.json","RepoTags":["app:v1"],"Layers":["aa/layer.tar","bb/layer.tar"]}]"#;
    add("manifest.json", manifest.as_bytes());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "bb/layer.tar", "../aa/layer.tar")
        .unwrap();
    let path = test.path("docker.tar");
    std::fs::write(&path, tar.into_inner().unwrap()).unwrap();
    let there = TestStore::new();
    let archive = Archive::open(&there.session, &path).unwrap();
    let found = &archive.images()[0];
    assert_eq!(found.references[0].to_string(), "docker.io/library/app:v1");
    let loaded = archive
        .import(&there.session, found, &platform(), &settings())
        .unwrap();
    assert_eq!(loaded.diff_ids(), [layer, layer]);
    assert_whole(&there, &loaded);
}

#[test]
fn layers_are_compressed_once() {
    let test = TestStore::new();
    let image = test.image();
    let first = export(&test.session, &image, Compression::Gzip).unwrap();
    assert!(
        first
            .manifest
            .layers
            .iter()
            .all(|layer| layer.media_type == MediaType::OciLayer(Compression::Gzip))
    );
    let diff_id = image.diff_ids()[0];
    // If it were made again, it would be noticed.
    let file = test.store.layers().path(&diff_id).join("etc/motd");
    std::fs::write(file, "HELLO\n").unwrap();
    let second = export(&test.session, &image, Compression::Gzip).unwrap();
    assert_eq!(first, second);
    let error = export(&test.session, &image, Compression::Zstd).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let problems = validate(&test.store, &image.descriptor, &platform(), Depth::Contents).unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problems = validate(
        &test.store,
        &image.descriptor,
        &platform(),
        Depth::Documents,
    )
    .unwrap();
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn listings_tell_names_sizes_and_history() {
    let test = TestStore::new();
    let image = test.image();
    let names = [(name(), image.descriptor.clone())].into();
    test.store.references().set(&test.session, &names).unwrap();
    let (images, broken) = list(&test.store, &platform()).unwrap();
    assert!(broken.is_empty());
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].id, image.id());
    assert_eq!(images[0].layers, 2);
    assert!(images[0].size_bytes > 2048);
    let lines = history(&test.store, &image).unwrap();
    let steps: Vec<_> = lines
        .iter()
        .map(|line| line.created_by.as_deref())
        .collect();
    assert_eq!(steps, [Some("app.two"), Some("app.one")]);
    assert_eq!(lines[0].layer, Some(image.diff_ids()[1]));
    assert_eq!(
        inspect(&test.store, &image.descriptor, &image)
            .unwrap()
            .references,
        [name()]
    );
    // A name whose image is damaged is told apart from those that can be listed.
    std::fs::remove_file(test.store.blobs().path(&image.descriptor.digest)).unwrap();
    let (images, broken) = list(&test.store, &platform()).unwrap();
    assert!(images.is_empty());
    assert_eq!(broken[0].reference, name());
}
