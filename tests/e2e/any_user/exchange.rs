//! Archives and layouts go to other tools and come back from them, by the real programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::fixtures::busybox_project;
use crate::space::{TestSpace, host};

const STEPS: &str = r#"
[image.app.step.text]
run = "echo text > /file; ln -s file /soft"
[image.app.config]
cmd = ["cat", "/soft"]
"#;

/// A project `t` with the image `app` in `out.tar`.
fn saved() -> TestSpace {
    let space = busybox_project(STEPS);
    space.kiln_ok(["build", "--quiet"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    space
}

fn tool(space: &TestSpace, program: &str, arguments: &[&str]) -> String {
    host(
        Command::new(program)
            .args(arguments)
            .current_dir(space.project())
            .env("HOME", space.path())
            .env("TMPDIR", space.path().join("tmp")),
    )
}

/// Takes an archive or layout into a store of its own, and returns what its only image writes.
#[track_caller]
fn taken_back(place: &Path) -> String {
    let other = TestSpace::new();
    let loaded = other.kiln_ok(["load".as_ref(), place.as_os_str()]).stdout;
    other.kiln_ok(["run", "--rm", loaded.trim()]).stdout
}

#[test]
fn skopeo_copies_every_form_and_kiln_takes_every_one_back() {
    let space = saved();
    let name = "example.com/team/app:1";
    // kiln's archive is both: an OCI layout in a tar, and docker's archive.
    for from in ["oci-archive:out.tar", "docker-archive:out.tar"] {
        let kind = from.split(':').next().expect("a kind");
        for to in ["oci-archive", "docker-archive", "oci"] {
            let place = format!("{kind}-as-{to}");
            let copy = ["--insecure-policy", "copy", "--quiet", from];
            let to = format!("{to}:{place}:{name}");
            tool(&space, "skopeo", &[&copy[..], &[&to]].concat());
            let back = taken_back(&space.project().join(&place));
            assert_eq!(back, "text\n", "{place}");
        }
    }
    // The layout as a folder, and zstd where that is known.
    for compression in ["gzip", "zstd", "none"] {
        let layout = format!("layout-{compression}");
        let output = format!("type=layout,dest={layout},compression={compression}");
        space.kiln_ok(["build", "--quiet", "-o", &output]);
        let copy = ["--insecure-policy", "copy", "--quiet"];
        let (from, to) = (
            format!("oci:{layout}"),
            format!("oci-archive:{layout}.tar:{name}"),
        );
        tool(&space, "skopeo", &[&copy[..], &[&from, &to]].concat());
        let back = taken_back(&space.project().join(format!("{layout}.tar")));
        assert_eq!(back, "text\n", "{compression}");
    }
}

#[test]
fn umoci_changes_an_image_of_kiln_and_kiln_runs_it() {
    let space = saved();
    space.kiln_ok(["build", "--quiet", "-o", "type=layout,dest=layout"]);
    let index = fs::read_to_string(space.project().join("layout/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .expect("a name");
    let image = format!("layout:{name}");
    tool(
        &space,
        "umoci",
        &["unpack", "--rootless", "--image", &image, "bundle"],
    );
    let root = space.project().join("bundle/rootfs");
    assert_eq!(
        fs::read_to_string(root.join("soft")).expect("text"),
        "text\n"
    );
    fs::write(root.join("file"), "changed\n").expect("a file of mine");
    tool(&space, "umoci", &["repack", "--image", &image, "bundle"]);
    tool(&space, "chmod", &["-R", "u+rwX", "bundle"]);
    assert_eq!(taken_back(&space.project().join("layout")), "changed\n");

    // From nothing, without a part of kiln's.
    let (new, all) = ("made:mine", ["--image", "made:mine"]);
    tool(&space, "umoci", &["init", "--layout", "made"]);
    tool(&space, "umoci", &["new", "--image", new]);
    tool(
        &space,
        "umoci",
        &["unpack", "--rootless", "--image", new, "empty"],
    );
    let root = space.project().join("empty/rootfs");
    fs::create_dir_all(root.join("bin")).expect("a folder");
    fs::copy("/bin/busybox", root.join("bin/cat"))
        .expect("busybox (`cargo xtask test` installs it)");
    fs::write(root.join("file"), "umoci's\n").expect("a file");
    tool(&space, "umoci", &["repack", "--image", new, "empty"]);
    let command = ["--config.cmd", "/bin/cat", "--config.cmd", "/file"];
    tool(&space, "umoci", &[&["config"], &all[..], &command].concat());
    assert_eq!(taken_back(&space.project().join("made")), "umoci's\n");
}

#[test]
fn what_is_wrong_with_standard_input_is_said_of_it() {
    let space = TestSpace::new();
    let compressed = space.path().join("archive.bz2");
    fs::write(&compressed, b"BZh91AY&SY not what it seems").expect("a file");
    let words = space.path().join("words");
    fs::write(&words, "words").expect("a file");
    for path in [compressed, words] {
        let input = fs::File::open(path).expect("there");
        space
            .run(space.command().arg("load").stdin(input))
            .assert_says("`standard input`")
            .assert_says("not a tar");
    }
}

#[test]
fn an_image_without_a_name_is_called_by_its_digest_until_it_has_one() {
    let space = saved();
    let copy = [
        "--insecure-policy",
        "copy",
        "--quiet",
        "docker-archive:out.tar",
        "oci:bare",
    ];
    tool(&space, "skopeo", &copy);
    let other = TestSpace::new();
    let bare = space.project().join("bare");
    // `-i` is what docker's users type.
    let loaded = other.kiln_ok(["load".as_ref(), "-i".as_ref(), bare.as_os_str()]);
    loaded.assert_says("has no name");
    let digest = loaded.stdout.trim();
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(other.kiln_ok(["run", "--rm", digest]).stdout, "text\n");
    other.kiln_ok(["tag", digest, "localhost/named"]);
    assert_eq!(other.kiln_ok(["run", "--rm", "named"]).stdout, "text\n");
    // What has the form of an id is not looked for in a registry.
    let unknown = format!("sha256:{}", "0".repeat(64));
    other
        .kiln(["run", "--rm", &unknown])
        .assert_code(125)
        .assert_says("there is no image")
        .assert_says("in the store");
}
