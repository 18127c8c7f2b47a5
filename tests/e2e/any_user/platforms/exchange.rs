//! Indexes that leave the store: to registries, into archives, with what is said of their images.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{AMD64, ARM64, MANIFEST, digest_line, entries, inspect, json, raw, skopeo};
use crate::fixtures::Registry;
use crate::space::{TestSpace, host};

#[test]
fn an_index_goes_to_a_registry_and_comes_back() {
    let space = TestSpace::with_manifest(MANIFEST);
    let registry = Registry::start(&space);
    let name = format!("{}/team/app:1", registry.host());
    space.kiln_ok(["build"]);
    let pushed = space.kiln_ok(["push", "app", &name]);
    let index = raw(&space, &name);
    assert_eq!(
        index["mediaType"],
        "application/vnd.oci.image.index.v1+json"
    );
    let listed = entries(&index);
    assert_eq!(listed.len(), 2);
    assert!(index.get("annotations").is_none());
    assert_eq!(index["manifests"][0]["annotations"], Value::Null);
    let seen = json(&skopeo(
        &space,
        &["inspect", "--tls-verify=false", &format!("docker://{name}")],
    ));
    assert_eq!(seen["Digest"], digest_line(&pushed.stdout));
    // Nothing is sent twice.
    let again = space.kiln_ok(["push", "app", &name]);
    assert_eq!(
        (again.stdout, again.stderr),
        (pushed.stdout.clone(), String::new())
    );

    // skopeo copies all of it, and so does kiln.
    let host_name = registry.host();
    for (tool, copy) in [("skopeo", "team/skopeo"), ("kiln", "team/kiln")] {
        let to = format!("{host_name}/{copy}:1");
        if tool == "skopeo" {
            let options = [
                "--insecure-policy",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ];
            let (from, to) = (format!("docker://{name}"), format!("docker://{to}"));
            let arguments = ["copy", "--all", "--quiet"].iter().chain(&options).copied();
            let arguments: Vec<&str> = arguments.chain([&*from, &*to]).collect();
            skopeo(&space, &arguments);
        } else {
            space.kiln_ok(["copy", &name, &to]);
        }
        assert_eq!(raw(&space, &to), index, "{tool}");
    }

    // One platform, and all of them.
    let other = TestSpace::new();
    let pulled = other.kiln_ok(["pull", "--platform", ARM64, &name]);
    assert_eq!(digest_line(&pulled.stdout), listed[1].1);
    let pulled = other.kiln_ok(["pull", "--platform", "all", &name]);
    assert_eq!(digest_line(&pulled.stdout), digest_line(&pushed.stdout));
    other.kiln_ok(["gc"]);
    let moved = format!("{host_name}/other/app:1");
    other.kiln_ok(["tag", &name, &moved]);
    let sent = other.kiln_ok(["push", &moved]);
    assert_eq!(digest_line(&sent.stdout), digest_line(&pushed.stdout));
    assert_eq!(raw(&other, &moved), index);
    let one = format!("{host_name}/one/app:1");
    let sent = other.kiln_ok(["push", "--platform", ARM64, &name, &one]);
    assert_eq!(digest_line(&sent.stdout), listed[1].1);
}

#[test]
fn an_index_is_saved_whole_and_loaded_whole() {
    let space = TestSpace::with_manifest(MANIFEST);
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    space.kiln_ok(["save", "--form", "layout", "-o", "layout", "app"]);
    for place in ["oci-archive:out.tar", "oci:layout"] {
        let index = json(&skopeo(&space, &["inspect", "--raw", place]));
        let platforms: Vec<String> = entries(&index).into_iter().map(|(it, _)| it).collect();
        assert_eq!(platforms, [AMD64, ARM64], "{place}");
    }
    // Docker's list knows no platforms: the one of this machine is in it.
    host(
        Command::new("tar")
            .args(["-xf", "out.tar", "manifest.json"])
            .current_dir(space.project()),
    );
    let docker = fs::read_to_string(space.project().join("manifest.json")).expect("a list");
    let docker = json(&docker);
    assert_eq!(docker.as_array().map(Vec::len), Some(1));
    let host_image = inspect(&space, &["app"]);
    let config = format!(
        "blobs/sha256/{}",
        &host_image["id"].as_str().expect("an id")[7..]
    );
    assert_eq!(docker[0]["Config"], config);

    let archive = space.project().join("out.tar");
    let archive = archive.to_str().expect("a path");
    let other = TestSpace::new();
    other.kiln_ok(["load", archive]);
    let name = "localhost/t/app:latest";
    assert_eq!(entries(&inspect(&other, &[name])["index"]).len(), 2);
    other.kiln_ok(["save", "-o", "again.tar", name]);
    let again = fs::read(other.project().join("again.tar")).expect("an archive");
    assert_eq!(again, fs::read(archive).expect("an archive"));
    other.kiln_ok(["load", "--platform", ARM64, archive]);
    assert_eq!(inspect(&other, &[name])["config"]["architecture"], "arm64");

    // A root file system is for one platform.
    let tree = space.kiln(["save", "--form", "dir", "-o", "tree", "app"]);
    tree.assert_code(1)
        .assert_says("choose one: --platform linux/amd64");
    space.kiln_ok([
        "save",
        "--platform",
        ARM64,
        "--form",
        "dir",
        "-o",
        "tree",
        "app",
    ]);
    let arch = fs::read_to_string(space.project().join("tree/arch")).expect("a file");
    assert_eq!(arch, "arm64 aarch64 linux/arm64\n");
}

#[test]
fn each_platform_has_its_statements_and_the_index_its_signature() {
    let space = TestSpace::with_manifest(MANIFEST);
    let registry = Registry::start(&space);
    let name = format!("{}/team/app:1", registry.host());
    space.kiln_ok(["build"]);
    let sealed = |arguments: &[&str]| {
        let mut command = space.command();
        let run = space.run(command.args(arguments).env("COSIGN_PASSWORD", "secret"));
        run.assert_code(0);
        run
    };
    sealed(&["generate-key"]);
    let push = [
        "push",
        "--sbom",
        "spdx",
        "--provenance",
        "--sign",
        "kiln.key",
        "app",
        &name,
    ];
    let pushed = sealed(&push);
    assert_eq!(entries(&raw(&space, &name)).len(), 2);
    let referrers = |platform: Option<&str>| -> Vec<Value> {
        let mut arguments = vec!["referrers", "--format", "json"];
        arguments.extend(
            platform
                .iter()
                .flat_map(|platform| ["--platform", platform]),
        );
        arguments.push(&name);
        let listed = json(&space.kiln_ok(arguments).stdout);
        listed.as_array().expect("a list").clone()
    };
    assert_eq!(referrers(None).len(), 1);
    for platform in [AMD64, ARM64] {
        assert_eq!(referrers(Some(platform)).len(), 3, "{platform}");
    }
    let verify = [
        "verify-signature",
        "--key",
        "kiln.pub",
        "--statement",
        "spdx",
        "--statement",
        "provenance",
    ];
    let verified = space.kiln_ok(verify.iter().copied().chain([name.as_str()]));
    assert_eq!(verified.stdout, pushed.stdout);
    space.kiln_ok(
        verify
            .iter()
            .copied()
            .chain(["--platform", ARM64, name.as_str()]),
    );
    let part = format!("{name}@{}", entries(&raw(&space, &name))[1].1);
    space.kiln_ok(verify.iter().copied().chain([part.as_str()]));
    let none =
        space.kiln(
            verify
                .iter()
                .copied()
                .chain(["--platform", "linux/s390x", name.as_str()]),
        );
    none.assert_code(1).assert_says("no image for linux/s390x");
}
