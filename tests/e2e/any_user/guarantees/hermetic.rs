//! A step sees what the manifest says, and a secret is nowhere afterwards.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use super::built;
use crate::events::Build;
use crate::fixtures::busybox_project;
use crate::space::{TestSpace, host};

#[test]
fn a_step_has_no_network_unless_it_asks() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = thread::spawn(move || {
        // Ends with the first request, which only the step with a network can make.
        let (mut stream, _) = listener.accept().expect("a request");
        let mut request = [0; 1024];
        let read = stream.read(&mut request).expect("readable");
        stream
            .write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nhi\n")
            .expect("answered");
        read
    });
    let space = busybox_project(&format!(
        "[image.app.step.closed]\n\
         run = \"! wget -q -O - http://127.0.0.1:{port}/ && ! ping -c 1 -W 1 192.0.2.1\"\n\
         [image.app.step.open]\nneeds = [\"closed\"]\nnetwork = true\n\
         run = \"wget -q -O /got http://127.0.0.1:{port}/\"\n"
    ));
    space.kiln_ok(["build"]);
    assert!(server.join().expect("no panic") > 0);
    let run = space.kiln_ok(["run", "app", "cat", "/got"]);
    assert_eq!(run.stdout, "hi\n");
}

#[test]
fn a_step_sees_no_file_process_name_or_variable_of_the_host() {
    let space = busybox_project(
        r#"
[image.app.step.look]
files = ["in"]
workdir = "/work"
run = '''
echo "work: $(ls -A)"
echo "above: $(ls -A /)"
echo "processes: $(ls -d /proc/[0-9]* | wc -l)"
echo "host: $(hostname)"
echo "descriptors: $(ls /proc/self/fd | wc -l)"
env | cut -d= -f1 | sort
'''
"#,
    );
    space.write("in", "in");
    space.write("out", "out");
    let mut command = space.command();
    command
        .args(["build", "--progress", "json"])
        .env("HOST_ONLY", "leak")
        .env("LD_PRELOAD_X", "leak")
        .env("http_proxy", "");
    let run = space.run(&mut command);
    run.assert_code(0);
    let output = Build::from(run).output("app.look");
    assert_eq!(output.first().map(String::as_str), Some("work: in"));
    let text = output.join("\n");
    for leak in ["HOST_ONLY", "LD_PRELOAD_X", "KILN_HOME", "TMPDIR", "out"] {
        assert!(!output.iter().any(|line| line == leak), "{leak}: {text}");
    }
    assert!(text.contains("host: kiln"), "{text}");
    // Its own shell, and those of the command substitution and the pipe in it.
    assert!(
        text.contains("processes: 3") || text.contains("processes: 4"),
        "{text}"
    );
    for folder in ["home", "usr", "var", "work/out", "boot"] {
        assert!(!output.contains(&folder.to_owned()), "{folder}: {text}");
    }
    // What the host's folders are called is not to be found in any table of the kernel either.
    let run = space.kiln_ok(["run", "app", "cat", "/proc/self/mountinfo"]);
    assert!(!run.stdout.contains("[SPACE]/project"), "{}", run.stdout);
}

const SECRET: &str = "hunter2-7f3a9c-very-secret";
const FILE_SECRET: &str = "swordfish-55b1e0-very-secret";

#[test]
fn a_secret_is_seen_by_its_step_and_is_nowhere_afterwards() {
    let space = busybox_project(
        r#"
[secret.token]
env = "TOKEN"
[secret.key]
file = "key.txt"
[secret.missing]
env = "NOT_SET"
optional = true
[image.app.step.use]
secrets = ["key", { secret = "token", env = "THE_TOKEN" }, { secret = "missing", env = "NONE" }]
run = '''
echo "${#THE_TOKEN} $(wc -c < /run/secrets/key) ${NONE-unset}" > /lengths
echo "$THE_TOKEN $(cat /run/secrets/key)" | sha256sum | cut -c 1-8 > /hash
ls -l /run/secrets/key
'''
[image.app.step.other]
run = "[ ! -e /run/secrets ] && [ -z \"$THE_TOKEN\" ]"
[image.app.step.failing]
needs = ["use"]
secrets = ["key", { secret = "token", env = "THE_TOKEN" }]
run = "test -s /run/secrets/key; exit 5"
"#,
    );
    space.write("key.txt", FILE_SECRET);
    let mut command = space.command();
    command
        .args(["build", "--keep-going", "--progress", "json"])
        .env("TOKEN", SECRET);
    let failed = Build::from(space.run(&mut command));
    failed.run.assert_code(1);
    assert_eq!(failed.steps("failed"), ["app.failing"]);
    let manifest = fs::read_to_string(space.project().join("kiln.toml"))
        .expect("there")
        .replace("exit 5", "exit 0");
    space.write("kiln.toml", manifest);
    let mut command = space.command();
    command
        .args(["build", "--progress", "json"])
        .env("TOKEN", SECRET);
    let run = space.run(&mut command);
    run.assert_code(0);
    let lengths = space.kiln_ok(["run", "--rm", "app", "cat", "/lengths"]);
    assert_eq!(
        lengths.stdout,
        format!("{} {} unset\n", SECRET.len(), FILE_SECRET.len())
    );
    // Nor the folder they were mounted in.
    space.kiln_ok(["run", "--rm", "app", "sh", "-c", "[ ! -e /run ]"]);
    let mut said = failed.run.shown() + &run.shown();
    for arguments in [
        &["log", "app.use"][..],
        &["history", "app", "--format", "json"],
        &["inspect", "app"],
    ] {
        said += &space.kiln_ok(arguments).shown();
    }
    for secret in [SECRET, FILE_SECRET] {
        assert!(!said.contains(secret), "{said}");
        assert_nowhere(&space, secret);
    }
    // A value is no part of the key; the control shows that it is another value.
    space.write("key.txt", "another value");
    let mut command = space.command();
    command
        .args(["build", "--progress", "json"])
        .env("TOKEN", "also another");
    let run = space.run(&mut command);
    assert_eq!(Build::from(run).ran(), Vec::<String>::new());
}

/// No file below the store holds this text, nor a name or a link.
#[track_caller]
fn assert_nowhere(space: &TestSpace, text: &str) {
    let store = space.store();
    let found = space.run(
        Command::new("grep")
            .args([
                "--recursive",
                "--binary-files=text",
                "--files-with-matches",
                "--fixed-strings",
            ])
            .arg(text)
            .arg(&store)
            .env("LC_ALL", "C"),
    );
    assert_eq!(
        (found.code, &*found.stdout),
        (Some(1), ""),
        "{}",
        found.shown()
    );
    assert_no_name(&store, text);
}

fn assert_no_name(folder: &Path, text: &str) {
    let names = host(Command::new("find").arg(folder));
    assert!(!names.contains(text), "{names}");
}

#[test]
fn a_step_that_writes_its_secret_to_the_log_writes_stars() {
    let space = busybox_project(
        r#"
[secret.token]
env = "TOKEN"
[image.app.step.use]
secrets = [{ secret = "token", env = "THE_TOKEN" }]
run = "echo \"it is $THE_TOKEN.\"; printf '%s' \"$THE_TOKEN\" | cut -c 1-5 | tr -d '\\n'; printf '%s\\n' \"$THE_TOKEN\" | cut -c 6-"
"#,
    );
    let mut command = space.command();
    command
        .args(["build", "--progress", "json"])
        .env("TOKEN", SECRET);
    let run = space.run(&mut command);
    run.assert_code(0);
    assert_eq!(Build::from(run).output("app.use"), ["it is ***.", "***"]);
    assert_eq!(
        space.kiln_ok(["log", "app.use"]).stdout,
        "it is ***.\n***\n"
    );
    assert_nowhere(&space, SECRET);
}

#[test]
fn a_missing_secret_is_an_error_for_who_uses_it_only() {
    let space = busybox_project(
        r#"
[secret.token]
env = "TOKEN"
[image.app.step.use]
secrets = ["token"]
run = "true"
[image.app.step.other]
run = "true"
"#,
    );
    space.kiln_ok(["build", "app.other"]);
    space
        .kiln(["build", "app.use"])
        .assert_code(1)
        .assert_says("token")
        .assert_says("TOKEN");
}

#[test]
fn what_a_step_does_outside_its_layer_is_gone() {
    let space = busybox_project(
        r#"
[image.app.step.one]
files = ["in"]
workdir = "/work"
run = "echo changed > in; touch junk /tmp/kept /dev/shm/gone; echo x > /kept"
"#,
    );
    space.write("in", "in");
    built(&space, &[]);
    assert_eq!(
        fs::read_to_string(space.project().join("in")).expect("there"),
        "in"
    );
    let run = space.kiln_ok([
        "run", "app", "find", "/", "-xdev", "-name", "[wjgk]*", "-not", "-name", "group", "-not",
        "-path", "/bin/*",
    ]);
    let mut found: Vec<&str> = run.stdout.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["/kept", "/tmp/kept"], "{}", run.shown());
}

#[test]
fn a_secret_behind_a_link_out_of_the_project_is_not_read() {
    let space = busybox_project(
        r#"
[secret.key]
file = "key"
[image.app.step.use]
secrets = ["key"]
run = "cat /run/secrets/key | wc -c > /length"
[service.web]
image = "app"
secrets = ["key"]
"#,
    );
    let key = space.project().join("key");
    let point_to = |target: &Path| {
        let link = space.project().join("new");
        std::os::unix::fs::symlink(target, &link).expect("a link");
        fs::rename(link, &key).expect("in its place");
    };
    point_to(Path::new("/etc/hostname"));
    space
        .kiln(["build"])
        .assert_code(1)
        .assert_says("leads out of the project");
    // One that stays in the project is followed.
    space.write("real", "1234");
    point_to(Path::new("real"));
    space.kiln_ok(["run", "-d", "--name", "box", "web", "sleep", "1000"]);
    let length = space.kiln_ok(["exec", "box", "cat", "/length"]).stdout;
    assert_eq!(length, "4\n");
    // A container may write to the project, and is started again.
    space.kiln_ok(["stop", "-t", "0", "box"]);
    point_to(Path::new("/etc/hostname"));
    let started = space.kiln(["start", "box"]);
    assert_ne!(started.code, Some(0), "{}", started.shown());
    started.assert_says("leads out of the project");
    space.kiln_ok(["rm", "-f", "box"]);
}

/// Equal files at several paths: of one layer, of several, copied by a step, of the project.
const EQUAL_FILES: &str = r#"
[image.app.step.one]
run = "mkdir /one && echo same > /one/a && cp /one/a /one/b"
[image.app.step.two]
write = { "/two" = "same\n" }
[image.app.step.three]
copy = [{ from = "app.one", path = "/one/a", to = "/three" }]
[image.app.step.four]
copy = [{ files = ["f*"], to = "/four" }]
[image.app.step.sees]
needs   = ["one", "two", "three", "four"]
files   = ["f*"]
workdir = "/work"
run     = """
cp f1 f2
cp /one/a /one/b
cp /one/a /two
cp /two /three
cp /three /four/f1
mkdir /out
cp -a /one /two /three /four /out
test "$(find /out -type f -links 1 | wc -l)" = 6
"""
"#;

#[test]
fn equal_files_are_not_taken_for_hard_links_of_each_other() {
    let space = busybox_project(EQUAL_FILES);
    space.write("f1", "same\n");
    space.write("f2", "same\n");
    built(&space, &[]);
    let script =
        "cp /one/a /one/b && cp /one/a /two && cp /four/f1 /four/f2 && cp /out/one/a /out/one/b";
    space.kiln_ok(["run", "--rm", "app", "sh", "-c", script]);
}
