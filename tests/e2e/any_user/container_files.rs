//! Files of containers: what they changed, copies in and out, images made of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fixtures::ContainerSpace;
use crate::space::host;

const SLEEPS: &str = "exec sleep 1000";

#[test]
fn changes_are_listed_as_docker_does() {
    let space = ContainerSpace::new("");
    let script = "mkdir /new; echo x > /new/file; echo y >> /etc/passwd; rm /etc/group; touch /tmp; \
                  touch /gone; rm /gone";
    space.kiln_ok(["run", "--name", "box", "app", "sh", "-c", script]);
    let expected = "C /etc\nD /etc/group\nC /etc/passwd\nA /new\nA /new/file\n";
    assert_eq!(space.kiln_ok(["diff", "box"]).stdout, expected);
    space.background("runs", &[], "touch /x; exec sleep 1000");
    crate::fixtures::wait_until("the file", || {
        space.kiln_ok(["diff", "runs"]).stdout == "A /x\n"
    });
}

/// Docker's table of what is copied where, for a container that runs and for one that does not.
#[test]
fn files_and_folders_are_copied_in_and_out() {
    let space = ContainerSpace::new("");
    space.background("up", &[], SLEEPS);
    space.kiln_ok(["create", "--name", "down", "app", "cat", "/srv/file"]);
    space.write("folder/a", "a\n");
    space.write("folder/sub/b", "b\n");
    space.write("file", "f\n");
    for name in ["up", "down"] {
        let at = |path: &str| format!("{name}:{path}");
        space.kiln_ok(["cp", "folder", &at("/srv")]);
        space.kiln_ok(["cp", "folder", &at("/srv")]);
        space.kiln_ok(["cp", "file", &at("/srv/")]);
        space.kiln_ok(["cp", "file", &at("/srv/other")]);
        space.kiln_ok(["cp", "folder/.", &at("/tmp")]);
        space.kiln(["cp", "file", &at("/nowhere/")]).assert_code(1);
        space
            .kiln(["cp", "nowhere", &at("/srv")])
            .assert_code(1)
            .assert_says("nowhere");
        space
            .kiln(["cp", &at("/nowhere"), "."])
            .assert_code(1)
            .assert_says("nowhere");
        let out = space.path().join(format!("out-{name}"));
        fs::create_dir(&out).expect("a new folder");
        let here = out.to_str().expect("text");
        space.kiln_ok(["cp", &at("/srv"), here]);
        space.kiln_ok(["cp", &at("/srv/other"), &format!("{here}/renamed")]);
        space.kiln_ok(["cp", &at("/srv/."), &format!("{here}/contents")]);
        // A slash at the end is a folder's, and only a file needs one that is there.
        space.kiln_ok(["cp", &at("/srv/."), &format!("{here}/slashed/")]);
        space
            .kiln(["cp", &at("/srv/other"), &format!("{here}/nowhere/")])
            .assert_code(1)
            .assert_says("there is no such folder");
        let read = |path: &str| fs::read_to_string(out.join(path)).unwrap_or_default();
        assert_eq!(read("srv/a"), "a\n");
        assert_eq!(read("slashed/a"), "a\n");
        assert_eq!(read("srv/folder/sub/b"), "b\n");
        assert_eq!(read("srv/file"), "f\n");
        assert_eq!(read("renamed"), "f\n");
        assert_eq!(read("contents/folder/a"), "a\n");
        // They belong to whoever copied.
        let own = fs::metadata(space.project()).expect("the project").uid();
        assert_eq!(fs::metadata(out.join("srv/a")).expect("a copy").uid(), own);
    }
    let run = space.inside("up", "cat /srv/folder/sub/b /tmp/a; ls -ln /srv/file");
    assert!(
        run.stdout.starts_with("b\na\n") && run.stdout.contains(" 0 "),
        "{}",
        run.shown()
    );
    space.kiln_ok(["start", "-a", "down"]);
    assert_eq!(space.kiln_ok(["logs", "down"]).stdout, "f\n");
}

#[test]
fn tars_are_copied_on_standard_input_and_output() {
    let space = ContainerSpace::new("");
    space.background("box", &[], SLEEPS);
    let mut command = space.command();
    let output = command
        .args(["cp", "box:/etc", "-"])
        .stdout(Stdio::piped())
        .output()
        .expect("kiln runs");
    assert!(output.status.success());
    fs::write(space.path().join("etc.tar"), &output.stdout).expect("a file");
    let listed = host(
        Command::new("tar")
            .arg("tf")
            .arg(space.path().join("etc.tar")),
    );
    assert!(listed.lines().any(|line| line == "etc/passwd"), "{listed}");
    let tar = fs::File::open(space.path().join("etc.tar")).expect("it was written");
    let run = space.run(space.command().args(["cp", "-", "box:/tmp"]).stdin(tar));
    run.assert_code(0);
    space
        .inside(
            "box",
            "cmp /etc/passwd /tmp/etc/passwd || cat /tmp/etc/passwd",
        )
        .assert_code(0);
}

/// CVE-2018-15664 and the like: links in the container lead nowhere but into the container.
#[test]
fn links_in_the_container_lead_nowhere_else() {
    let space = ContainerSpace::new("");
    let canary = space.path().join("canary");
    fs::create_dir(&canary).expect("a new folder");
    fs::write(canary.join("secret"), "the host's\n").expect("a file");
    let canary = canary.to_str().expect("text");
    let script = format!(
        "ln -s {canary} /abs; ln -s ../../../../../..{canary} /rel; ln -s /proc/1/root/../..{canary} /magic; \
         ln -s {canary}/secret /file; echo ready; exec sleep 1000"
    );
    space.background("up", &[], &script);
    space.wait_for_log("up", "ready");
    space.write("in/secret", "the container's\n");
    for link in ["abs", "rel", "magic"] {
        for path in [format!("up:/{link}"), format!("up:/{link}/")] {
            space.kiln(["cp", "in/.", &path]);
            space.kiln(["cp", "in/secret", &path]);
        }
        let out = format!("out-{link}");
        space.kiln(["cp", &format!("up:/{link}/secret"), &out]);
        let read = fs::read_to_string(space.project().join(&out)).unwrap_or_default();
        assert_ne!(read, "the host's\n", "{link}");
    }
    // What is copied of a link is the link, or what it leads to in there: nothing.
    space.kiln_ok(["cp", "up:/file", "link"]);
    let link = fs::symlink_metadata(space.project().join("link")).expect("a copy");
    assert!(link.is_symlink());
    space
        .kiln(["cp", "-L", "up:/file", "stolen"])
        .assert_code(1);
    assert!(!space.project().join("stolen").exists());
    let kept = fs::read_to_string(format!("{canary}/secret")).expect("it is there");
    assert_eq!(kept, "the host's\n");
    let files = fs::read_dir(canary).expect("it is there").count();
    assert_eq!(files, 1);
}

/// The same while somebody in the container exchanges a folder and a link without a pause. Each round begins anew:
/// what is copied in while there is neither makes a folder of that name.
#[test]
fn a_link_that_comes_and_goes_is_never_followed_out() {
    let space = ContainerSpace::new("");
    let canary = space.path().join("canary");
    fs::create_dir(&canary).expect("a new folder");
    fs::write(canary.join("secret"), "the host's\n").expect("a file");
    let script = format!(
        "mkdir /o; echo mine > /o/secret; echo ready; while true; do \
         rm -rf /d; cp -r /o /d; sleep 0.01; rm -rf /d; ln -s {} /d; done",
        canary.display()
    );
    space.background("up", &[], &script);
    space.wait_for_log("up", "ready");
    space.write("x/planted", "planted\n");
    let begin = Instant::now();
    let mut copies = 0;
    // Longer where the machine is too busy to have found it there once.
    while begin.elapsed() < Duration::from_secs(if copies > 0 { 6 } else { 60 }) {
        space.kiln(["cp", "x/.", "up:/d"]);
        let out = space.project().join("out");
        if space.kiln(["cp", "up:/d/secret", "out"]).code == Some(0) {
            copies += 1;
            let copied = fs::read_to_string(&out).expect("a copy");
            // Or what there is of it so far.
            assert!("mine\n".starts_with(&copied), "{copied}");
            fs::remove_file(&out).expect("it was there");
        }
    }
    assert!(copies > 0, "it was never there");
    assert_eq!(fs::read_dir(&canary).expect("it is there").count(), 1);
}

#[test]
fn what_comes_out_of_a_container_stays_where_it_is_put() {
    let space = ContainerSpace::new("");
    space.background(
        "up",
        &[],
        "mkdir -p /d/sub; echo x > /d/sub/f; exec sleep 1000",
    );
    crate::fixtures::wait_until("the file", || {
        space.inside("up", "test -e /d/sub/f").code == Some(0)
    });
    // A link that is there already, in the folder that is copied to.
    let outside = space.path().join("outside");
    fs::create_dir(&outside).expect("a new folder");
    fs::create_dir_all(space.project().join("to/d")).expect("a new folder");
    symlink(&outside, space.project().join("to/d/sub")).expect("a new link");
    space.kiln(["cp", "up:/d", "to"]);
    assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0);
}

#[test]
fn changes_become_an_image_with_history() {
    let space = ContainerSpace::new("[image.app.config]\ncmd = [\"cat\", \"/made\"]\n");
    let script = "echo made > /made; rm /etc/group; mkdir /d; ln -s /made /d/link; exec sleep 1000";
    space.background("box", &[], script);
    crate::fixtures::wait_until("it is made", || {
        space.inside("box", "test -e /d/link").code == Some(0)
    });
    space.kiln_ok(["commit", "-m", "by hand", "box", "localhost/box"]);
    let run = space.kiln_ok(["run", "--rm", "localhost/box"]);
    assert_eq!(run.stdout, "made\n");
    let run = space.kiln([
        "run",
        "--rm",
        "localhost/box",
        "sh",
        "-c",
        "cat /d/link; test ! -e /etc/group",
    ]);
    run.assert_code(0);
    assert_eq!(run.stdout, "made\n");
    let history = space.kiln_ok(["history", "localhost/box"]).stdout;
    assert!(history.contains("by hand"), "{history}");
    // The container goes on, and its own layer is as it was.
    space
        .inside("box", "cat /made; echo more >> /made")
        .assert_code(0);
    assert_eq!(
        space.kiln_ok(["run", "--rm", "localhost/box"]).stdout,
        "made\n"
    );
    // It is an image like others.
    let archive = space.project().join("box.tar");
    space.kiln_ok(["save", "-o", "box.tar", "localhost/box"]);
    assert!(archive.exists());
    space.kiln_ok(["gc"]);
    assert_eq!(
        space.kiln_ok(["run", "--rm", "localhost/box"]).stdout,
        "made\n"
    );
}
