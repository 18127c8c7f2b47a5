//! Images for several platforms, where no program of another one runs.

mod bases;
mod exchange;

use std::process::Command;

use serde_json::Value;

use crate::events::Build;
use crate::fixtures::Registry;
use crate::space::{TestSpace, host};

const AMD64: &str = "linux/amd64";
const ARM64: &str = "linux/arm64";

const MANIFEST: &str = r#"
schema = 1
[project]
name = "t"
default = "app"
[image.app]
from = { image = "base" }
platforms = ["linux/arm64", "linux/amd64"]
[image.app.step.arch]
write = { "/arch" = "${target.arch} ${target.machine} ${target.platform}${target.variant}\n" }
[image.app.step.same]
needs = ["arch"]
copy  = [{ from = "data", path = "/data", to = "/data" }]
[image.app.config]
cmd    = ["/none"]
labels = { platform = "${target.platform}" }
[image.base]
from = "scratch"
[image.base.step.folder]
mkdir = [{ path = "/srv" }]
[image.data]
from = "scratch"
platforms = ["host"]
[image.data.step.write]
write = { "/data" = "data\n" }
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn inspect(space: &TestSpace, arguments: &[&str]) -> Value {
    let arguments = ["inspect"].iter().chain(arguments);
    json(&space.kiln_ok(arguments).stdout)
}

/// What an index lists: platforms and digests.
fn entries(index: &Value) -> Vec<(String, String)> {
    let entries = index["manifests"].as_array().expect("an index");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    entries
        .iter()
        .map(|entry| {
            let platform = &entry["platform"];
            let platform = format!(
                "{}/{}",
                text(&platform["os"]),
                text(&platform["architecture"])
            );
            (platform, text(&entry["digest"]))
        })
        .collect()
}

fn skopeo(space: &TestSpace, arguments: &[&str]) -> String {
    host(
        Command::new("skopeo")
            .args(arguments)
            .env("HOME", space.path())
            .env("TMPDIR", space.path().join("tmp"))
            .current_dir(space.project()),
    )
}

fn raw(space: &TestSpace, name: &str) -> Value {
    let name = format!("docker://{name}");
    json(&skopeo(
        space,
        &["inspect", "--raw", "--tls-verify=false", &name],
    ))
}

fn digest_line(stdout: &str) -> String {
    let (_, digest) = stdout.trim_end().rsplit_once('@').expect("a digest");
    digest.to_owned()
}

#[test]
fn an_image_for_two_platforms_is_an_index_of_what_each_is_alone() {
    let space = TestSpace::with_manifest(MANIFEST);
    let both = Build::ok(&space, &[]);
    assert_eq!(
        both.ran(),
        [
            "app.arch@linux/amd64",
            "app.arch@linux/arm64",
            "app.same@linux/amd64",
            "app.same@linux/arm64",
            "base.folder@linux/amd64",
            "base.folder@linux/arm64",
            // For the host, and so once.
            "data.write@linux/amd64",
        ]
    );
    let index = both.digest_of("app");
    let of_kind = both.of_kind("image").find(|event| event["image"] == "app");
    assert_eq!(
        of_kind.expect("the image")["platforms"],
        serde_json::json!([AMD64, ARM64])
    );
    let inspected = inspect(&space, &["app"]);
    let entries = entries(&inspected["index"]);
    let platforms: Vec<&str> = entries
        .iter()
        .map(|(platform, _)| platform.as_str())
        .collect();
    assert_eq!(platforms, [AMD64, ARM64]);
    for (platform, digest) in &entries {
        let image = inspect(&space, &["--platform", platform, "app"]);
        assert_eq!(image["digest"], digest.as_str());
        let (_, architecture) = platform.split_once('/').expect("two parts");
        assert_eq!(image["config"]["architecture"], architecture);
        assert_eq!(
            image["config"]["config"]["Labels"]["platform"],
            platform.as_str()
        );
        // Nobody sees what else is built.
        let alone = TestSpace::with_manifest(MANIFEST);
        let built = Build::ok(&alone, &["--platform", platform, "app"]);
        assert_eq!(&built.digest_of("app"), digest);
        let names = built.ran();
        // But for the image for the host, which stands on another platform.
        let is_plain = names.iter().all(|name| !name.contains('@'));
        assert_eq!(is_plain, platform == AMD64, "{names:?}");
    }

    // Nothing runs again, in any order, and the index is the same.
    let again = Build::ok(&space, &["--platform", "linux/amd64,linux/arm64", "app"]);
    assert_eq!(again.ran(), [""; 0]);
    assert_eq!(again.digest_of("app"), index);
    let manifest = MANIFEST.replace(
        "[\"linux/arm64\", \"linux/amd64\"]",
        "[\"linux/amd64\", \"linux/arm64/v8\"]",
    );
    space.write("kiln.toml", manifest);
    assert_eq!(Build::ok(&space, &[]).digest_of("app"), index);
}

#[test]
fn what_is_looked_at_keeps_the_name_of_the_whole() {
    let space = TestSpace::with_manifest(MANIFEST);
    let index = Build::ok(&space, &[]).digest_of("app");
    let named = |space: &TestSpace| {
        let images = json(&space.kiln_ok(["images", "--format", "json"]).stdout);
        let images = images.as_array().expect("a list").clone();
        let app = images
            .iter()
            .find(|image| image["reference"] == "localhost/t/app:latest");
        app.expect("the image")["digest"].clone()
    };
    // There is no such program; it was built and started.
    space.kiln(["run", "app"]).assert_code(127);
    assert_eq!(named(&space), index.as_str());
    space.write("kiln.toml", MANIFEST.replace("data\\n", "other\\n"));
    space.kiln(["run", "app"]).assert_code(127);
    assert_eq!(named(&space), index.as_str());
    // Who builds for one platform gets that.
    let alone = Build::ok(&space, &["--platform", ARM64]).digest_of("app");
    assert_eq!(named(&space), alone.as_str());
}

#[test]
fn steps_of_platforms_are_told_apart() {
    let space = TestSpace::with_manifest(MANIFEST);
    space.kiln_ok(["build"]);
    let explained = space.kiln_ok(["explain"]).stdout;
    for step in ["app.arch@linux/amd64", "app.arch@linux/arm64"] {
        assert!(explained.contains(&format!("{step}  ")), "{explained}");
    }
    let one = Build::ok(&space, &["--no-cache=app.arch@linux/arm64"]);
    assert_eq!(one.ran(), ["app.arch@linux/arm64"]);
    let both = Build::ok(&space, &["--no-cache=app.arch"]);
    assert_eq!(both.ran(), ["app.arch@linux/amd64", "app.arch@linux/arm64"]);
    let none = space.kiln(["build", "--no-cache=app.arch@linux/riscv64"]);
    none.assert_code(1).assert_says("is not a step");

    // A change for one platform is explained for it.
    let manifest = MANIFEST.replace("${target.arch} ", "${target.arch}! ");
    space.write("kiln.toml", manifest);
    let explained = json(&space.kiln_ok(["explain", "--format", "json"]).stdout);
    let explained = explained.as_array().expect("a list");
    let reason = |step: &str| {
        let node = explained.iter().find(|node| node["step"] == step);
        node.unwrap_or_else(|| panic!("no {step} in {explained:?}"))["what"].to_string()
    };
    assert!(
        reason("app.arch@linux/arm64").contains("/arch"),
        "{explained:?}"
    );
    let graph = space.kiln_ok(["graph", "--format", "json"]).stdout;
    let graph = json(&graph);
    let nodes = graph["nodes"].as_array().expect("nodes");
    let platform = |name: &str| {
        let node = nodes.iter().find(|node| node["name"] == name);
        node.unwrap_or_else(|| panic!("no {name}"))["platform"].clone()
    };
    assert_eq!(platform("app.same@linux/arm64"), ARM64);
    assert_eq!(platform("data.write@linux/amd64"), AMD64);
}

#[test]
fn what_an_index_names_stays_until_the_index_goes() {
    let space = TestSpace::with_manifest(MANIFEST);
    space.kiln_ok(["build"]);
    let part = entries(&inspect(&space, &["app"])["index"])[1].1.clone();
    space.kiln_ok(["gc", "--keep", "0B"]);
    for platform in [AMD64, ARM64] {
        let history = space
            .kiln_ok(["history", "--platform", platform, "app"])
            .stdout;
        assert!(history.contains("kiln app.arch: write"), "{history}");
    }
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    // Part of an index is found by its digest, and goes with the whole.
    let found = inspect(&space, &[&part[7..19]]);
    assert_eq!(found["config"]["architecture"], "arm64");
    let refused = space.kiln(["rmi", &part[7..19]]);
    refused
        .assert_code(1)
        .assert_says("for one of several platforms");
    space.kiln_ok(["rmi", "app"]);
    space.kiln_ok(["gc", "--keep", "0B"]);
    space.kiln(["inspect", &part[7..19]]).assert_code(1);
}

#[test]
fn results_for_other_platforms_come_from_a_cache() {
    let space = TestSpace::with_manifest(MANIFEST);
    let registry = Registry::start(&space);
    let cache = format!("{}/team/cache", registry.host());
    let first = Build::ok(&space, &["--cache", &cache]);
    let other = TestSpace::with_manifest(MANIFEST);
    let second = Build::ok(&other, &["--cache", &cache]);
    assert_eq!(second.ran(), [""; 0]);
    assert_eq!(second.digest_of("app"), first.digest_of("app"));
    let arch =
        |build: &Build, platform: &str| build.layers()[&format!("app.arch@{platform}")].clone();
    assert_ne!(arch(&second, AMD64), arch(&second, ARM64));
    let alone = TestSpace::with_manifest(MANIFEST);
    let third = Build::ok(&alone, &["--platform", ARM64, "--cache-from", &cache]);
    assert_eq!(third.ran(), [""; 0]);
}

#[test]
fn platforms_that_there_are_not_are_refused() {
    let space = TestSpace::with_manifest(MANIFEST);
    space
        .kiln(["build", "--platform", "linux/z80"])
        .assert_code(2);
    space
        .kiln(["build", "--platform", "windows/amd64"])
        .assert_code(2);
    let several = space.kiln(["run", "--platform", "linux/amd64,linux/arm64", "app"]);
    several.assert_code(125).assert_says("one platform");
    space.kiln_ok(["build"]);
    let missing = space.kiln(["inspect", "--platform", "linux/s390x", "app"]);
    missing.assert_code(1).assert_says("linux/s390x");
}
