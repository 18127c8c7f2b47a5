//! Siblings run at once, do not see each other, and may not contradict each other.

use super::built;
use crate::events::Build;
use crate::fixtures::{busybox_project, rewrite_busybox_project};

/// Two steps that wait for each other through a cache: only if both run at the same time can
/// both end.
const RENDEZVOUS: &str = r#"
[cache.meet]
[image.app.step.left]
caches = { meet = "/meet" }
run = '''
touch /meet/left
for try in $(seq 200); do [ -e /meet/right ] && exit 0; sleep 0.1; done
exit 9
'''
[image.app.step.right]
caches = { meet = "/meet" }
run = '''
touch /meet/right
for try in $(seq 200); do [ -e /meet/left ] && exit 0; sleep 0.1; done
exit 9
'''
"#;

#[test]
fn siblings_overlap_in_time() {
    let space = busybox_project(RENDEZVOUS);
    let events = built(&space, &[]);
    for (started, ended) in [("app.left", "app.right"), ("app.right", "app.left")] {
        assert!(
            events.position(started, "started") < events.position(ended, "done"),
            "{events:#?}"
        );
    }
}

#[test]
fn a_step_sees_what_it_needs_and_no_sibling() {
    let space = busybox_project(
        r#"
[image.app.step.sibling]
run = "echo s > /sibling"
[image.app.step.needed]
run = "echo n > /needed"
[image.app.step.middle]
needs = ["needed"]
run = "true"
[image.app.step.last]
needs = ["middle"]
run = "[ ! -e /sibling ] && cat /needed > /last"
"#,
    );
    space.kiln_ok(["build"]);
    let run = space.kiln_ok(["run", "app", "cat", "/sibling", "/needed", "/last"]);
    assert_eq!(run.stdout, "s\nn\nn\n");
}

#[test]
fn a_changed_sibling_runs_alone() {
    let manifest = |text: &str| {
        format!(
            "[image.app.step.left]\nrun = \"echo left > /left\"\n\
             [image.app.step.right]\nrun = \"echo {text} > /right\"\n"
        )
    };
    let space = busybox_project(&manifest("one"));
    assert_eq!(
        built(&space, &[]).ran(),
        ["app.left", "app.right", "app:base"]
    );
    rewrite_busybox_project(&space, &manifest("two"));
    assert_eq!(built(&space, &[]).ran(), ["app.right"]);
}

#[test]
fn a_conflict_of_siblings_names_both_steps_and_the_path() {
    // (left, right, the path)
    let conflicts = [
        ("echo 1 > /etc/same", "echo 2 > /etc/same", "/etc/same"),
        ("rm /etc/group", "echo x >> /etc/group", "/etc/group"),
        ("mkdir /thing", "touch /thing", "/thing"),
        (
            "chmod 600 /etc/passwd",
            "chmod 640 /etc/passwd",
            "/etc/passwd",
        ),
        ("rm -r /tmp", "touch /tmp/inside", "/tmp"),
        ("ln -s a /link", "ln -s b /link", "/link"),
    ];
    for (left, right, path) in conflicts {
        let space = busybox_project(&format!(
            "[image.app.step.left-one]\nrun = \"{left}\"\n\
             [image.app.step.right-one]\nrun = \"{right}\"\n"
        ));
        let run = space.kiln(["build"]);
        run.assert_code(1)
            .assert_says("left-one")
            .assert_says("right-one")
            .assert_says(path)
            .assert_says("the other one")
            .assert_says("failed after");
        assert!(!run.stderr.contains("built in"), "{}", run.shown());
        assert_eq!(run.stdout, "", "no image came of it");
    }
}

#[test]
fn a_conflict_is_found_where_a_step_needs_both() {
    let space = busybox_project(
        r#"
[image.app.step.left]
run = "echo 1 > /same"
[image.app.step.right]
run = "echo 2 > /same"
[image.app.step.both]
needs = ["left", "right"]
run = "cat /same"
"#,
    );
    space
        .kiln(["build", "app.both"])
        .assert_code(1)
        .assert_says("left")
        .assert_says("right")
        .assert_says("/same");
}

#[test]
fn equal_results_and_common_folders_are_no_conflict() {
    let space = busybox_project(
        r#"
[image.app.step.left]
run = "mkdir -p /srv/deep; echo same > /srv/deep/same; echo l > /srv/deep/left; rm /etc/group"
[image.app.step.right]
run = "mkdir -p /srv/deep; echo same > /srv/deep/same; echo r > /srv/deep/right; rm /etc/group"
"#,
    );
    let run = space.kiln_ok(["run", "app", "ls", "/srv/deep", "/etc"]);
    assert_eq!(
        run.stdout,
        "/etc:\nhosts\npasswd\n\n/srv/deep:\nleft\nright\nsame\n"
    );
}

#[test]
fn a_failed_step_lets_running_siblings_finish_and_keeps_them() {
    let space = busybox_project(
        r#"
[cache.meet]
[image.app.step.bad]
caches = { meet = "/meet" }
run = "for try in $(seq 200); do [ -e /meet/begun ] && exit 4; sleep 0.1; done; exit 9"
[image.app.step.good]
caches = { meet = "/meet" }
run = "touch /meet/begun; sleep 1; echo good > /good"
[image.app.step.after]
needs = ["bad"]
run = "true"
"#,
    );
    let events = Build::of(&space, &[]);
    events.run.assert_code(1);
    assert!(events.has("app.good", "done"), "{events:#?}");
    assert!(events.has("app.after", "skipped"), "{events:#?}");
    assert_eq!(
        events.of_kind("failed").next().expect("one")["exit_code"],
        4
    );
    assert_eq!(Build::of(&space, &[]).ran(), ["app.bad"]);
}

#[test]
fn keep_going_runs_all_that_can_run() {
    let manifest = r#"
[image.app.step.bad]
run = "exit 4"
[image.app.step.first]
run = "sleep 0.5"
[image.app.step.second]
needs = ["first"]
run = "echo second > /second"
"#;
    let space = busybox_project(manifest);
    let events = Build::of(&space, &["--keep-going", "--jobs", "1"]);
    events.run.assert_code(1);
    assert!(events.has("app.second", "done"), "{events:#?}");
}
