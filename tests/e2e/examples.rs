//! Every project of `examples/`, built and run as its reader would.
//!
//! They commit their locks. A mirror keeps only the newest versions, so a lock
//! that is some weeks old may name packages that it has dropped; the snapshot
//! archive may be out of reach. Then the lock is updated, said so, and all goes on.

use std::process::Command;

use crate::space::{Run, TestSpace, host};

/// Runs kiln in the project of an example; updates the lock if the mirror has moved on.
#[track_caller]
pub(crate) fn kiln_or_update(space: &TestSpace, arguments: &[&str]) -> Run {
    let run = space.kiln(arguments);
    let is_dropped = run.stderr.contains("kiln lock --update") || run.stderr.contains("snapshot");
    if run.code == Some(0) || !is_dropped {
        run.assert_code(0);
        return run;
    }
    println!("the mirror has dropped a locked version; the lock is updated");
    space.kiln_ok(["lock", "--update"]);
    space.kiln_ok(arguments)
}

/// Replaces the project of a space by another example; the store stays.
fn take_example(space: &TestSpace, name: &str) {
    host(Command::new("rm").arg("-rf").arg(space.project()));
    space.copy_example(name);
}

#[test]
fn all_build_and_run() {
    // One after the other in one store, as they share packages.
    let space = TestSpace::with_example("compiled");
    let words = kiln_or_update(&space, &["run"]);
    assert!(
        words.stdout.ends_with("26 different: a pangram\n"),
        "{}",
        words.shown()
    );
    let inspected = space.kiln_ok(["inspect", "words"]).stdout;
    let image: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert!(
        image["size_bytes"].as_u64() < Some(2_000_000),
        "{inspected}"
    );
    // A change of one file compiles, and nothing is installed again.
    space.write("src/count.h", {
        let path = space.project().join("src/count.h");
        std::fs::read_to_string(path).expect("a header") + "\n/* changed */\n"
    });
    let again = space.kiln_ok(["build", "--progress", "json"]);
    assert!(
        again.stderr.contains("\"toolchain.compile\""),
        "{}",
        again.shown()
    );
    assert!(
        !again
            .stderr
            .contains("\"event\":\"started\",\"step\":\"toolchain.packages\""),
        "{}",
        again.shown()
    );

    take_example(&space, "cross");
    let run = kiln_or_update(&space, &["run"]);
    let machine = host(Command::new("uname").arg("-m"));
    assert_eq!(run.stdout, format!("compiled for {machine}"));
    space.kiln_ok(["build"]);
    space.kiln_ok([
        "save",
        "--platform",
        "linux/arm64",
        "--form",
        "dir",
        "-o",
        "arm64",
    ]);
    let program = std::fs::read(space.project().join("arm64/bin/where")).expect("a program");
    assert_eq!(program[18..20], [183, 0], "it is for arm64");

    take_example(&space, "static-site");
    let page = kiln_or_update(&space, &["run", "check"]);
    assert!(
        page.stdout.contains("<h1>The smithy</h1>"),
        "{}",
        page.shown()
    );

    take_example(&space, "python-web");
    let check = kiln_or_update(&space, &["run", "check"]);
    assert_eq!(check.stdout, "guest book: signed and read back\n");
}

#[test]
fn the_manifest_in_the_readme_is_one() {
    let readme = std::fs::read_to_string(crate::space::checkout().join("README.md"));
    // Copies for ordinary users hold folders only.
    let Ok(readme) = readme else {
        println!("SKIP: no README in the copy of the checkout");
        return;
    };
    let (_, rest) = readme.split_once("```toml\n").expect("a manifest");
    let (manifest, _) = rest.split_once("```").expect("its end");
    let space = TestSpace::with_manifest(manifest);
    space.kiln_ok(["check"]).assert_says("is in order");
}
