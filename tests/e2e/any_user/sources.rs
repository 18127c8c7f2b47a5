//! `fetch` and `git`: what comes from outside, and what is pinned of it.

use std::fs;
use std::process::Command;

use crate::fixtures::tar::{file, folder, link, tar};
use crate::fixtures::{Page, Web};
use crate::space::{Run, TestSpace, host};

/// A project whose only step is `action`, over busybox so that it can be looked at.
fn project(action: &str) -> TestSpace {
    let space = crate::fixtures::busybox_project("");
    rewrite(&space, action);
    space
}

fn rewrite(space: &TestSpace, action: &str) {
    crate::fixtures::rewrite_busybox_project(space, &format!("[image.app.step.get]\n{action}\n"));
}

#[track_caller]
fn refused(action: &str, code: i32, says: &[&str]) -> (TestSpace, Run) {
    let space = project(action);
    let run = space.kiln(["build"]);
    run.assert_code(code);
    for part in says {
        run.assert_says(part);
    }
    assert_eq!(run.stdout, "");
    assert!(!run.stderr.contains("panicked"), "{}", run.shown());
    (space, run)
}

/// Compresses by a program of the machine.
fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let space = TestSpace::new();
    space.write("plain", bytes);
    let output = Command::new(program)
        .args(["-q", "-c", "plain"])
        .current_dir(space.project())
        .output()
        .expect("a program that every Debian has");
    assert!(output.status.success(), "{program}");
    output.stdout
}

fn sample() -> Vec<u8> {
    tar(&[
        folder("top"),
        file("top/words", "from an archive\n"),
        link(b'2', "top/link", "words"),
    ])
}

#[test]
fn archives_are_unpacked_whatever_they_are_compressed_with() {
    let web = Web::start([
        ("/plain", Page::ok(sample())),
        ("/gzip", Page::ok(compressed("gzip", &sample()))),
        ("/xz", Page::ok(compressed("xz", &sample()))),
        ("/zstd", Page::ok(compressed("zstd", &sample()))),
        ("/moved", Page::redirect("location: /gzip\r\n")),
    ]);
    let space = project("run = \"true\"");
    let mut digests = Vec::new();
    for path in ["/plain", "/gzip", "/xz", "/zstd", "/moved"] {
        let url = web.url(path);
        rewrite(
            &space,
            &format!("fetch = {{ url = \"{url}\", to = \"/x\", unpack = true, strip = 1 }}"),
        );
        digests.push(space.kiln_ok(["build"]).stdout);
        let run = space.kiln_ok(["run", "app", "cat", "/x/words", "/x/link"]);
        assert_eq!(run.stdout, "from an archive\nfrom an archive\n", "{path}");
        let lock = fs::read_to_string(space.project().join("kiln.lock")).expect("written");
        assert!(lock.contains(&url), "{lock}");
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[test]
fn a_root_file_system_may_come_as_xz() {
    let space = project("run = \"true\"");
    let plain = space.kiln_ok(["build"]).stdout;
    let tar = fs::read(space.project().join("rootfs.tar")).expect("there");
    space.write("rootfs.tar", compressed("xz", &tar));
    assert_eq!(space.kiln_ok(["build"]).stdout, plain);
    space.kiln_ok(["save", "-o", "image.tar", "app"]);
    host(
        Command::new("skopeo")
            .args([
                "copy",
                "--insecure-policy",
                "oci-archive:image.tar",
                "dir:copy",
            ])
            .current_dir(space.project())
            .env("TMPDIR", space.path().join("tmp")),
    );
}

#[test]
fn archives_that_are_none_or_hostile_are_refused() {
    let web = Web::start([
        ("/zip", Page::ok(*b"PK\x03\x04 and so on, for some bytes")),
        ("/text", Page::ok(*b"this is no archive at all, only words")),
        ("/up", Page::ok(tar(&[file("../../evil", "x")]))),
        ("/absolute", Page::ok(tar(&[file("/etc/evil", "x")]))),
        (
            "/through",
            Page::ok(tar(&[link(b'2', "out", "/tmp"), file("out/evil", "x")])),
        ),
    ]);
    for (path, says) in [
        ("/zip", "it is a zip file"),
        ("/text", "`unpack` reads tar archives"),
        ("/up", ".."),
        ("/absolute", "absolute"),
        ("/through", "symbolic link"),
    ] {
        let action = format!(
            "fetch = {{ url = \"{}\", to = \"/x\", unpack = true }}",
            web.url(path)
        );
        refused(&action, 1, &[says, "kiln.toml:8"]);
    }
}

#[test]
fn a_download_that_is_not_what_is_pinned_is_refused() {
    let web = Web::start([("/file", Page::ok(*b"today's bytes"))]);
    let url = web.url("/file");
    let wrong = "ab".repeat(32);
    let says = [wrong.as_str(), "nothing was kept"];
    refused(
        &format!("fetch = {{ url = \"{url}\", to = \"/x\", sha256 = \"{wrong}\" }}"),
        1,
        &says,
    );
    let space = project(&format!("fetch = {{ url = \"{url}\", to = \"/x\" }}"));
    let lock = format!(
        "version = 1\nlayer-format = 1\n\n[url.\"{url}\"]\nsha256 = \"{wrong}\"\nsize = 13\n"
    );
    space.write("kiln.lock", &lock);
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says(&wrong)
        .assert_says("kiln lock --update")
        .assert_says(&format!("{url}\n"));
    let kept = fs::read_to_string(space.project().join("kiln.lock")).expect("there");
    assert!(kept.ends_with(&lock), "{kept}");
    // The advice helps.
    space
        .kiln(["lock", "--update", "nowhere"])
        .assert_code(1)
        .assert_says("`nowhere` is no image, suite, URL or repository of `kiln.toml`")
        .assert_says(&format!("these are pinned: `{url}`"));
    space.kiln_ok(["lock", "--update", &url]);
    let run = space.kiln_ok(["run", "app", "cat", "/x"]);
    assert_eq!(run.stdout, "today's bytes");
    // With everything in the store no server is needed.
    let mut offline = space.command();
    offline
        .args(["build", "--no-cache", "--locked"])
        .env("http_proxy", "http://127.0.0.1:1");
    space.run(&mut offline).assert_code(0);
}

#[test]
fn servers_that_refuse_or_fail_are_told_apart() {
    let web = Web::start([
        ("/broken", Page::status(500)),
        ("/secret", Page::status(403)),
        ("/loop", Page::redirect("location: /loop\r\n")),
    ]);
    for (path, code, says) in [
        ("/nowhere", 1, "the server answered 404"),
        ("/secret", 1, "the server answered 403"),
        ("/broken", 3, "the server answered 500"),
        ("/loop", 3, "redirect"),
    ] {
        let action = format!("fetch = {{ url = \"{}\", to = \"/x\" }}", web.url(path));
        let (_space, run) = refused(&action, code, &[says]);
        assert!(!run.stderr.contains("<html>"), "{}", run.shown());
    }
}

/// A repository beside the project, which git finds in place of one on the network.
fn repository(space: &TestSpace) -> String {
    let folder = space.path().join("repository");
    let settings = format!(
        "[user]\nname = t\nemail = t@example.com\n[protocol \"file\"]\nallow = always\n\
         [url \"file://{}\"]\ninsteadOf = https://git.example.com/notes\n",
        folder.display()
    );
    fs::write(space.path().join("home/.gitconfig"), settings).expect("written");
    fs::create_dir(&folder).expect("a folder");
    git(space, &["init", "--quiet", "--initial-branch=main"]);
    commit(space, "one");
    "https://git.example.com/notes".to_owned()
}

fn git(space: &TestSpace, arguments: &[&str]) -> String {
    host(
        Command::new("git")
            .args(arguments)
            .current_dir(space.path().join("repository"))
            .env("HOME", space.path().join("home")),
    )
}

fn commit(space: &TestSpace, text: &str) -> String {
    let folder = space.path().join("repository");
    fs::create_dir_all(folder.join("src/deep")).expect("folders");
    fs::write(folder.join("src/deep/words"), text).expect("written");
    git(space, &["add", "."]);
    git(space, &["commit", "--quiet", "--message", text]);
    git(space, &["rev-parse", "HEAD"]).trim().to_owned()
}

#[test]
fn a_branch_is_pinned_to_its_commit_until_it_is_updated() {
    let space = project("run = \"true\"");
    let url = repository(&space);
    rewrite(
        &space,
        &format!("git = {{ url = \"{url}\", ref = \"main\", to = \"/src\" }}"),
    );
    let see = |space: &TestSpace| {
        let run = space.kiln_ok(["run", "app", "cat", "/src/src/deep/words"]);
        run.stdout
    };
    assert_eq!(see(&space), "one");
    let lock = || fs::read_to_string(space.project().join("kiln.lock")).expect("written");
    let first = git(&space, &["rev-parse", "HEAD"]);
    assert!(lock().contains(first.trim()), "{}", lock());

    // The branch moves: this project does not, not even in a new store.
    let second = commit(&space, "two");
    fs::rename(space.store(), space.path().join("old-store")).expect("moved");
    assert_eq!(see(&space), "one");
    space.kiln_ok(["lock", "--update", &url]);
    assert!(lock().contains(&second), "{}", lock());
    assert_eq!(see(&space), "two");
    // No history, no repository.
    let run = space.kiln_ok(["run", "app", "ls", "-a", "/src"]);
    assert_eq!(run.stdout, ".\n..\nsrc\n");
}

#[test]
fn what_a_repository_does_not_have_is_named() {
    let space = project("run = \"true\"");
    let url = repository(&space);
    let absent = "0123456789".repeat(4);
    for (reference, says) in [("nowhere", "`nowhere`"), (&*absent, &*absent)] {
        rewrite(
            &space,
            &format!("git = {{ url = \"{url}\", ref = \"{reference}\", to = \"/src\" }}"),
        );
        space
            .kiln(["build"])
            .assert_code(1)
            .assert_says(says)
            .assert_says("kiln.toml:8");
    }
}

#[test]
fn submodules_are_left_out_and_that_is_said() {
    let space = project("run = \"true\"");
    let url = repository(&space);
    let folder = space.path().join("repository");
    let own = folder.display().to_string();
    git(&space, &["submodule", "--quiet", "add", &own, "vendored"]);
    commit(&space, "with a submodule");
    rewrite(
        &space,
        &format!("git = {{ url = \"{url}\", to = \"/src\" }}"),
    );
    space
        .kiln_ok(["build"])
        .assert_says("`vendored` is a submodule, and those are left out");
    let run = space.kiln_ok(["run", "app", "ls", "/src"]);
    assert_eq!(run.stdout, "src\n");
}
