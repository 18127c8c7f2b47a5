//! Profiles of system calls in files, as docker's users have them.

use std::fs;

use crate::fixtures::ContainerSpace;

/// All but making folders.
const NO_FOLDERS: &str = r#"{
    "defaultAction": "SCMP_ACT_ALLOW",
    "archMap": [
        { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
        { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] }
    ],
    "syscalls": [
        { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
        {
            "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28,
            "includes": { "caps": ["CAP_SYS_ADMIN"] }
        },
        { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28, "args": [{ "index": 1, "value": 12, "op": "SCMP_CMP_EQ" }] }
    ]
}"#;

const FULL: &str = "No space left on device";

#[test]
fn a_profile_holds_for_all_that_runs_in_its_container() {
    let space = ContainerSpace::new("");
    space.write("profile.json", NO_FOLDERS);
    let profile = "seccomp=profile.json";
    // Whoever has only one id has owners pretended, whatever the profile says.
    let script = "mkdir /one; hostname x; kill -12 $$; kill -0 $$ && echo alive; \
                  touch /own; chown 7:7 /own && echo owned";
    for (flags, hostname) in [
        (&[][..], "Operation not permitted"),
        (&["--cap-add", "SYS_ADMIN"], FULL),
        (&["--init"], "Operation not permitted"),
        (&["--runtime", "crun"], "Operation not permitted"),
    ] {
        let run = space.kiln(
            ["run", "--rm", "--security-opt", profile]
                .iter()
                .chain(flags)
                .chain(&["app", "sh", "-c", script]),
        );
        run.assert_code(0)
            .assert_says(&format!("mkdir: can't create directory '/one': {FULL}"))
            .assert_says(&format!("hostname: sethostname: {hostname}"));
        assert_eq!(run.stdout, "alive\nowned\n");
    }
    // It is kept with the container: its file may go, and with `exec` it is the same.
    let made = ["create", "--name", "box", "--security-opt", profile];
    space.kiln_ok(made.iter().chain(&["app", "sleep", "1000"]));
    fs::remove_file(space.project().join("profile.json")).expect("the profile is there");
    for _ in 0..2 {
        space.kiln_ok(["start", "box"]);
        for flags in [&[][..], &["-d"]] {
            let run = space.kiln(["exec"].iter().chain(flags).chain(&[
                "box",
                "sh",
                "-c",
                "mkdir /two; touch /tried",
            ]));
            run.assert_code(0);
        }
        space.inside("box", "mkdir /two").assert_says(FULL);
        crate::fixtures::wait_until("the one aside has run", || {
            space.inside("box", "test -e /tried").code == Some(0)
        });
        space.inside("box", "test -e /two").assert_code(1);
        space.kiln_ok(["stop", "-t", "0", "box"]);
    }
    space
        .kiln(made.iter().chain(&["app", "true"]))
        .assert_code(1)
        .assert_says("cannot read `profile.json`");
}

/// Debian's podman brings its own, which allows what kiln's list does, and more with more capabilities.
#[test]
fn podmans_own_profile_is_understood() {
    const FILE: &str = "/usr/share/containers/seccomp.json";
    let space = ContainerSpace::new("");
    if !fs::exists(FILE).is_ok_and(|exists| exists) {
        println!("SKIP: podman's profile of system calls is not here");
        return;
    }
    let profile = format!("seccomp={FILE}");
    let run = space.kiln([
        "run",
        "--rm",
        "--security-opt",
        &profile,
        "app",
        "sh",
        "-c",
        "grep Seccomp: /proc/self/status; touch /x; chown 0:0 /x; ls /x; mount -t tmpfs x /tmp",
    ]);
    assert_eq!(run.stdout, "Seccomp:\t2\n/x\n", "{}", run.shown());
    run.assert_says("permission denied");
}

#[test]
fn a_profile_that_cannot_be_is_told_before_anything_is_made() {
    let space = ContainerSpace::new("");
    let refused = |text: &str, says: &str| {
        space.write("profile.json", text);
        for (verb, code) in [("run", 125), ("create", 1)] {
            let flags = ["--name", "box", "--security-opt", "seccomp=profile.json"];
            space
                .kiln([verb].iter().chain(&flags).chain(&["app", "true"]))
                .assert_code(code)
                .assert_says("`profile.json` is no profile of system calls that can be used")
                .assert_says(says);
        }
        assert_eq!(space.kiln_ok(["ps", "-aq"]).stdout, "");
    };
    let rule = |rule: &str| {
        format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{ {rule} }}] }}"#)
    };
    refused("", "EOF while parsing");
    refused(
        r#"{ "defaultAction": "SCMP_ACT_ERRNO" }"#,
        "it refuses `execve`",
    );
    refused(
        &rule(r#""names": ["exit_group"], "action": "SCMP_ACT_ERRNO""#),
        "it refuses `exit_group`",
    );
    refused(
        &rule(r#""names": ["mkdirr"], "action": "SCMP_ACT_ERRNO""#),
        "`mkdirr`",
    );
    refused(
        &rule(r#""names": ["mkdir"], "action": "SCMP_ACT_NOTIFY""#),
        "SCMP_ACT_NOTIFY",
    );
}

/// It could not even end to say so, and kiln waited for it for ever.
#[test]
fn a_program_that_its_profile_refuses_is_told() {
    let space = ContainerSpace::new("");
    let only = r#"{ "names": ["execve", "exit_group"], "action": "SCMP_ACT_ALLOW",
                    "args": [{ "index": 0, "value": 0, "op": "SCMP_CMP_EQ" }] }"#;
    let text = format!(r#"{{ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{only}] }}"#);
    space.write("profile.json", text);
    space
        .kiln([
            "run",
            "--rm",
            "--security-opt",
            "seccomp=profile.json",
            "app",
            "true",
        ])
        .assert_code(126)
        .assert_says("Operation not permitted");
    assert_eq!(space.kiln_ok(["ps", "-aq"]).stdout, "");
}
