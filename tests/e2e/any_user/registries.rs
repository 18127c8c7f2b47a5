//! Images to registries and back.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fixtures::{Page, Registry, Web, busybox_project};
use crate::space::{Run, TestSpace, host};

const STEPS: &str = r#"
[image.app.step.tree]
run = "mkdir /tree; echo text > /tree/file; ln -s file /tree/soft"
[image.app.config]
entrypoint = ["/bin/cat"]
cmd        = ["/tree/file"]
"#;

/// The digest behind the `@` of the only line.
fn digest(stdout: &str) -> &str {
    stdout
        .trim_end()
        .split_once('@')
        .map(|(_, digest)| digest)
        .unwrap_or_else(|| panic!("no digest in {stdout:?}"))
}

fn inspect(space: &TestSpace, registry: &Registry, name: &str) -> serde_json::Value {
    let inspected = host(
        Command::new("skopeo")
            .args(["inspect", "--tls-verify=false"])
            .arg(format!("docker://{}/{name}", registry.host()))
            .env("HOME", space.path()),
    );
    serde_json::from_str(&inspected).expect("what skopeo says")
}

/// How often a string is in the lines.
fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn what_is_pushed_is_pulled_and_runs() {
    let space = busybox_project(STEPS);
    let registry = Registry::start(&space);
    let name = format!("{}/team/app:1", registry.host());
    space.kiln_ok(["build"]);
    let pushed = space.kiln_ok(["push", "app", &name]);
    assert_eq!(
        count(&pushed.stderr, " compressed "),
        2,
        "{}",
        pushed.shown()
    );
    assert_eq!(count(&pushed.stderr, " pushed "), 3, "{}", pushed.shown());
    assert!(pushed.stdout.starts_with(&format!("{name}@sha256:")));
    let seen = inspect(&space, &registry, "team/app:1");
    assert_eq!(seen["Digest"], digest(&pushed.stdout));

    // The same again sends nothing, and says the same.
    let again = space.kiln_ok(["push", "app", &name]);
    assert_eq!(
        (again.stdout, again.stderr),
        (pushed.stdout.clone(), String::new())
    );

    let other = TestSpace::new();
    let pulled = other.kiln_ok(["pull", &name]);
    assert_eq!(digest(&pulled.stdout), digest(&pushed.stdout));
    assert_eq!(count(&pulled.stderr, " pulled "), 2, "{}", pulled.shown());
    let run = other.kiln_ok(["run", &name]);
    assert_eq!(run.stdout, "text\n");
    let again = other.kiln_ok(["pull", &name]);
    assert_eq!(count(&again.stderr, "already here"), 2, "{}", again.shown());

    // A pulled image leaves with the digest it came with, and its blobs are not sent a second time.
    let third = format!("{}/other/app", registry.host());
    other.kiln_ok(["tag", &name, &third]);
    let moved = other.kiln_ok(["push", &third]);
    assert_eq!(digest(&moved.stdout), digest(&pushed.stdout));
    assert_eq!(
        count(&moved.stderr, "taken from team/app"),
        2,
        "{}",
        moved.shown()
    );
}

#[test]
fn an_image_goes_to_the_tags_it_has_in_the_manifest() {
    let space = busybox_project("");
    let registry = Registry::start(&space);
    let manifest = std::fs::read_to_string(space.project().join("kiln.toml")).expect("a manifest");
    let tags = format!("tags = [\"{0}/a/app:1\", \"{0}/b/app\"]\n", registry.host());
    let manifest = manifest.replace("[image.app]\n", &format!("[image.app]\n{tags}"));
    space.write("kiln.toml", manifest);
    space.kiln_ok(["build"]);
    let pushed = space.kiln_ok(["push", "app"]);
    assert_eq!(pushed.stdout.lines().count(), 2, "{}", pushed.shown());
    for name in ["a/app:1", "b/app:latest"] {
        assert!(pushed.stdout.contains(name), "{}", pushed.shown());
        inspect(&space, &registry, name);
    }
}

#[test]
fn two_compressions_are_one_image() {
    let space = busybox_project(STEPS);
    let registry = Registry::start(&space);
    space.kiln_ok(["build"]);
    let mut ids = Vec::new();
    for method in ["gzip", "zstd"] {
        let name = format!("{}/{method}/app", registry.host());
        space.kiln_ok(["push", "--compress", method, "app", &name]);
        let other = TestSpace::new();
        other.kiln_ok(["pull", &name]);
        assert_eq!(other.kiln_ok(["run", &name]).stdout, "text\n");
        let inspected = other.kiln_ok(["inspect", &name]).stdout;
        let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
        ids.push(inspected["id"].clone());
    }
    assert!(ids[0].is_string() && ids[0] == ids[1], "{ids:?}");
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let space = busybox_project("");
    let registry = Registry::start(&space);
    space.kiln_ok(["build"]);
    let nowhere = space.kiln(["push", "app"]);
    nowhere.assert_code(1);
    nowhere.assert_says("nothing says where to push the image to");
    let missing = space.kiln(["pull", &format!("{}/no/such", registry.host())]);
    missing.assert_code(1);
    missing.assert_says("has no repository");
    let closed = space.kiln(["pull", "127.0.0.1:1/no/such"]);
    closed.assert_code(3);
    closed.assert_says("cannot connect to `127.0.0.1:1`");
    assert_eq!(count(&closed.stderr, "refused"), 1, "{}", closed.shown());
    let pinned = format!("localhost/x@sha256:{}", "0".repeat(64));
    let tagged = space.kiln(["tag", "app", &pinned]);
    tagged.assert_code(1);
    tagged.assert_says("leave out everything from the `@` on");
    // Nothing of it has left a name.
    assert_eq!(space.kiln_ok(["images"]).stdout.lines().count(), 2);
    // One image is one id, however many names it has.
    space.kiln_ok(["tag", "app", "localhost/t/other"]);
    let ids = space.kiln_ok(["images", "-q"]).stdout;
    assert_eq!((ids.lines().count(), ids.trim().len()), (1, 12), "{ids}");
    space.kiln_ok(["rmi", ids.trim()]);
    assert_eq!(space.kiln_ok(["images", "-q"]).stdout, "");
}

#[test]
fn a_short_name_is_not_guessed_in_silence() {
    let space = TestSpace::new();
    let settings = space.path().join("home/.config/kiln");
    std::fs::create_dir_all(&settings).expect("a folder for settings");
    let registry = Registry::start(&space);
    let mirror = format!(
        "[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n",
        registry.host()
    );
    std::fs::write(settings.join("config.toml"), mirror).expect("settings");
    let image = busybox_project(STEPS);
    image.kiln_ok(["build"]);
    image.kiln_ok(["push", "app", &format!("{}/library/tool", registry.host())]);
    let pulled = space.kiln_ok(["pull", "tool"]);
    assert!(
        pulled
            .stderr
            .starts_with("pulling docker.io/library/tool:latest\n")
    );
    assert!(
        pulled
            .stdout
            .starts_with("docker.io/library/tool:latest@sha256:")
    );
    assert_eq!(space.kiln_ok(["run", "tool"]).stdout, "text\n");
}

#[test]
fn a_mirror_that_does_not_answer_is_warned_of_once() {
    let image = busybox_project(STEPS);
    image.kiln_ok(["build"]);
    let space = TestSpace::new();
    let registry = Registry::start(&space);
    image.kiln_ok(["push", "app", &format!("{}/library/tool", registry.host())]);
    let settings = space.path().join("home/.config/kiln");
    std::fs::create_dir_all(&settings).expect("a folder for settings");
    // Nobody listens there: it is no port for anybody.
    let mirrors = format!(
        "[registry.\"docker.io\"]\nmirrors = [\"127.0.0.1:1\", \"{}\"]\n",
        registry.host()
    );
    std::fs::write(settings.join("config.toml"), mirrors).expect("settings");
    let warning = "warning: the mirror `127.0.0.1:1` is of no help: ";
    let pulled = space.kiln_ok(["pull", "tool"]);
    let told = |run: &Run| run.stderr.matches("127.0.0.1:1`").count();
    pulled.assert_says(warning);
    assert_eq!(
        pulled.stderr.matches(warning).count(),
        1,
        "{}",
        pulled.shown()
    );
    let quiet = space.kiln_ok(["pull", "--quiet", "tool"]);
    assert_eq!(told(&quiet), 0, "{}", quiet.shown());
    let off = space.run(
        space
            .command()
            .args(["pull", "tool"])
            .env("KILN_LOG", "off"),
    );
    assert_eq!(told(&off), 0, "{}", off.shown());
    let json = space.kiln_ok(["pull", "--progress", "json", "tool"]);
    let mut lines = json.stderr.lines().filter(|line| line.starts_with('{'));
    assert!(
        lines.any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            line["event"] == "warning" && line["message"].to_string().contains("127.0.0.1:1")
        }),
        "{}",
        json.shown()
    );
    let wrong = space.run(
        space
            .command()
            .args(["pull", "tool"])
            .env("KILN_LOG", "loud"),
    );
    wrong.assert_code(1).assert_says("`KILN_LOG` is `loud`");
}

#[test]
fn a_registry_that_wants_to_be_asked_later_is_told_of() {
    let busy = Page {
        header: "retry-after: 60\r\n",
        ..Page::status(429)
    };
    let web = Web::start([("/v2/", Page::ok("{}")), ("/v2/a/manifests/latest", busy)]);
    let space = TestSpace::new();
    let host = web.url("").trim_start_matches("http://").to_owned();
    let mut waiting = space
        .command()
        .args(["pull", &format!("{host}/a")])
        .stderr(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    let stderr = BufReader::new(waiting.stderr.take().expect("a pipe"));
    let expected =
        format!("warning: `{host}` wants to be asked again in 60 s: waiting (try 2 of 6)");
    let mut said = Vec::new();
    for line in stderr.lines().map_while(Result::ok) {
        said.push(line);
        // It says what it pulls, and that to a user with one id all files will belong to that one.
        if said.last() == Some(&expected) || said.len() == 3 {
            break;
        }
    }
    waiting.kill().expect("it waits");
    waiting.wait().expect("it ends");
    assert_eq!(said.last(), Some(&expected), "{said:?}");
}

#[test]
fn what_a_mirror_lacks_or_refuses_is_said_of_the_mirror() {
    let image = busybox_project(STEPS);
    image.kiln_ok(["build"]);
    let space = TestSpace::new();
    let registry = Registry::start(&space);
    let name = format!("{}/team/tool:1", registry.host());
    image.kiln_ok(["push", "app", &name]);
    let guarded = Registry::start_guarded(&space);
    let empty = TestSpace::new();
    let empty = Registry::start(&empty);
    let settings = space.path().join("home/.config/kiln");
    std::fs::create_dir_all(&settings).expect("a folder for settings");
    let mirrors = format!(
        "[registry.\"{}\"]\nmirrors = [\"{}/hub\", \"{}/hub\"]\n",
        registry.host(),
        empty.host(),
        guarded.host()
    );
    std::fs::write(settings.join("config.toml"), mirrors).expect("settings");
    // To lack something is in the nature of a mirror.
    let pulled = space.kiln_ok(["pull", &name]);
    assert!(!pulled.stderr.contains(&empty.host()), "{}", pulled.shown());
    let curious = space.kiln_ok(["--verbose", "pull", &name]);
    curious.assert_says(&format!(
        "detail: the mirror `{0}` does not have it: `{0}` has no repository `hub/team/tool`",
        empty.host()
    ));
    pulled
        .assert_says(&format!(
            "`{}` does not let anonymous users read `hub/team/tool`",
            guarded.host()
        ))
        .assert_says(&format!("kiln login {}`", guarded.host()));
}

#[test]
fn what_is_run_and_not_here_is_pulled() {
    let image = busybox_project(STEPS);
    let registry = Registry::start(&image);
    let name = format!("{}/team/tool", registry.host());
    image.kiln_ok(["build"]);
    image.kiln_ok(["push", "app", &name]);
    let space = TestSpace::new();
    let never = space.kiln(["run", "--pull", "never", &name]);
    never.assert_code(125);
    never.assert_says("there is no image");
    let first = space.kiln_ok(["run", &name]);
    assert_eq!(first.stdout, "text\n");
    assert!(first.stderr.starts_with("pulling "), "{}", first.shown());
    assert_eq!(space.kiln_ok(["run", &name]).stderr, "");
    let always = space.kiln_ok(["run", "--pull", "always", &name]);
    assert!(always.stderr.contains("already here"), "{}", always.shown());
    // In a project a plain word is its own, however it is misspelt.
    let misspelt = image.kiln(["run", "ap"]);
    misspelt.assert_code(125);
    misspelt.assert_says("did you mean `app`?");
}

#[test]
fn an_interrupted_pull_goes_on() {
    let space = busybox_project(
        "[image.app.step.large]\nrun = \"dd if=/dev/urandom of=/large bs=1M count=64\"\n",
    );
    let registry = Registry::start(&space);
    let name = format!("{}/large/app", registry.host());
    space.kiln_ok(["build"]);
    space.kiln_ok(["push", "app", &name]);
    let other = TestSpace::new();
    let partial = other.store().join("partial/blobs");
    let mut killed = other.command().args(["pull", &name]).spawn().expect("kiln");
    let begun = |folder: &Path| {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        files
            .filter_map(|file| file.metadata().ok())
            .any(|it| it.len() > 1 << 20)
    };
    let mut waited = 0;
    while !begun(&partial) && waited < 2000 && killed.try_wait().expect("a child").is_none() {
        std::thread::sleep(std::time::Duration::from_millis(5));
        waited += 1;
    }
    killed.kill().expect("kiln can be killed");
    killed.wait().expect("a child");
    other.kiln_ok(["pull", &name]);
    let verified = other.kiln_ok(["run", &name, "sha256sum", "/large"]).stdout;
    let expected = space.kiln_ok(["run", "app", "sha256sum", "/large"]).stdout;
    assert_eq!(verified, expected);
}
