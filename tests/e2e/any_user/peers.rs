//! Other tools read what kiln writes.

use std::fs;
use std::process::Command;

use crate::events::Build;
use crate::fixtures::busybox_project;
use crate::space::host;

const STEPS: &str = r#"
[image.app.step.tree]
run = "mkdir /tree; echo text > /tree/file; ln /tree/file /tree/hard; ln -s file /tree/soft; rm /etc/group"
[image.app.config]
entrypoint = ["/bin/cat"]
cmd        = ["/tree/file"]
env        = { A = "1" }
labels     = { "org.example" = "yes" }
"#;

#[test]
fn skopeo_reads_a_saved_archive() {
    let space = busybox_project(STEPS);
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    let inspected = host(
        Command::new("skopeo")
            .args(["inspect", "--config", "oci-archive:out.tar"])
            .env("HOME", space.path())
            .current_dir(space.project()),
    );
    let config: serde_json::Value = serde_json::from_str(&inspected).expect("a config");
    assert_eq!(config["config"]["Entrypoint"][0], "/bin/cat");
    assert_eq!(config["config"]["Labels"]["org.example"], "yes");
    assert_eq!(
        config["rootfs"]["diff_ids"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn umoci_unpacks_the_same_tree() {
    let space = busybox_project(STEPS);
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    let project = space.project();
    fs::create_dir(project.join("layout")).expect("a folder");
    host(
        Command::new("tar")
            .args(["-xf", "out.tar", "-C", "layout"])
            .current_dir(&project),
    );
    let index = fs::read_to_string(project.join("layout/index.json")).expect("an index");
    let index: serde_json::Value = serde_json::from_str(&index).expect("an index");
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .expect("a name")
        .to_owned();
    host(
        Command::new("umoci")
            .args([
                "unpack",
                "--rootless",
                "--image",
                &format!("layout:{tag}"),
                "bundle",
            ])
            .current_dir(&project),
    );
    let rootfs = project.join("bundle/rootfs");
    assert_eq!(
        fs::read_to_string(rootfs.join("tree/hard")).expect("a file"),
        "text\n"
    );
    assert_eq!(
        fs::read_link(rootfs.join("tree/soft"))
            .expect("a link")
            .to_string_lossy(),
        "file"
    );
    assert!(!rootfs.join("etc/group").exists());
    host(
        Command::new("chmod")
            .args(["-R", "u+rwX"])
            .arg(project.join("bundle")),
    );
}

#[test]
fn an_image_that_left_and_came_back_is_the_same() {
    let space = busybox_project(STEPS);
    let digest = Build::ok(&space, &[]).digest();
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    let saved = space.kiln_ok(["inspect", "app"]);
    space.kiln_ok(["rmi", "app"]);
    space.kiln_ok(["gc"]);
    space.kiln_ok(["load", "out.tar"]);
    let loaded = space.kiln_ok(["inspect", "app"]);
    let id = |text: &str| {
        let value: serde_json::Value = serde_json::from_str(text).expect("JSON");
        value["id"].clone()
    };
    assert_eq!(id(&saved.stdout), id(&loaded.stdout), "{digest}");
}
