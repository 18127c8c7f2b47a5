//! The programs people use, against a registry with accounts: kiln, skopeo, podman, buildah.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::fixtures::busybox_project;
use crate::fixtures::own_registry::OwnRegistry;
use crate::space::{TestSpace, host, short_folder};

const SETTINGS: &str = "[access]\nlogin = \"required\"\nanonymous-pull = [\"public/**\"]\n";
const STEPS: &str = "[image.app.step.tree]\nrun = \"echo text > /file\"\n";

/// A registry with an account `me`, and its token.
pub(super) fn guarded(space: &TestSpace) -> (OwnRegistry, String) {
    let registry = OwnRegistry::start(space, SETTINGS);
    registry
        .admin(
            space,
            &["user", "add", "me", "--no-password", "--grant", "**:*"],
        )
        .assert_code(0);
    let run = registry.admin(space, &["token", "add", "me", "test"]);
    run.assert_code(0);
    (registry, run.stdout.trim().to_owned())
}

/// kiln logs in; others find what it kept.
fn log_in(space: &TestSpace, registry: &OwnRegistry, token: &str) {
    let mut command = space.command();
    fs::write(space.path().join("token"), token).expect("a file");
    command.args([
        "login",
        &registry.host(),
        "--user",
        "me",
        "--password-stdin",
    ]);
    command.stdin(fs::File::open(space.path().join("token")).expect("a file"));
    space.run(&mut command).assert_code(0);
}

#[test]
fn kiln_pushes_pulls_and_runs() {
    let space = busybox_project(STEPS);
    let (registry, token) = guarded(&space);
    space.kiln_ok(["build"]);
    let name = format!("{}/team/app:v1", registry.host());
    space.kiln(["push", "app", &name]).assert_code(1);
    log_in(&space, &registry, &token);
    space.kiln_ok(["push", "app", &name]);
    space.kiln_ok(["push", "app", &format!("{}/public/app:v1", registry.host())]);
    let tags = space.kiln_ok(["tags", &format!("{}/team/app", registry.host())]);
    assert_eq!(tags.stdout, "v1\n");
    space.kiln_ok(["logout", &registry.host()]);
    space.kiln(["pull", &name]).assert_code(1);
    space.kiln_ok(["rmi", "app"]);
    space.kiln_ok(["gc"]);
    let public = format!("{}/public/app:v1", registry.host());
    let run = space.kiln(["run", &public, "cat", "/file"]);
    run.assert_code(0);
    assert_eq!(run.stdout, "text\n");
}

#[test]
fn skopeo_copies_both_ways_and_deletes() {
    let space = busybox_project(STEPS);
    let (registry, token) = guarded(&space);
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    let credentials = format!("me:{token}");
    let name = format!("docker://{}/team/app:v1", registry.host());
    let skopeo = |arguments: &[&str]| {
        host(
            Command::new("skopeo")
                .args(arguments)
                .current_dir(space.project())
                .env("HOME", space.path())
                .env("TMPDIR", space.path().join("tmp")),
        )
    };
    skopeo(&[
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
        "--dest-creds",
        &credentials,
        "oci-archive:out.tar",
        &name,
    ]);
    // As Docker's schema 2, and by way of another repository.
    let docker = format!("docker://{}/team/docker:v1", registry.host());
    skopeo(&[
        "copy",
        "--quiet",
        "--insecure-policy",
        "--format=v2s2",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--src-creds",
        &credentials,
        "--dest-creds",
        &credentials,
        &name,
        &docker,
    ]);
    let raw = skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        "--creds",
        &credentials,
        &docker,
    ]);
    assert!(
        raw.contains("vnd.docker.distribution.manifest.v2+json"),
        "{raw}"
    );
    let listed = skopeo(&[
        "list-tags",
        "--tls-verify=false",
        "--creds",
        &credentials,
        &format!("docker://{}/team/app", registry.host()),
    ]);
    assert!(listed.contains("v1"));
    skopeo(&[
        "copy",
        "--quiet",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--src-creds",
        &credentials,
        &name,
        "oci:back",
    ]);
    skopeo(&[
        "delete",
        "--tls-verify=false",
        "--creds",
        &credentials,
        &name,
    ]);
    registry.admin(&space, &["check"]).assert_code(0);
}

/// The process that holds the namespaces of an ordinary user's podman, which would stay when podman has ended.
struct PodmanHolder(PathBuf);

impl Drop for PodmanHolder {
    fn drop(&mut self) {
        // As root there is none.
        if let Ok(id) = fs::read_to_string(&self.0) {
            let id = id.trim();
            host(Command::new("kill").args(["-9", id]));
            let ended = || !Path::new("/proc").join(id).exists();
            for _ in 0..500 {
                if ended() {
                    break;
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

#[test]
fn podman_and_buildah_push_and_pull() {
    let space = busybox_project(STEPS);
    let _holder = PodmanHolder(space.path().join("tmp/libpod/tmp/pause.pid"));
    let (registry, token) = guarded(&space);
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "out.tar", "app"]);
    let run = |program: &str, arguments: &[&str]| {
        let storage = space.path().join(program);
        host(
            Command::new(program)
                .args([
                    "--root",
                    &storage.join("root").to_string_lossy(),
                    "--runroot",
                    &short_folder(&space, &program[..1]).to_string_lossy(),
                ])
                .args(["--storage-driver", "vfs"])
                .args(arguments)
                .current_dir(space.project())
                .env("HOME", space.path())
                .env("XDG_RUNTIME_DIR", space.path().join("tmp"))
                .env("TMPDIR", space.path().join("tmp")),
        )
    };
    let credentials = format!("me:{token}");
    for program in ["podman", "buildah"] {
        let name = format!("{}/team/{program}:v1", registry.host());
        let id = run(program, &["pull", "--quiet", "oci-archive:out.tar"]);
        run(
            program,
            &[
                "push",
                "--quiet",
                "--tls-verify=false",
                "--creds",
                &credentials,
                id.trim(),
                &name,
            ],
        );
        run(program, &["rmi", "--all", "--force"]);
        run(
            program,
            &[
                "pull",
                "--quiet",
                "--tls-verify=false",
                "--creds",
                &credentials,
                &name,
            ],
        );
        run(program, &["rmi", "--all", "--force"]);
    }
    let public = format!("{}/public/app:v1", registry.host());
    let id = run("podman", &["pull", "--quiet", "oci-archive:out.tar"]);
    run(
        "podman",
        &[
            "push",
            "--quiet",
            "--tls-verify=false",
            "--creds",
            &credentials,
            id.trim(),
            &public,
        ],
    );
    run("podman", &["rmi", "--all", "--force"]);
    // Without saying who one is.
    run(
        "podman",
        &["pull", "--quiet", "--tls-verify=false", &public],
    );
    run("podman", &["rmi", "--all", "--force"]);
}

#[test]
fn layouts_go_in_and_out() {
    let space = busybox_project(STEPS);
    let registry = OwnRegistry::start(&space, "");
    space.kiln_ok(["build"]);
    let name = format!("{}/a/app", registry.host());
    for tag in ["v1", "v2"] {
        space.kiln_ok(["push", "app", &format!("{name}:{tag}")]);
    }
    let layout = space.path().join("layout");
    let layout = layout.to_string_lossy();
    registry
        .admin(&space, &["export", "a/app", &layout])
        .assert_code(0);
    registry
        .admin(&space, &["export", "a/app", &layout])
        .assert_code(1)
        .assert_says("already");
    registry
        .admin(&space, &["export", "a/none", &format!("{layout}2")])
        .assert_code(1);
    let inspected = host(
        Command::new("skopeo")
            .args(["inspect", "--raw", &format!("oci:{layout}:v2")])
            .env("HOME", space.path()),
    );
    assert!(inspected.contains("layers"));
    registry
        .admin(&space, &["import", &layout, "b/app"])
        .assert_code(0);
    for tag in ["v1", "v2"] {
        let (from, to) = (
            registry.get(&format!("/v2/a/app/manifests/{tag}")),
            registry.get(&format!("/v2/b/app/manifests/{tag}")),
        );
        assert_eq!(from.expect(200).body, to.expect(200).body);
    }
    registry.admin(&space, &["check"]).assert_code(0);
}
