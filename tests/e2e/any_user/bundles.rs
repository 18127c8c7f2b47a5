//! `kiln oci-runtime` as an ordinary user runs it: root inside is that user.

use std::fs;

use serde_json::{Value, json};

use crate::fixtures::Bundle;

#[test]
fn a_bundle_runs_and_its_code_comes_back() {
    let script = "id -u; pwd; cat /proc/self/uid_map; touch /tmp/new && ls /tmp; exit 7";
    let bundle = Bundle::new(script, &["--rootless"], |config| {
        config["root"]["readonly"] = json!(false);
    });
    let run = bundle.kiln(&["run", "--bundle", "bundle", "one"]);
    run.assert_code(7);
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines[..2], ["0", "/"], "{}", run.shown());
    let map: Vec<&str> = lines[2].split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "1"), "{}", run.shown());
    assert_eq!(lines[3], "new");
    assert_eq!(bundle.ok(&["list", "-q"]).stdout, "");
}

#[test]
fn a_container_goes_through_its_life() {
    let bundle = Bundle::new("echo started; exec sleep 60", &["--rootless"], |_| {});
    let output = bundle.create("one");
    assert_eq!(bundle.status("one"), "created");
    assert_eq!(fs::read_to_string(&output).unwrap(), "");
    bundle
        .kiln(&["create", "--bundle", "bundle", "one"])
        .assert_code(1)
        .assert_says("exists");
    bundle.ok(&["start", "one"]);
    assert_eq!(bundle.status("one"), "running");
    bundle
        .kiln(&["start", "one"])
        .assert_code(1)
        .assert_says("running");
    bundle
        .kiln(&["delete", "one"])
        .assert_code(1)
        .assert_says("running");
    let exec = bundle.kiln(&[
        "exec",
        "--cwd",
        "/tmp",
        "--env",
        "A=b",
        "one",
        "sh",
        "-c",
        "pwd; echo $A; exit 4",
    ]);
    exec.assert_code(4);
    assert_eq!(exec.stdout, "/tmp\nb\n");
    bundle.ok(&["kill", "one", "SIGKILL"]);
    bundle.wait("one");
    assert_eq!(fs::read_to_string(&output).unwrap(), "started\n");
    bundle
        .kiln(&["kill", "one"])
        .assert_code(1)
        .assert_says("not running");
    bundle.ok(&["delete", "one"]);
    bundle
        .kiln(&["state", "one"])
        .assert_code(1)
        .assert_says("does not exist");
    bundle.ok(&["delete", "--force", "one"]);
}

#[test]
fn what_cannot_be_leaves_nothing_and_says_why() {
    let bundle = Bundle::new("true", &["--rootless"], |_| {});
    let refused = |change: &dyn Fn(&mut Value), says: &str| {
        let path = bundle.space.project().join("bundle/config.json");
        let before = fs::read(&path).unwrap();
        bundle.rewrite(change);
        bundle
            .kiln(&["create", "--bundle", "bundle", "one"])
            .assert_code(1)
            .assert_says(says);
        fs::write(path, before).unwrap();
        assert_eq!(bundle.ok(&["list", "-q"]).stdout, "");
    };
    refused(
        &|config| config["process"]["args"] = json!(["nosuch"]),
        "executable file not found in $PATH",
    );
    refused(
        &|config| config["process"]["args"] = json!(["/etc"]),
        "permission denied",
    );
    refused(
        &|config| config["process"]["cwd"] = json!("tmp"),
        "absolute",
    );
    refused(&|config| config["process"]["args"] = json!([]), "empty");
    refused(
        &|config| config["root"]["path"] = json!("nosuch"),
        "not a directory",
    );
    refused(
        &|config| config["ociVersion"] = json!("2.0.0"),
        "ociVersion",
    );
    refused(
        &|config| config["linux"]["sysctl"] = json!({ "kernel.core_pattern": "x" }),
        "host",
    );
    refused(
        &|config| config["linux"]["namespaces"][0] = json!({ "type": "mount" }),
        "more than one",
    );
    refused(
        &|config| config["hostname"] = json!("x".repeat(65)),
        "host name",
    );
    refused(
        &|config| config["process"]["terminal"] = json!(true),
        "console socket",
    );
    for id in ["", "..", "a/b", "a b"] {
        bundle
            .kiln(&["create", "--bundle", "bundle", id])
            .assert_code(1)
            .assert_says("container id");
    }
}

#[test]
fn errors_go_to_the_log_in_the_form_that_callers_read() {
    let bundle = Bundle::new("true", &["--rootless"], |_| {});
    let log = bundle.space.path().join("log");
    let log_text = log.display().to_string();
    bundle
        .kiln(&[
            "--log",
            &log_text,
            "--log-format",
            "json",
            "state",
            "nosuch",
        ])
        .assert_code(1);
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container `nosuch` does not exist");
}

#[test]
fn it_says_what_it_can_do() {
    let bundle = Bundle::new("true", &["--rootless"], |_| {});
    let features: Value = serde_json::from_str(&bundle.ok(&["features"]).stdout).unwrap();
    assert_eq!(features["ociVersionMax"], "1.2.1");
    let options = features["mountOptions"].as_array().unwrap();
    for option in ["rro", "ridmap", "tmpcopyup", "rslave", "nosymfollow"] {
        assert!(options.contains(&json!(option)), "{option}");
    }
    assert!(bundle.ok(&["--version"]).stdout.contains("spec: 1.2.1"));
}

#[test]
fn a_link_with_the_runtimes_name_is_the_runtime() {
    let bundle = Bundle::new("true", &["--rootless"], |_| {});
    let link = bundle.space.path().join("kiln-oci-runtime");
    std::os::unix::fs::symlink(crate::space::kiln_program(), &link).unwrap();
    let shown = crate::space::host(std::process::Command::new(link).arg("--version"));
    assert!(shown.starts_with("kiln-oci-runtime version"), "{shown}");
}
