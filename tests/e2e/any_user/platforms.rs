//! Images for several platforms, where no program of another one runs.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::events::Build;
use crate::fixtures::{Registry, write_busybox_rootfs};
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
fn a_base_of_a_registry_is_pinned_for_each_platform() {
    let space = TestSpace::with_manifest(MANIFEST);
    let registry = Registry::start(&space);
    let base = format!("{}/team/base:1", registry.host());
    space.kiln_ok(["build"]);
    space.kiln_ok(["push", "app", &base]);
    let listed = entries(&raw(&space, &base));
    let project = |platforms: &str| {
        format!(
            "schema = 1\n[project]\nname = \"u\"\n[image.app]\nfrom = {{ registry = \"{base}\" }}\n{platforms}\
             [image.app.step.more]\nwrite = {{ \"/more\" = \"more\\n\" }}\n"
        )
    };
    let other = TestSpace::with_manifest(&project("platforms = [\"linux/amd64\"]\n"));
    other.kiln_ok(["lock"]);
    let lock =
        |space: &TestSpace| fs::read_to_string(space.project().join("kiln.lock")).expect("a lock");
    assert!(lock(&other).contains(&listed[0].1) && !lock(&other).contains(&listed[1].1));

    // The name means something else now, but a build is of one version.
    space.kiln_ok(["build", "--platform", "linux/riscv64"]);
    space.kiln_ok(["push", "app", &base]);
    other.write(
        "kiln.toml",
        project("platforms = [\"linux/amd64\", \"linux/arm64\"]\n"),
    );
    let built = Build::ok(&other, &[]);
    let text = lock(&other);
    for (platform, digest) in &listed {
        let line = format!("\"{platform}\" = \"{digest}\"");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
    assert_eq!(
        built
            .steps("started")
            .iter()
            .filter(|step| step.starts_with("app:base"))
            .count(),
        2
    );
    let arm64 = inspect(&other, &["--platform", ARM64, "app"]);
    assert_eq!(arm64["config"]["architecture"], "arm64");
    assert_eq!(Build::ok(&other, &["--locked"]).ran(), [""; 0]);

    // What the base is not there for is told, with what there is.
    other.write("kiln.toml", project("platforms = [\"linux/s390x\"]\n"));
    let refused = other.kiln(["build"]);
    refused
        .assert_code(1)
        .assert_says("linux/s390x")
        .assert_says("linux/riscv64");
    // An image of one platform is not taken for another.
    let alone = format!("{}/team/alone:1", registry.host());
    space.kiln_ok(["push", "--platform", "linux/riscv64", "app", &alone]);
    other.write("kiln.toml", project("").replace("base:1", "alone:1"));
    other
        .kiln(["build"])
        .assert_code(1)
        .assert_says("it is for `linux/riscv64`");
}

#[test]
fn a_base_of_a_layout_is_the_image_for_the_platform() {
    let space = TestSpace::with_manifest(MANIFEST);
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "base.tar", "app"]);
    let other = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"u\"\n[image.app]\nfrom = { oci = \"base.tar\" }\n\
         platforms = [\"linux/amd64\", \"linux/arm64\"]\n",
    );
    fs::copy(
        space.project().join("base.tar"),
        other.project().join("base.tar"),
    )
    .expect("a copy");
    other.kiln_ok(["build"]);
    for (platform, arch) in [(AMD64, "amd64"), (ARM64, "arm64")] {
        let tree = format!("tree-{arch}");
        other.kiln_ok([
            "save",
            "--platform",
            platform,
            "--form",
            "dir",
            "-o",
            &tree,
            "app",
        ]);
        let text = fs::read_to_string(other.project().join(tree).join("arch")).expect("a file");
        assert!(text.starts_with(arch), "{text}");
    }
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

/// A compiler that runs on the machine that builds, for others.
const CROSS: &str = r#"
schema = 1
[project]
name = "t"
default = "app"
[image.tools]
from = { rootfs = "rootfs.tar" }
platforms = ["host"]
[image.tools.step.install]
run = "echo compiler > /compiler"
[image.tools.step.compile]
needs = ["install"]
files = ["source"]
workdir = "/work"
env = { GOARCH = "${target.arch}" }
run = "mkdir /out; echo $(uname -m) makes $GOARCH of $(cat source) > /out/program"
[image.tools.step.docs]
needs = ["install"]
run = "echo docs > /docs"
[image.app]
from = "scratch"
platforms = ["linux/amd64", "linux/arm64", "linux/s390x"]
[image.app.step.program]
copy = [
    { from = "tools.compile", path = "/out/program", to = "/program" },
    { from = "tools.docs", path = "/docs", to = "/docs" },
]
"#;

#[test]
fn a_toolchain_for_the_host_makes_things_for_every_target() {
    let space = TestSpace::with_manifest(CROSS);
    write_busybox_rootfs(&space, "rootfs.tar");
    space.write("source", "one\n");
    let built = Build::ok(&space, &[]);
    let ran = |build: &Build, image: &str| -> Vec<String> {
        let ran = build.ran().into_iter();
        ran.filter(|step| step.starts_with(image)).collect()
    };
    assert_eq!(
        ran(&built, "tools"),
        [
            "tools.compile@linux/amd64",
            "tools.compile@linux/arm64",
            "tools.compile@linux/s390x",
            "tools.docs@linux/amd64",
            "tools.install@linux/amd64",
            "tools:base@linux/amd64",
        ]
    );
    let machine = host(Command::new("uname").arg("-m"));
    for arch in ["amd64", "arm64", "s390x"] {
        let platform = format!("linux/{arch}");
        space.kiln_ok([
            "save",
            "--platform",
            &platform,
            "--form",
            "dir",
            "-o",
            arch,
            "app",
        ]);
        let program = fs::read_to_string(space.project().join(arch).join("program"));
        let expected = format!("{} makes {arch} of one\n", machine.trim_end());
        assert_eq!(program.expect("a program"), expected);
    }
    // Only what uses the target, or what changed, is made again, and for one target if one is asked for.
    space.write("source", "two\n");
    let again = Build::ok(&space, &["--platform", "linux/arm64"]);
    assert_eq!(ran(&again, "tools"), ["tools.compile@linux/arm64"]);
    // By itself it is for the host, and has its name for that.
    let alone = Build::ok(&space, &["tools"]);
    assert_eq!(ran(&alone, "tools"), ["tools.compile"]);
    assert!(alone.images().contains_key("tools"));
    let shown = space.kiln_ok([
        "run",
        "--platform",
        "linux/s390x",
        "tools",
        "cat",
        "/out/program",
    ]);
    assert!(
        shown.stdout.ends_with("makes s390x of two\n"),
        "{}",
        shown.shown()
    );
    let step = space.kiln_ok([
        "shell",
        "--platform",
        "linux/arm64",
        "--shell",
        "/bin/true",
        "tools.compile",
    ]);
    assert_eq!(step.code, Some(0));
}
