//! Docker's engine, started for the test and ended by it, takes what kiln makes and gives back.

use kiln_peers::Docker;

use super::is_root;
use crate::fixtures::{Registry, busybox_project};
use crate::space::{TestSpace, host};

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
