//! Archives and layouts that are broken, or written to do harm.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use kiln_oci::{
    Compression, Descriptor, DiffId, Digest, ImageConfig, ImageIndex, ImageManifest, MediaType,
    Platform,
};

use crate::testing::{TestStore, settings};
use crate::{Archive, ImageError};

/// A layout folder that can be spoilt.
struct Layout {
    root: PathBuf,
    layer: Vec<u8>,
}

impl Layout {
    fn new(root: PathBuf) -> Self {
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layer = layer_tar(&[("etc/motd", b"hi")]);
        let layout = Self { root, layer };
        layout.write(&layout.layer, layout.layer.len() as u64, |_| {});
        layout
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.root.join("blobs/sha256").join(Digest::of(bytes).hex())
    }

    fn put(&self, media_type: MediaType, bytes: &[u8]) -> Descriptor {
        fs::write(self.blob(bytes), bytes).unwrap();
        Descriptor::of(media_type, bytes)
    }

    /// Writes an image of one layer, with a changed config or size.
    fn write(&self, layer: &[u8], size_bytes: u64, change: impl Fn(&mut ImageConfig)) {
        let mut blob = self.put(MediaType::OciLayer(Compression::None), layer);
        blob.size_bytes = size_bytes;
        let mut config = ImageConfig::new(platform(), vec![DiffId(Digest::of(layer))]);
        change(&mut config);
        let config = self.put(MediaType::OciConfig, &config.to_bytes());
        let manifest = ImageManifest::new(config, vec![blob]);
        let manifest = self.put(MediaType::OciManifest, &manifest.to_bytes());
        self.write_index(manifest);
    }

    fn write_index(&self, entry: Descriptor) {
        let index = ImageIndex::new(vec![entry]);
        fs::write(self.root.join("index.json"), index.to_bytes()).unwrap();
    }

    fn load(&self, test: &TestStore) -> Result<(), ImageError> {
        load(test, &self.root)
    }
}

fn platform() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn load(test: &TestStore, path: &Path) -> Result<(), ImageError> {
    let archive = Archive::open(&test.session, path)?;
    for image in archive.images() {
        archive.import(&test.session, image, &platform(), &settings())?;
    }
    Ok(())
}

fn layer_tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn a_good_layout_loads() {
    let test = TestStore::new();
    Layout::new(test.path("layout")).load(&test).unwrap();
}

#[test]
fn whatever_is_wrong_is_told_and_no_layer_stays() {
    type Spoil = fn(&Layout);
    let cases: &[(&str, Spoil, &str)] = &[
        (
            "another digest",
            |it| fs::write(it.blob(&it.layer), vec![1; it.layer.len()]).unwrap(),
            "digest is",
        ),
        (
            "cut short",
            |it| fs::write(it.blob(&it.layer), &it.layer[..700]).unwrap(),
            "700 bytes where",
        ),
        (
            "a size too small",
            |it| it.write(&it.layer, 100, |_| {}),
            "more than the expected 100",
        ),
        (
            "a size without end",
            |it| it.write(&it.layer, u64::MAX, |_| {}),
            "bytes where",
        ),
        (
            "no blob",
            |it| fs::remove_file(it.blob(&it.layer)).unwrap(),
            "has no blob",
        ),
        (
            "another diff id",
            |it| {
                it.write(&it.layer, it.layer.len() as u64, |config| {
                    config.rootfs.diff_ids[0] = DiffId(Digest::of(b"other"));
                });
            },
            "the image's config says",
        ),
        (
            "no diff id",
            |it| {
                it.write(&it.layer, it.layer.len() as u64, |config| {
                    config.rootfs.diff_ids.clear();
                });
            },
            "has 1 layers, but its config has 0",
        ),
        (
            "a way out",
            |it| {
                let layer = layer_tar(&[("../../escaped", b"x")]);
                it.write(&layer, layer.len() as u64, |_| {});
            },
            "refused",
        ),
        (
            "not a tar",
            |it| it.write(b"not a tar at all", 16, |_| {}),
            "cannot be unpacked",
        ),
        (
            "a manifest without end",
            |it| {
                let mut entry = it.put(MediaType::OciManifest, b"{}");
                entry.size_bytes = u64::MAX;
                it.write_index(entry);
            },
            "more than the",
        ),
        (
            "an artifact",
            |it| {
                let entry = it.put(MediaType::Other("text/plain".to_owned()), b"{}");
                it.write_index(entry);
            },
            "not an image",
        ),
        (
            "indexes in indexes",
            |it| {
                let mut entry = it.put(MediaType::OciManifest, b"{}");
                for _ in 0..5 {
                    let index = ImageIndex::new(vec![entry]);
                    entry = it.put(MediaType::OciIndex, &index.to_bytes());
                }
                it.write_index(entry);
            },
            "index in an index",
        ),
        (
            "another machine",
            |it| {
                let entry = it.put(MediaType::OciManifest, b"{}");
                let entry = entry.with_platform(Platform::new("linux", "s390x", None));
                let index = ImageIndex::new(vec![entry]);
                let entry = it.put(MediaType::OciIndex, &index.to_bytes());
                it.write_index(entry);
            },
            "it has `linux/s390x`",
        ),
        (
            "a blob that is a link",
            |it| {
                let blob = it.blob(&it.layer);
                fs::rename(&blob, it.root.join("elsewhere")).unwrap();
                std::os::unix::fs::symlink(it.root.join("elsewhere"), blob).unwrap();
            },
            "cannot read",
        ),
        (
            "a blob that is a pipe",
            |it| {
                let blob = it.blob(&it.layer);
                fs::remove_file(&blob).unwrap();
                let mode = rustix::fs::Mode::RWXU;
                rustix::fs::mknodat(rustix::fs::CWD, blob, rustix::fs::FileType::Fifo, mode, 0)
                    .unwrap();
            },
            "cannot read",
        ),
        (
            "an unknown version",
            |it| {
                fs::write(it.root.join("oci-layout"), r#"{"imageLayoutVersion":"9"}"#).unwrap();
            },
            "layout version `9`",
        ),
        (
            "no index",
            |it| fs::remove_file(it.root.join("index.json")).unwrap(),
            "has no file `index.json`",
        ),
        (
            "an index that is no JSON",
            |it| fs::write(it.root.join("index.json"), "{").unwrap(),
            "cannot be read",
        ),
    ];
    for (name, spoil, why) in cases {
        let test = TestStore::new();
        let layout = Layout::new(test.path("layout"));
        spoil(&layout);
        let error = layout.load(&test).expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!(test.store.layers().list().unwrap(), [], "{name}");
        assert!(!test.path("escaped").exists());
    }
}

#[test]
fn spoilt_archives_are_told() {
    let good = {
        let test = TestStore::new();
        let mut out = Vec::new();
        let images = [test.saved(Vec::new())];
        crate::save(&test.session, &images, Compression::Gzip, &mut out).unwrap();
        out
    };
    let test = TestStore::new();
    let check = |name: &str, bytes: &[u8], why: &str| {
        let path = test.path("spoilt.tar");
        fs::write(&path, bytes).unwrap();
        let error = load(&test, &path).expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        assert_eq!(test.store.layers().list().unwrap(), [], "{name}");
    };
    check("empty", b"", "neither `index.json` nor");
    check("text", &b"hello".repeat(400), "not a tar");
    let mut spoilt = layer_tar(&[("index.json", b"{")]);
    spoilt[1024..1536].fill(b'x');
    check(
        "damaged in the middle",
        &spoilt,
        "damaged behind `index.json`",
    );
    check("cut in a blob", &good[..1700], "ends inside `blobs/sha256/");
    let cut = layer_tar(&[("index.json", &[b' '; 600])]);
    check("cut in a file", &cut[..700], "ends inside `index.json`");
    check("without its index", &layer_tar(&[("a", b"b")]), "neither");
    check(
        "twice the same",
        &layer_tar(&[("index.json", b"{"), ("index.json", b"{")]),
        "twice",
    );
    let docker = layer_tar(&[(
        "manifest.json",
        br#"[{"Config":"../../etc/passwd","Layers":["x"]}]"#,
    )]);
    check("a path as a name", &docker, "no file in the archive");
    let bomb = {
        let mut encoder = kiln_layer::Encoder::new(Compression::Zstd, Vec::new());
        for _ in 0..200 {
            encoder.write_all(&vec![0; 1 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    check("a bomb", &bomb, "bomb");
    assert!(
        File::open(test.path("spoilt.tar")).is_ok(),
        "what was to be loaded stays"
    );
}
