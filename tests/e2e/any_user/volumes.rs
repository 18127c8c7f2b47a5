//! Volumes: what outlives containers.

use std::process::{Command, Stdio};

use crate::fixtures::ContainerSpace;

#[test]
fn volumes_are_made_listed_and_removed_unless_a_container_has_them() {
    let space = ContainerSpace::new("");
    assert_eq!(
        space
            .kiln_ok(["volume", "create", "--label", "team=web", "data"])
            .stdout,
        "data\n"
    );
    space.kiln_ok(["volume", "create", "other"]);
    let made = space.kiln_ok(["volume", "create"]).stdout;
    assert_eq!(
        space.kiln_ok(["volume", "ls", "-q"]).stdout.lines().count(),
        3
    );
    space.kiln_ok(["volume", "rm", made.trim()]);
    space.background(
        "box",
        &["-v", "data:/data"],
        "echo kept > /data/file; exec sleep 1000",
    );
    space
        .kiln(["volume", "rm", "data"])
        .assert_code(1)
        .assert_says("in use");
    space.kiln_ok(["stop", "-t", "0", "box"]);
    space
        .kiln(["volume", "rm", "data"])
        .assert_code(1)
        .assert_says("in use by container");
    let dangling = space
        .kiln_ok(["volume", "ls", "-q", "--filter", "dangling=true"])
        .stdout;
    assert_eq!(dangling, "other\n");
    assert_eq!(
        space
            .kiln_ok(["volume", "ls", "-q", "--filter", "label=team=web"])
            .stdout,
        "data\n"
    );
    let run = space.kiln_ok(["volume", "inspect", "data"]);
    let shown: serde_json::Value = serde_json::from_str(&run.stdout).expect("JSON");
    assert_eq!(shown[0]["Labels"]["team"], "web");
    // What somebody gave a name is dear to somebody.
    let pruned = space.kiln_ok(["volume", "prune", "--force"]);
    assert_eq!(pruned.stdout, "");
    pruned.assert_says("1 volume with a name stay");
    space
        .kiln(["volume", "prune", "-a"])
        .assert_code(1)
        .assert_says("--force");
    assert_eq!(
        space.kiln_ok(["volume", "prune", "-a", "--force"]).stdout,
        "other\n"
    );
    space.kiln_ok(["rm", "box"]);
    // It outlives the container.
    let run = space.kiln_ok(["run", "--rm", "-v", "data:/d", "app", "cat", "/d/file"]);
    assert_eq!(run.stdout, "kept\n");
    space.kiln_ok(["volume", "rm", "data"]);
    space.kiln(["volume", "rm", "data"]).assert_code(1);
    space.kiln_ok(["volume", "rm", "-f", "data"]);
    space.kiln(["volume", "create", "../x"]).assert_code(1);
}

#[test]
fn a_new_volume_has_what_the_image_has_there() {
    let space = ContainerSpace::new(
        "[image.app.step.data]\nrun = \"mkdir -p /srv/data/sub; echo image > /srv/data/sub/file; chmod 700 /srv/data\"\n",
    );
    let shown = |volume: &str| {
        let mount = format!("{volume}:/srv/data");
        let script = "cat /srv/data/sub/file; stat -c %a /srv/data; echo mine > /srv/data/sub/file";
        space
            .kiln_ok(["run", "--rm", "-v", &mount, "app", "sh", "-c", script])
            .stdout
    };
    assert_eq!(shown("fresh"), "image\n700\n");
    assert_eq!(shown("fresh"), "mine\n700\n", "only once");
    space.kiln_ok(["volume", "create", "made"]);
    assert_eq!(shown("made"), "image\n700\n");
    for flags in [
        ["-v", "empty:/srv/data:nocopy"],
        [
            "--mount",
            "type=volume,source=bare,target=/srv/data,volume-nocopy",
        ],
    ] {
        let run = ["run", "--rm"].iter().chain(&flags);
        let run = run.chain(&["app", "sh", "-c", "ls -A /srv/data"]);
        assert_eq!(space.kiln_ok(run).stdout, "");
    }
    // What is in the image stays as it is.
    let run = space.kiln_ok(["run", "--rm", "app", "cat", "/srv/data/sub/file"]);
    assert_eq!(run.stdout, "image\n");
}

#[test]
fn volumes_travel_as_tars() {
    let space = ContainerSpace::new("");
    let script =
        "mkdir /d/sub; echo x > /d/sub/file; ln -s sub/file /d/link; chmod 640 /d/sub/file";
    space.kiln_ok(["run", "--rm", "-v", "one:/d", "app", "sh", "-c", script]);
    space.kiln_ok(["volume", "export", "one", "-o", "one.tar"]);
    let listed = crate::space::host(
        Command::new("tar")
            .arg("tf")
            .arg(space.project().join("one.tar")),
    );
    assert!(listed.contains("sub/file"), "{listed}");
    space
        .kiln(["volume", "import", "two", "one.tar"])
        .assert_code(1)
        .assert_says("no volume");
    space.kiln_ok(["volume", "create", "two"]);
    space.kiln_ok(["volume", "import", "two", "one.tar"]);
    let run = space.kiln_ok([
        "run",
        "--rm",
        "-v",
        "two:/d",
        "app",
        "sh",
        "-c",
        "cat /d/link; stat -c %a /d/sub/file",
    ]);
    assert_eq!(run.stdout, "x\n640\n");
    // Through a pipe, too.
    let export = space
        .command()
        .args(["volume", "export", "one"])
        .stdout(Stdio::piped())
        .spawn();
    let output = export.expect("kiln starts").stdout.expect("a pipe");
    space.kiln_ok(["volume", "create", "three"]);
    space
        .run(
            space
                .command()
                .args(["volume", "import", "three", "-"])
                .stdin(output),
        )
        .assert_code(0);
    let run = space.kiln_ok(["run", "--rm", "-v", "three:/d", "app", "cat", "/d/link"]);
    assert_eq!(run.stdout, "x\n");
    // What an archive says stays in the volume.
    use crate::fixtures::tar::{file, link, tar};
    let hostile = tar(&[link(b'2', "out", "/etc"), file("out/planted", "x")]);
    std::fs::write(space.project().join("hostile.tar"), hostile).expect("a file");
    space.kiln(["volume", "import", "three", "hostile.tar"]);
    assert!(!std::path::Path::new("/etc/planted").exists());
    let hostile = tar(&[file("../planted", "x")]);
    std::fs::write(space.project().join("hostile.tar"), hostile).expect("a file");
    space
        .kiln(["volume", "import", "three", "hostile.tar"])
        .assert_code(1)
        .assert_says("..");
    assert!(!space.store().join("volumes/three/planted").exists());
}

/// `VOLUME`: each container gets volumes of its own where the image wants them and nothing else is mounted.
#[test]
fn an_image_gets_the_volumes_it_wants() {
    let space = ContainerSpace::new(
        "[image.app.step.seed]\nrun = \"mkdir -p /data /cache; echo seed > /data/seed; chmod 1777 /data\"\n\
         [image.app.config]\nvolumes = [\"/data\", \"/cache\"]\n",
    );
    let volumes = || space.kiln_ok(["volume", "ls", "-q"]).stdout.lines().count();
    let script = "cat /data/*; echo own >> /data/own; grep -c -E ' /(data|cache) ' /proc/mounts";
    // Gone with the container, also in the background, and with `shell`.
    for _ in 0..2 {
        let run = space.kiln(["run", "--rm", "app", "sh", "-c", script]);
        assert_eq!(run.stdout, "seed\n2\n", "{}", run.shown());
    }
    assert_eq!(volumes(), 0);
    space.kiln_ok([
        "run", "-d", "--rm", "--name", "passing", "app", "sleep", "1000",
    ]);
    assert_eq!(volumes(), 2);
    space.kiln_ok(["stop", "-t", "0", "passing"]);
    crate::fixtures::wait_until("its volumes are gone", || volumes() == 0);
    // What one writes is there when it starts again, and not in the layer nor in another container.
    space.kiln_ok(["run", "--name", "one", "app", "sh", "-c", script]);
    assert_eq!(
        space.kiln_ok(["start", "-a", "one"]).stdout,
        "own\nseed\n2\n"
    );
    assert_eq!(space.kiln_ok(["diff", "one"]).stdout, "");
    space.kiln_ok(["create", "--name", "two", "app", "sh", "-c", script]);
    assert_eq!(volumes(), 4);
    assert_eq!(space.kiln_ok(["start", "-a", "two"]).stdout, "seed\n2\n");
    let mounts = space.inspect("one")["Mounts"].clone();
    let places: Vec<_> = mounts
        .as_array()
        .expect("mounts")
        .iter()
        .map(|one| &one["Destination"])
        .collect();
    assert_eq!(places, ["/cache", "/data"]);
    space.kiln_ok(["rm", "-v", "one"]);
    assert_eq!(volumes(), 2);
    space.kiln_ok(["rm", "two"]);
    assert_eq!(volumes(), 2, "without -v they stay");
    let pruned = space.kiln_ok(["volume", "prune", "-f"]);
    assert_eq!(pruned.stdout.lines().count(), 2, "nobody named them");
    // What is mounted there is what counts.
    let flags = ["--tmpfs", "/cache", "-v", "named:/data/"];
    let run = ["run", "--name", "three"];
    let run = space.kiln(run.iter().chain(&flags).chain(&["app", "sh", "-c", script]));
    assert_eq!(run.stdout, "seed\n2\n", "{}", run.shown());
    assert_eq!(space.kiln_ok(["volume", "ls", "-q"]).stdout, "named\n");
    // A step is changed where it is, and has none.
    let run = space.kiln_ok([
        "run",
        "--rm",
        "app.seed",
        "sh",
        "-c",
        "grep -c -E ' /(data|cache) ' /proc/mounts; true",
    ]);
    assert_eq!(run.stdout, "0\n");
}

#[test]
fn an_export_that_cannot_be_made_leaves_the_file_as_it_was() {
    let space = ContainerSpace::new("");
    space.write("kept.tar", "dear");
    space
        .kiln(["volume", "export", "none", "-o", "kept.tar"])
        .assert_code(1)
        .assert_says("no volume `none`");
    space.kiln_ok(["volume", "create", "full"]);
    for arguments in [&["inspect", "ful"][..], &["rm", "ful"], &["export", "ful"]] {
        let run = space.kiln(["volume"].iter().chain(arguments));
        run.assert_code(1).assert_says("did you mean `full`?");
    }
    // Half of it is written when what cannot be archived is met.
    let script =
        "cd /d; echo x > a; n=0; while [ $n -lt 300 ]; do mkdir d; cd d; n=$((n + 1)); done";
    space.kiln_ok(["run", "--rm", "-v", "full:/d", "app", "sh", "-c", script]);
    space
        .kiln(["volume", "export", "full", "-o", "kept.tar"])
        .assert_code(3);
    let kept = std::fs::read_to_string(space.project().join("kept.tar")).expect("a file");
    assert_eq!(kept, "dear");
    let beside = std::fs::read_dir(space.project()).expect("the project");
    let drafts = beside.filter(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().contains("draft")
    });
    assert_eq!(drafts.count(), 0, "no draft is left");
}
