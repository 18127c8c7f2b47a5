//! Whatever ends kiln, the next build finds a store that works, and nothing else is left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::events::Build;
use crate::fixtures::busybox_project;
use crate::leaks;
use crate::space::{TestSpace, host};

/// Steps of every kind of work: many files, a large file, a chain, copies.
const STEPS: &str = r#"
[image.app.step.many]
run = "mkdir /many; for i in $(seq 400); do echo $i > /many/$i; done"
[image.app.step.large]
run = "dd if=/dev/zero of=/large bs=1M count=24 2>/dev/null; sleep 0.1"
[image.app.step.first]
files = ["src/**"]
workdir = "/work"
run = "cat src/* > /first; sleep 0.1"
[image.app.step.second]
needs = ["first"]
run = "cat /first /first > /second"
[image.app.step.copied]
copy = [{ from = "app.many", path = "/many", to = "/copied" }, { files = ["src/**"], to = "/srv" }]
[image.app.step.words]
write = { "/etc/motd" = "hello\n" }
"#;

fn project() -> TestSpace {
    let space = busybox_project(STEPS);
    for number in 0..20 {
        space.write(&format!("src/{number}"), format!("{number}\n"));
    }
    space
}

fn start(space: &TestSpace, arguments: &[&str]) -> Child {
    space
        .command()
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kiln starts")
}

fn send(signal: &str, child: &Child) {
    host(Command::new("kill").args([signal, &child.id().to_string()]));
}

/// Control groups that this process made.
fn groups(process: u32) -> Vec<String> {
    let listed = Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-maxdepth",
            "4",
            "-type",
            "d",
            "-name",
            &format!("kiln-{process}-*"),
        ])
        .output()
        .expect("find runs");
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Whether nobody is in a control group any more; one that is gone meanwhile is.
fn is_empty(group: &str) -> bool {
    let read = |file: &str| fs::read_to_string(format!("{group}/{file}")).unwrap_or_default();
    read("cgroup.procs").is_empty() && !read("cgroup.events").contains("populated 1")
}

#[test]
fn killed_again_and_again_it_still_makes_the_right_image() {
    let right = Build::ok(&project(), &["--jobs", "1"]).digest();
    let space = project();
    let mut delay = 7_u64;
    for round in 0..25 {
        let mut child = start(&space, &["build", "--progress", "plain"]);
        // Odd steps over the whole length of a build.
        delay = (delay * 29 + 13) % 601;
        thread::sleep(Duration::from_millis(delay));
        if child.try_wait().expect("a child").is_none() {
            send("-KILL", &child);
        }
        child.wait().expect("it ended");
        assert_eq!(
            leaks::below(space.path()),
            [""; 0],
            "round {round}, {delay} ms"
        );
        if round % 8 == 7 {
            // From the beginning again, but with all that the killed ones left.
            space.kiln_ok(["gc"]);
        }
    }
    let build = Build::ok(&space, &[]);
    assert_eq!(build.digest(), right);
    assert_eq!(unfinished(&space), "");
    // What is in the image is whole.
    let run = space.kiln_ok([
        "run", "app", "sh", "-c",
        "ls /many | wc -l; ls /copied | wc -l; cat /copied/400; stat -c %s /large; wc -l < /second; cat /etc/motd",
    ]);
    assert_eq!(run.stdout, "400\n400\n400\n25165824\n40\nhello\n");
}

/// Files in the store that belong to no result.
fn unfinished(space: &TestSpace) -> String {
    let store = space.store();
    host(
        Command::new("find")
            .args(["tmp", "trash", "sessions", "-type", "f"])
            .current_dir(store),
    )
}

#[test]
fn what_failed_and_interrupted_steps_wrote_is_cleared_away_at_once() {
    let space = busybox_project(
        r#"
[image.app.step.bad]
run = "dd if=/dev/zero of=/large bs=1M count=8 2>/dev/null; [ -e /proc/never ]"
[image.app.step.slow]
run = "dd if=/dev/zero of=/large bs=1M count=8 2>/dev/null; echo begun; sleep 1000"
"#,
    );
    space.kiln(["build", "app.bad"]).assert_code(1);
    assert_eq!(unfinished(&space), "");
    let mut child = start(&space, &["build", "app.slow", "--progress", "plain"]);
    until(&mut child, "begun");
    send("-INT", &child);
    child.wait().expect("it ended");
    assert_eq!(unfinished(&space), "");
}

#[test]
fn no_empty_control_group_is_left_after_the_next_build() {
    let space = busybox_project(
        "[image.app.step.slow]\nrun = \"echo begun; sleep 1000\"\n\
         [image.app.step.quick]\nrun = \"true\"\n",
    );
    let mut child = start(&space, &["build", "--progress", "plain"]);
    until(&mut child, "begun");
    send("-KILL", &child);
    child.wait().expect("it ended");
    // The kernel ends the step's processes, but not at once; a group that has some is left alone.
    let killed = Instant::now();
    while groups(child.id()).iter().any(|group| !is_empty(group)) {
        assert!(killed.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(20));
    }
    space.kiln_ok(["build", "app.quick"]);
    assert_eq!(groups(child.id()), [""; 0]);
}

/// Reads standard error until a line has this in it.
#[track_caller]
fn until(child: &mut Child, text: &str) {
    let mut reader = BufReader::new(child.stderr.take().expect("a pipe"));
    let mut line = String::new();
    loop {
        line.clear();
        let read = reader.read_line(&mut line).expect("readable");
        assert_ne!(read, 0, "no `{text}`");
        if line.contains(text) {
            break;
        }
    }
    // Nobody must wait for a full pipe.
    thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
}

#[test]
fn a_signal_ends_a_build_soon_with_its_code_and_the_next_build_is_fine() {
    let space = busybox_project(
        r#"
[image.app.step.quick]
run = "echo quick > /quick"
[image.app.step.stubborn]
needs = ["quick"]
run = "trap '' INT TERM HUP; (setsid sleep 1000 &); echo begun; while true; do sleep 1; done"
"#,
    );
    for (signal, expected) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let mut child = start(&space, &["build", "--progress", "plain"]);
        until(&mut child, "begun");
        let sent = Instant::now();
        send(signal, &child);
        let code = child.wait().expect("it ended").code();
        assert_eq!(code, Some(expected), "{signal}");
        // Not a measurement: the step would run for ever.
        assert!(sent.elapsed() < Duration::from_secs(30), "{signal}");
        assert_eq!(leaks::below(space.path()), [""; 0], "{signal}");
    }
    let build = Build::ok(&space, &["app.quick"]);
    assert!(build.has("app.quick", "hit"), "{}", build.run.shown());
}

#[test]
fn what_is_ignored_when_a_build_starts_stays_ignored() {
    let space = busybox_project(
        "[image.app.step.slow]\nrun = \"echo begun; sleep 2; trap 'echo heard > /heard' HUP; kill -HUP $$\"\n",
    );
    let template = space.command();
    let mut command = Command::new("sh");
    let kiln = template.get_program();
    command.env_clear().current_dir(space.project());
    command.envs(
        template
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    // As `nohup` does, and a script that starts something in the background.
    let script = "trap '' HUP INT QUIT TERM; exec \"$0\" build --progress plain";
    let mut child = command
        .args(["-c", script])
        .arg(kiln)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sh");
    until(&mut child, "begun");
    for signal in ["-HUP", "-INT", "-TERM"] {
        send(signal, &child);
    }
    assert_eq!(child.wait().expect("it ended").code(), Some(0));
    // Nothing of it reaches what runs in a sandbox.
    let heard = space
        .kiln_ok(["run", "--rm", "app", "cat", "/heard"])
        .stdout;
    assert_eq!(heard, "heard\n");
}

#[test]
fn two_builds_of_one_project_at_once_both_end_well() {
    let space = project();
    let right = Build::ok(&project(), &[]).digest();
    let children: Vec<Child> = (0..4)
        .map(|_| start(&space, &["build", "--progress", "json"]))
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("it ended");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains(&right), "{text}");
    }
    assert_eq!(Build::ok(&space, &[]).ran(), Vec::<String>::new());
}

#[test]
fn gc_during_builds_and_containers_takes_nothing_that_is_used() {
    let space = project();
    let right = Build::ok(&space, &[]).digest();
    let mut container = space
        .command()
        .args([
            "run",
            "app",
            "sh",
            "-c",
            "sleep 2; cat /second | wc -l; cat /copied/7",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kiln starts");
    for _ in 0..6 {
        let mut child = start(&space, &["build", "--no-cache", "--progress", "plain"]);
        space.kiln_ok(["gc"]);
        space.kiln_ok(["gc", "--keep", "1B"]);
        assert!(child.wait().expect("it ended").success());
    }
    let mut text = String::new();
    std::io::Read::read_to_string(&mut container.stdout.take().expect("a pipe"), &mut text)
        .expect("text");
    assert!(container.wait().expect("it ended").success());
    assert_eq!(text, "40\n7\n");
    assert_eq!(Build::ok(&space, &[]).digest(), right);
}

#[test]
fn a_hundred_layers_build_and_run() {
    let mut steps = String::new();
    for number in 0..100 {
        let needs = match number {
            0 => String::new(),
            number => format!("needs = [\"s{}\"]\n", number - 1),
        };
        steps.push_str(&format!(
            "[image.app.step.s{number}]\n{needs}write = {{ \"/layers/{number}\" = \"{number}\\n\" }}\n"
        ));
    }
    steps.push_str("[image.app.step.last]\nneeds = [\"s99\"]\nrun = \"cat /layers/* | wc -l > /count; rm /layers/50\"\n");
    let space = busybox_project(&steps);
    space.kiln_ok(["build"]);
    let run = space.kiln_ok([
        "run",
        "app",
        "sh",
        "-c",
        "cat /count; ls /layers | wc -l; cat /layers/0 /layers/99",
    ]);
    assert_eq!(run.stdout, "100\n99\n0\n99\n");
    assert_eq!(Build::ok(&space, &[]).ran(), Vec::<String>::new());
}

#[test]
fn damage_to_a_record_of_the_store_costs_work_and_no_build() {
    let space = project();
    let right = Build::ok(&space, &[]).digest();
    for folder in ["steps", "history", "stacks", "checks", "projects"] {
        let files = host(
            Command::new("find")
                .arg(space.store().join(folder))
                .args(["-type", "f", "-not", "-path", "*/fs/*"]),
        );
        for file in files.lines() {
            fs::write(file, "{ damaged").expect("written");
        }
        let build = Build::of(&space, &[]);
        assert_eq!(build.run.code, Some(0), "{folder}: {}", build.run.shown());
        assert_eq!(build.digest(), right, "{folder}");
    }
}
