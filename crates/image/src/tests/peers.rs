//! Other tools read what kiln writes, and the other way round.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use kiln_oci::{Compression, MediaType, Platform};

use crate::testing::{TestStore, settings, tree};
use crate::{Archive, Depth, Image, save, validate};

/// Says whether a tool is there; a test that needs it prints why it does nothing otherwise.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        println!("SKIP: `{tool}` is not installed");
    }
    found
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn skopeo(arguments: &[&str]) -> String {
    run(Command::new("skopeo")
        .arg("--insecure-policy")
        .args(arguments))
}

fn platform() -> Platform {
    Platform::new("linux", "amd64", None)
}

/// Saves the test image and returns where.
fn saved(test: &TestStore, compression: Compression) -> String {
    let path = test.path("kiln.tar");
    let mut out = File::create(&path).unwrap();
    let name = "localhost/notes/app:latest".parse().unwrap();
    save(
        &test.session,
        &[test.saved(vec![name])],
        compression,
        &mut out,
    )
    .unwrap();
    path.display().to_string()
}

/// Loads what another tool wrote into a fresh store and checks all of it.
fn load(path: &Path) -> (TestStore, Vec<Image>) {
    let test = TestStore::new();
    let archive = Archive::open(&test.session, path).unwrap();
    let images = archive.images().iter();
    let images: Vec<_> = images
        .map(|image| {
            archive
                .import(&test.session, image, &platform(), &settings())
                .unwrap()
        })
        .collect();
    for image in &images {
        let problems =
            validate(&test.store, &image.descriptor, &platform(), Depth::Contents).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
    }
    (test, images)
}

#[test]
fn skopeo_reads_every_form_and_writes_every_form_back() {
    if !has("skopeo") {
        return;
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let test = TestStore::new();
        let path = saved(&test, compression);
        let inspected = skopeo(&["inspect", "--config", &format!("oci-archive:{path}")]);
        assert!(inspected.contains("/usr/bin/notes"), "{inspected}");
        for (kind, file) in [("oci-archive", "a.tar"), ("docker-archive", "b.tar")] {
            if kind == "docker-archive" && compression == Compression::Zstd {
                continue; // Docker's format has no such layers.
            }
            let to = test.path(file).display().to_string();
            let from = format!("oci-archive:{path}");
            skopeo(&["copy", &from, &format!("{kind}:{to}:localhost/again:v1")]);
            let (_there, images) = load(Path::new(&to));
            assert_eq!(images.len(), 1, "{kind}");
            assert_eq!(images[0].diff_ids(), test.image().diff_ids(), "{kind}");
        }
        // The Docker half of the same file.
        let to = format!("oci:{}:again", test.path("layout").display());
        skopeo(&["copy", &format!("docker-archive:{path}"), &to]);
        let (_there, images) = load(&test.path("layout"));
        assert_eq!(images[0].diff_ids(), test.image().diff_ids());
    }
}

#[test]
fn skopeos_zstd_and_docker_types_are_read() {
    if !has("skopeo") {
        return;
    }
    let test = TestStore::new();
    let from = format!("oci-archive:{}", saved(&test, Compression::None));
    let zstd = test.path("zstd");
    let to = format!("oci:{}:x", zstd.display());
    skopeo(&["copy", "--dest-compress-format", "zstd", &from, &to]);
    let (_there, images) = load(&zstd);
    let layer = &images[0].manifest.layers[0].media_type;
    assert_eq!(layer, &MediaType::OciLayer(Compression::Zstd));
    assert_eq!(images[0].diff_ids(), test.image().diff_ids());
}

#[test]
fn umoci_unpacks_what_kiln_wrote_and_kiln_what_umoci_wrote() {
    if !has("umoci") || !has("skopeo") {
        return;
    }
    let test = TestStore::new();
    let from = format!("oci-archive:{}", saved(&test, Compression::Gzip));
    let layout = test.path("layout");
    skopeo(&["copy", &from, &format!("oci:{}:x", layout.display())]);
    let bundle = test.path("bundle");
    let image = format!("{}:x", layout.display());
    let umoci = |arguments: &[&str]| run(Command::new("umoci").args(arguments));
    umoci(&[
        "unpack",
        "--rootless",
        "--image",
        &image,
        &bundle.display().to_string(),
    ]);
    let root = bundle.join("rootfs");
    assert_eq!(
        std::fs::read(root.join("etc/motd")).unwrap(),
        b"hello again\n"
    );
    assert_eq!(
        std::fs::read(root.join("srv/index.html")).unwrap(),
        b"<p>\n"
    );

    // umoci adds a layer that removes a file and changes another.
    std::fs::remove_file(root.join("srv/index.html")).unwrap();
    std::fs::write(root.join("etc/added"), "by umoci").unwrap();
    umoci(&["repack", "--image", &image, &bundle.display().to_string()]);
    umoci(&[
        "config",
        "--image",
        &image,
        "--config.user",
        "app",
        "--no-history",
    ]);
    let (there, images) = load(&layout);
    assert_eq!(images[0].diff_ids().len(), 3);
    assert_eq!(images[0].config.config.user.as_deref(), Some("app"));
    let top = there.store.layers().path(&images[0].diff_ids()[2]);
    assert_eq!(std::fs::read(top.join("etc/added")).unwrap(), b"by umoci");
    let whiteout = std::fs::symlink_metadata(top.join("srv/index.html")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &whiteout.file_type()
    ));
}

#[test]
fn podman_loads_and_saves() {
    if !has("podman") {
        return;
    }
    let test = TestStore::new();
    let path = saved(&test, Compression::Gzip);
    let root = test.path("podman");
    let podman = |arguments: &[&str]| {
        run(Command::new("podman")
            .args(["--storage-driver", "vfs", "--root"])
            .arg(root.join("root"))
            .arg("--runroot")
            // podman takes no more than 50 characters here.
            .arg(test.path("r"))
            .args(arguments))
    };
    let policy = test.path("policy.json");
    std::fs::write(
        &policy,
        r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
    )
    .unwrap();
    let policy = policy.display().to_string();
    podman(&["load", "--signature-policy", &policy, "-i", &path]);
    let name = "localhost/notes/app:latest";
    let id = podman(&["image", "inspect", "--format", "{{.Id}}", name]);
    assert_eq!(id.trim(), test.image().id().0.hex());
    for format in ["oci-archive", "docker-archive"] {
        let to = test.path(format);
        podman(&[
            "save",
            "--signature-policy",
            &policy,
            "--format",
            format,
            "-o",
            &to.display().to_string(),
            name,
        ]);
        let archive = Archive::open(&test.session, &to).unwrap();
        let names = &archive.images()[0].references;
        assert_eq!(names, &[name.parse().unwrap()], "{format}");
        let (there, images) = load(&to);
        assert_eq!(images[0].diff_ids(), test.image().diff_ids());
        let diff_id = images[0].diff_ids()[1];
        let fs = |test: &TestStore| tree(&test.store.layers().path(&diff_id));
        assert_eq!(fs(&there), fs(&test));
    }
    podman(&["rmi", name]);
}
