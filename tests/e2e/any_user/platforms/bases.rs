//! What steps of one platform build on: bases for it, and toolchains for the machine that builds.

use std::fs;
use std::process::Command;

use super::{AMD64, ARM64, MANIFEST, entries, inspect, raw};
use crate::events::Build;
use crate::fixtures::{Registry, write_busybox_rootfs};
use crate::space::{TestSpace, host};

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
