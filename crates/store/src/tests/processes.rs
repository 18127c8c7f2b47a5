//! Real processes on one store, some of them killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::testing::{NOW, TestStore, assert_consistent, make_image, put_step};
use crate::{GcPolicy, Session, Store, StoreError, Timestamp};

/// Starts this test binary again as a process that uses the store until it is killed.
fn start(store: &Path, role: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::processes::child",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}\n{role}", store.display()).unwrap();
    child
}

/// Waits until a child has done its first round.
fn wait_until_busy(child: &mut Child) {
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let busy = stdout.lines().any(|line| line.unwrap().contains("busy"));
    assert!(busy, "the child ended early");
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
fn child() {
    let mut lines = std::io::stdin().lines();
    let store = Store::open(Path::new(&lines.next().unwrap().unwrap())).unwrap();
    let role = lines.next().unwrap().unwrap();
    if role == "fill" {
        return fill(&store);
    }
    for round in 0_u64.. {
        let now = Timestamp::from_seconds(NOW.seconds() + round);
        if role == "gc" {
            store
                .gc(GcPolicy {
                    unused_since: None,
                    keep_bytes: None,
                    dry_run: false,
                })
                .unwrap();
        } else {
            let session = Session::begin(&store, now).unwrap();
            let content = format!("{}", round % 7);
            let name = format!("localhost/{role}-{}", round % 3);
            let image = make_image(&store, &session, &name, &content).unwrap();
            let key = put_step(&store, &session, &content, image.layer).unwrap();
            let hit = store.steps().get(&session, &key).unwrap();
            assert!(hit.is_some(), "what a session made is there for it");
            if round % 4 == 0 {
                store.references().remove(&session, &image.name).unwrap();
            }
            session.finish().unwrap();
            store.tidy().unwrap();
        }
        if round == 1 {
            println!("busy");
        }
    }
}

/// Uses all space there is, finds that out, makes room and goes on.
fn fill(store: &Store) {
    let session = Session::begin(store, NOW).unwrap();
    let image = make_image(store, &session, "localhost/app", "first").unwrap();
    let block = vec![7; 100_000];
    let mut written = 0_u32;
    let error = loop {
        let content = [&written.to_le_bytes()[..], &block].concat();
        match store.blobs().put(&session, content.as_slice(), 1 << 20) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("kiln gc"), "{error}");
    // Layers, steps and names fail the same way, or still fit: nothing is half there.
    for number in 0..200 {
        let content = format!("{number}{}", "x".repeat(3000));
        let outcome = make_image(store, &session, "localhost/app", &content)
            .and_then(|image| put_step(store, &session, &content, image.layer));
        match outcome {
            Ok(_) => {}
            Err(StoreError::DiskFull { .. }) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_consistent(store);
    drop(session);
    store
        .gc(GcPolicy {
            unused_since: None,
            keep_bytes: None,
            dry_run: false,
        })
        .unwrap();
    assert_consistent(store);
    let session = Session::begin(store, NOW).unwrap();
    make_image(store, &session, "localhost/app", "second").unwrap();
    assert!(written > 3);
    drop(image);
}

#[test]
fn a_full_disk_loses_nothing_and_gc_helps() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: mounting a small file system needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The mount is in a namespace of its own, and goes with it.
    let mut child = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=2m none \"$1\" && shift && exec \"$@\"")
        .arg("sh")
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::processes::child",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}\nfill", folder.path().join("store").display()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn builders_and_collectors_at_once_some_of_them_killed() {
    let test = TestStore::new();
    let path = test.store.path();
    let mut steady: Vec<_> = ["one", "two", "gc"].map(|role| start(path, role)).into();
    for child in &mut steady {
        wait_until_busy(child);
    }
    for round in 0..6 {
        let mut victim = start(path, if round % 3 == 2 { "gc" } else { "victim" });
        wait_until_busy(&mut victim);
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    for child in &mut steady {
        assert!(child.try_wait().unwrap().is_none(), "a process failed");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_consistent(&test.store);
    test.store.tidy().unwrap();
    assert_eq!(crate::disk::names(&test.store.at("tmp")).unwrap().len(), 0);
    assert_eq!(
        crate::disk::names(&test.store.at("sessions"))
            .unwrap()
            .len(),
        0
    );
    assert_consistent(&test.store);
}
