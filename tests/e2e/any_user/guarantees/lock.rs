//! What may differ tomorrow is pinned.

use std::fs;
use std::process::Command;

use super::built;
use crate::events::Build;
use crate::fixtures::{Registry, busybox_project};
use crate::space::{TestSpace, host};

/// Builds a busybox image whose `/version` is `text` and copies it to the registry by skopeo.
fn publish(registry: &Registry, text: &str) {
    let space = busybox_project(&format!(
        "[image.app.step.one]\nrun = \"echo {text} > /version\"\n\
         [image.app.config]\ncmd = [\"cat\", \"/version\"]\n"
    ));
    space.kiln_ok(["build"]);
    space.kiln_ok(["save", "-o", "image.tar", "app"]);
    registry.fill(&space, "oci-archive:image.tar", "base:latest");
}

fn project_on(registry: &Registry) -> TestSpace {
    TestSpace::with_manifest(&format!(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n\
         [image.app]\nfrom = {{ registry = \"{}/base\" }}\n\
         [image.app.step.one]\nrun = \"cat /version > /seen\"\n",
        registry.host()
    ))
}

#[test]
fn an_image_of_a_registry_is_pinned_and_stays() {
    let keeper = TestSpace::new();
    let registry = Registry::start(&keeper);
    publish(&registry, "one");

    let space = project_on(&registry);
    let lock = space.project().join("kiln.lock");
    space
        .kiln(["build", "--locked"])
        .assert_code(1)
        .assert_says("kiln.lock")
        .assert_says(&registry.host());
    assert!(!lock.exists(), "`--locked` writes nothing");
    let mut in_ci = space.command();
    in_ci.arg("build").env("CI", "true");
    space
        .run(&mut in_ci)
        .assert_code(1)
        .assert_says("kiln.lock");

    let first = built(&space, &[]);
    let pinned = fs::read_to_string(&lock).expect("written");
    assert!(pinned.contains("sha256:"), "{pinned}");
    assert_eq!(first.ran(), ["app.one", "app:base"]);

    // The tag moves: this project does not, in its own store or a new one.
    publish(&registry, "two");
    assert_eq!(built(&space, &["--locked"]).ran(), Vec::<String>::new());
    let other = project_on(&registry);
    other.write("kiln.lock", &pinned);
    let second = built(&other, &["--locked"]);
    assert_eq!(first.images(), second.images());
    assert_eq!(
        fs::read_to_string(other.project().join("kiln.lock")).expect("there"),
        pinned
    );

    // Who pins today gets what is there today.
    let today = project_on(&registry);
    today.kiln_ok(["build"]);
    assert_eq!(today.kiln_ok(["run"]).stdout, "two\n");
    assert_eq!(other.kiln_ok(["run"]).stdout, "one\n");

    // It is named as in the manifest to be pinned anew.
    publish(&registry, "three");
    let base = format!("{}/base", registry.host());
    today.kiln_ok(["lock", "--update", &base]);
    assert_eq!(today.kiln_ok(["run"]).stdout, "three\n");

    // With everything in the store no registry is needed.
    drop(registry);
    assert_eq!(built(&space, &["--locked"]).ran(), Vec::<String>::new());
    assert_eq!(built(&space, &["--no-cache=app.one"]).ran(), ["app.one"]);
}

#[test]
fn a_lock_that_names_what_the_registry_does_not_have_is_an_error_and_stays() {
    let keeper = TestSpace::new();
    let registry = Registry::start(&keeper);
    publish(&registry, "one");
    let space = project_on(&registry);
    built(&space, &[]);
    let lock = fs::read_to_string(space.project().join("kiln.lock")).expect("written");
    let wrong: String = lock
        .lines()
        .map(|line| {
            if line.contains("sha256:") {
                let (before, _) = line.split_once("sha256:").expect("just seen");
                format!("{before}sha256:{}\"\n", "ab".repeat(32))
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    let other = project_on(&registry);
    other.write("kiln.lock", &wrong);
    let run = other.kiln(["build", "--progress", "json"]);
    assert_ne!(run.code, Some(0), "{}", run.shown());
    run.assert_says("base");
    assert!(Build::from(run).images().is_empty());
    assert_eq!(
        fs::read_to_string(other.project().join("kiln.lock")).expect("there"),
        wrong
    );
}

#[test]
fn steps_of_an_image_run_as_the_base_says() {
    let keeper = TestSpace::new();
    let registry = Registry::start(&keeper);
    publish(&registry, "one");
    // What skopeo reads back is what it wrote.
    let listed = host(Command::new("skopeo").args([
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        &format!("docker://{}/base", registry.host()),
    ]));
    let space = project_on(&registry);
    built(&space, &[]);
    let lock = fs::read_to_string(space.project().join("kiln.lock")).expect("written");
    assert!(lock.contains(listed.trim()), "{lock}");
}
