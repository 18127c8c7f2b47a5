//! Docker's engine, started for the test and ended by it, takes what kiln makes and gives back.

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_peers::Docker;

use super::is_root;
use crate::fixtures::{Registry, busybox_project};
use crate::space::{TestSpace, host, short_folder};

#[test]
fn docker_runs_what_kiln_saves_and_pushes_and_kiln_what_docker_does() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        "[image.app.step.text]\nrun = \"echo text > /file\"\n[image.app.config]\ncmd = [\"cat\", \"/file\"]\n",
    );
    let name = "localhost/test/app:latest";
    space.kiln_ok(["build"]);
    space.kiln_ok(["tag", "app", name]);
    let docker = Docker::start(&space.path().join("docker"));
    let docker = docker.expect("docker's engine (`cargo xtask test` installs it)");
    let client = |arguments: &[&str]| host(docker.client().args(arguments));
    let run = |image: &str| client(&["run", "--rm", "--network=none", image]);

    // As a file; docker 20.10 knows no zstd.
    for method in ["gzip", "none"] {
        let archive = format!("{method}.tar");
        space.kiln_ok(["save", "--compress", method, "-o", &archive, name]);
        let archive = space.project().join(archive);
        let loaded = client(&["load", "-i", &archive.display().to_string()]);
        assert!(loaded.contains(name), "{method}: {loaded}");
        assert_eq!(run(name), "text\n", "{method}");
        client(&["rmi", name]);
    }

    // Several names of an image are several there, and when they come back.
    space.kiln_ok(["tag", "app", "second:1"]);
    space.kiln_ok(["save", "-o", "both.tar", name, "second:1"]);
    let archive = |name: &str| space.project().join(name).display().to_string();
    let loaded = client(&["load", "-i", &archive("both.tar")]);
    assert!(
        loaded.contains(name) && loaded.contains("second:1"),
        "{loaded}"
    );
    let id = |image: &str| client(&["inspect", "-f", "{{.Id}}", image]);
    assert_eq!(id(name), id("second:1"));
    client(&["save", "-o", &archive("back.tar"), name, "second:1"]);
    host(Command::new("gzip").arg(archive("back.tar")));
    let back = TestSpace::new();
    let names = back.kiln_ok(["load", &archive("back.tar.gz")]).stdout;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["localhost/test/app", "second:1"]);
    assert_eq!(
        back.kiln_ok(["inspect", "-f", "{{.Id}}", "second:1"])
            .stdout,
        id(name)
    );

    // A registry between them, both ways.
    let registry = Registry::start(&space);
    let pushed = format!("{}/kiln/app", registry.host());
    space.kiln_ok(["push", name, &pushed]);
    client(&["pull", &pushed]);
    assert_eq!(run(&pushed), "text\n");
    let again = format!("{}/docker/app", registry.host());
    client(&["tag", &pushed, &again]);
    client(&["push", &again]);
    let other = TestSpace::new();
    assert_eq!(other.kiln_ok(["run", &again]).stdout, "text\n");

    // And back as an archive.
    let archive = space.project().join("docker.tar");
    client(&["save", "-o", &archive.display().to_string(), &pushed]);
    let third = TestSpace::new();
    third.kiln_ok(["load".as_ref(), archive.as_os_str()]);
    assert_eq!(third.kiln_ok(["run", &pushed]).stdout, "text\n");
}

#[test]
fn podman_loads_what_kiln_saves_and_kiln_what_podman_does() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        "[image.app.step.text]\nrun = \"echo text > /file\"\n[image.app.config]\ncmd = [\"cat\", \"/file\"]\n",
    );
    let name = "localhost/t/app:latest";
    space.kiln_ok(["build"]);
    let storage = space.path().join("podman");
    let podman = |arguments: &[&str]| {
        host(
            Command::new("podman")
                .arg("--root")
                .arg(storage.join("root"))
                .arg("--runroot")
                .arg(short_folder(&space, "r"))
                .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
                .args(["--events-backend", "none"])
                .args(arguments)
                .env("HOME", space.path())
                .env("TMPDIR", space.path().join("tmp"))
                .current_dir(space.project()),
        )
    };
    for method in ["gzip", "zstd", "none"] {
        let archive = format!("{method}.tar");
        space.kiln_ok(["save", "--compress", method, "-o", &archive, name]);
        let loaded = podman(&["load", "--quiet", "-i", &archive]);
        assert!(loaded.contains(name), "{method}: {loaded}");
        // Its runtime does not start on every machine with cgroups of both versions; the files are there.
        let root = podman(&["image", "mount", name]);
        let file = Path::new(root.trim_end()).join("file");
        let text = fs::read_to_string(file).expect("a file of the image");
        podman(&["image", "unmount", name]);
        assert_eq!(text, "text\n", "{method}");
        for form in ["docker-archive", "oci-archive"] {
            // Docker's format knows no zstd, says podman.
            if method == "zstd" && form == "docker-archive" {
                continue;
            }
            let archive = format!("{method}-{form}.tar");
            podman(&["save", "--quiet", "--format", form, "-o", &archive, name]);
            let archive = space.project().join(archive);
            let other = TestSpace::new();
            other.kiln_ok(["load".as_ref(), archive.as_os_str()]);
            assert_eq!(other.kiln_ok(["run", name]).stdout, "text\n", "{form}");
        }
        podman(&["rmi", "--all", "--force"]);
    }
}

#[test]
fn docker_and_podman_take_the_image_for_their_platform_from_an_index() {
    if !is_root() {
        return;
    }
    let space = TestSpace::with_manifest(
        "schema = 1\n[project]\nname = \"t\"\n[image.app]\nfrom = \"scratch\"\n\
         platforms = [\"linux/amd64\", \"linux/arm64\", \"linux/arm/v7\"]\n\
         [image.app.step.text]\nwrite = { \"/text\" = \"${target.platform}\\n\" }\n",
    );
    let registry = Registry::start(&space);
    let name = format!("{}/team/app:1", registry.host());
    space.kiln_ok(["build"]);
    space.kiln_ok(["push", "app", &name]);
    let docker = Docker::start(&space.path().join("docker"));
    let docker = docker.expect("docker's engine (`cargo xtask test` installs it)");
    let client = |arguments: &[&str]| host(docker.client().args(arguments));
    let storage = space.path().join("podman");
    let podman = |arguments: &[&str]| {
        host(
            Command::new("podman")
                .arg("--root")
                .arg(storage.join("root"))
                .arg("--runroot")
                .arg(short_folder(&space, "r"))
                .args(["--storage-driver", "vfs"])
                .args(arguments)
                .env("HOME", space.path())
                .env("TMPDIR", space.path().join("tmp")),
        )
    };
    let own = host(Command::new("dpkg").arg("--print-architecture"));
    for (options, arch) in [
        (&[][..], own.trim_end()),
        (&["--platform", "linux/arm64"], "arm64"),
        (&["--platform", "linux/arm/v7"], "arm"),
    ] {
        let pull = |first: &'static str| [&[first][..], options].concat();
        client(&[&pull("pull")[..], &[&name]].concat());
        let format = "{{.Architecture}}";
        let seen = client(&["image", "inspect", "--format", format, &name]);
        assert_eq!(seen.trim_end(), arch);
        podman(&[&pull("pull")[..], &["--quiet", "--tls-verify=false", &name]].concat());
        let seen = podman(&["image", "inspect", "--format", format, &name]);
        assert_eq!(seen.trim_end(), arch);
    }
    podman(&["rmi", "--all", "--force"]);
}
