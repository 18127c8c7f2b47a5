//! kiln needs as much memory for a large layer as for a small one.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use crate::fixtures::{Registry, busybox_project};
use crate::space::TestSpace;

/// What it may need, in kibibytes; the layer is twice as large.
const MOST_KIB: u64 = 200 << 10;

/// Runs kiln to its end; returns the most memory that it was seen to have, in kibibytes.
#[track_caller]
fn peak_kib(space: &TestSpace, arguments: &[&str]) -> u64 {
    let mut command = space.command();
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.args(arguments).spawn().expect("kiln starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let ended = loop {
        // It only grows, so the last look is the one that counts. It has gone for who has ended.
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(number.unwrap_or(0));
        match child.try_wait().expect("it can be waited for") {
            Some(ended) => break ended,
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    assert!(ended.success(), "kiln {arguments:?}: {ended}");
    assert!(peak > 1024, "kiln {arguments:?} was never looked at");
    peak
}

#[test]
fn memory_does_not_grow_with_the_layers() {
    // Bytes that compress well travel fast; whoever held them all would need as much memory for them.
    let space = busybox_project(
        "[image.app.step.large]\nrun = \"dd if=/dev/zero of=/large bs=1M count=400\"\n",
    );
    let registry = Registry::start(&space);
    let name = format!("{}/team/app:1", registry.host());
    let other = TestSpace::new();
    let archive = space.project().join("out.tar").display().to_string();
    let third = TestSpace::new();
    for (space, arguments) in [
        (&space, &["build"][..]),
        (&space, &["push", "app", &name]),
        (
            &space,
            &["save", "--compress", "none", "-o", "out.tar", "app"],
        ),
        (&other, &["pull", &name]),
        (&third, &["load", &archive]),
    ] {
        let peak = peak_kib(space, arguments);
        assert!(peak < MOST_KIB, "kiln {arguments:?} needed {peak} KiB");
    }
}
