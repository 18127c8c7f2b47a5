//! Blobs on their way to and from registries: which ones travel at all, and what happens when they are stopped.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::events::Build;
use crate::fixtures::{Fault, Proxy, Registry, Way, toolchain_project};
use crate::space::{TestSpace, host};

/// The size of the large layer.
const LARGE_BYTES: u64 = 6 << 20;
/// More than all documents and small layers together.
const SMALL_BYTES: u64 = 300 << 10;
/// How soon kiln has to end.
const PROMPTLY: Duration = Duration::from_secs(5);

/// Bytes in which gzip finds nothing; others for another seed.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let words = usize::try_from(LARGE_BYTES / 8).expect("some millions");
    std::iter::repeat_with(next).take(words).flatten().collect()
}

fn project(seed: u64) -> TestSpace {
    toolchain_project(noise(seed))
}

fn warnings(build: &Build) -> Vec<String> {
    let warnings = build.of_kind("warning");
    warnings
        .filter_map(|it| it["message"].as_str().map(str::to_owned))
        .collect()
}

/// How many steps were found in `cache`.
fn hits_in(build: &Build, cache: &str) -> usize {
    build
        .of_kind("hit")
        .filter(|hit| hit["cache"] == cache)
        .count()
}

fn start(space: &TestSpace, arguments: &[&str]) -> Child {
    space
        .command()
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("kiln starts")
}

/// Presses Ctrl-C once `proxy` has stalled, and expects kiln to end as it should.
#[track_caller]
fn interrupt(child: Child, proxy: &Proxy) {
    stop_by(child, proxy, "-INT", 130);
}

/// Sends a signal once `proxy` has stalled, and expects kiln to end soon with this code.
#[track_caller]
fn stop_by(mut child: Child, proxy: &Proxy, signal: &str, code: i32) {
    proxy.wait_for_fault();
    let pressed = Instant::now();
    host(Command::new("kill").args([signal, &child.id().to_string()]));
    assert_eq!(child.wait().expect("kiln ends").code(), Some(code));
    assert!(pressed.elapsed() < PROMPTLY, "{:?}", pressed.elapsed());
}

#[test]
fn of_several_caches_the_first_that_has_a_result_gives_it() {
    let one = project(1);
    let registry = Registry::start(&one);
    let cache = |name: &str| format!("{}/team/{name}", registry.host());
    let (old, new) = (cache("old"), cache("new"));
    Build::ok(&one, &["--cache-to", &old]);
    let two = project(2);
    let built = Build::ok(&two, &["--cache-to", &new]);
    // The first lacks what depends on the input; the second would have had all.
    let fresh = project(2);
    let there = Build::ok(&fresh, &["--cache-from", &old, "--cache-from", &new]);
    assert_eq!(there.ran(), [""; 0], "{}", there.run.shown());
    assert_eq!((hits_in(&there, &old), hits_in(&there, &new)), (2, 2));
    assert_eq!(there.digest_of("app"), built.digest_of("app"));
    assert_eq!(warnings(&there), [""; 0]);
    // The other way round, the first has all.
    let fresh = project(2);
    let there = Build::ok(&fresh, &["--cache-from", &new, "--cache-from", &old]);
    assert_eq!((hits_in(&there, &old), hits_in(&there, &new)), (0, 4));
    // One that cannot be asked is one warning, and the others are asked.
    let fresh = project(2);
    let broken = "127.0.0.1:1/team/cache";
    let there = Build::ok(&fresh, &["--cache-from", broken, "--cache-from", &new]);
    assert_eq!(there.ran(), [""; 0], "{}", there.run.shown());
    assert_eq!(hits_in(&there, &new), 4);
    assert_eq!(warnings(&there).len(), 1, "{:?}", warnings(&there));
}

#[test]
fn a_layer_that_the_first_cache_lost_comes_from_the_second() {
    let space = project(1);
    let (registry, other) = (Registry::start(&space), TestSpace::new());
    let second = Registry::start(&other);
    let cache = |registry: &Registry| format!("{}/team/cache", registry.host());
    let built = Build::ok(&space, &["--cache-to", &cache(&registry)]);
    Build::ok(&space, &["--cache-to", &cache(&second)]);
    let blobs = space
        .path()
        .join("registry/data/docker/registry/v2/blobs/sha256");
    let large = Command::new("find")
        .arg(&blobs)
        .args(["-name", "data", "-size", "+5M", "-delete", "-print"])
        .output();
    let large = large.expect("find").stdout;
    assert!(!large.is_empty(), "the registry has a large blob");
    let fresh = project(1);
    let there = Build::ok(
        &fresh,
        &[
            "--cache-from",
            &cache(&registry),
            "--cache-from",
            &cache(&second),
        ],
    );
    assert_eq!(there.ran(), [""; 0], "{}", there.run.shown());
    assert_eq!(there.digest_of("app"), built.digest_of("app"));
    assert_eq!(warnings(&there).len(), 1, "{:?}", warnings(&there));
}

#[test]
fn ctrl_c_while_a_cache_is_read_leaves_a_store_that_works() {
    let space = project(1);
    let registry = Registry::start(&space);
    let repository = "team/cache";
    let cache = format!("{}/{repository}", registry.host());
    let built = Build::ok(&space, &["--cache-to", &cache]);
    let other = project(1);
    let proxy = Proxy::start(&registry.host());
    proxy.plan(Way::Down, Fault::Stall, LARGE_BYTES / 2);
    let slow = format!("{}/{repository}", proxy.host());
    let child = start(&other, &["build", "--cache-from", &slow]);
    interrupt(child, &proxy);
    let again = Build::ok(&other, &["--cache-from", &cache]);
    assert_eq!(again.ran(), [""; 0], "{}", again.run.shown());
    assert_eq!(again.digest_of("app"), built.digest_of("app"));
    assert_eq!(warnings(&again), [""; 0]);
}

#[test]
fn ctrl_c_while_a_cache_is_written_leaves_both_whole() {
    let space = project(1);
    let registry = Registry::start(&space);
    let repository = "team/cache";
    let cache = format!("{}/{repository}", registry.host());
    let proxy = Proxy::start(&registry.host());
    proxy.plan(Way::Up, Fault::Stall, LARGE_BYTES / 2);
    let slow = format!("{}/{repository}", proxy.host());
    let child = start(&space, &["build", "--cache-to", &slow]);
    interrupt(child, &proxy);
    // What was built is here, and the cache gets what it lacks.
    let again = Build::ok(&space, &["--cache-to", &cache]);
    assert_eq!(again.ran(), [""; 0], "{}", again.run.shown());
    assert_eq!(warnings(&again), [""; 0]);
    let other = project(1);
    let there = Build::ok(&other, &["--cache-from", &cache]);
    assert_eq!(there.ran(), [""; 0], "{}", there.run.shown());
    assert_eq!(there.digest_of("app"), again.digest_of("app"));
}

#[test]
fn a_signal_while_an_image_is_sent_or_fetched_ends_it_at_once_with_its_code() {
    let space = project(1);
    let registry = Registry::start(&space);
    space.kiln_ok(["build", "--quiet"]);
    let proxy = Proxy::start(&registry.host());
    let slow = format!("{}/team/app:1", proxy.host());
    proxy.plan(Way::Up, Fault::Stall, LARGE_BYTES / 2);
    let child = start(&space, &["push", "app", &slow]);
    stop_by(child, &proxy, "-TERM", 143);
    let name = format!("{}/team/app:1", registry.host());
    space.kiln_ok(["push", "app", &name]);
    let other = TestSpace::new();
    proxy.plan(Way::Down, Fault::Stall, LARGE_BYTES / 2);
    let child = start(&other, &["pull", &slow]);
    stop_by(child, &proxy, "-HUP", 129);
    other.kiln_ok(["pull", &slow]);
    // To be stopped is no failure to start a container.
    let third = TestSpace::new();
    proxy.plan(Way::Down, Fault::Stall, LARGE_BYTES / 2);
    let child = start(&third, &["run", &slow]);
    stop_by(child, &proxy, "-INT", 130);
}

#[test]
fn an_upload_that_breaks_off_while_it_is_made_is_sent_again() {
    let space = project(1);
    let registry = Registry::start(&space);
    space.kiln_ok(["build", "--quiet"]);
    let proxy = Proxy::start(&registry.host());
    proxy.plan(Way::Up, Fault::Cut, LARGE_BYTES / 2);
    let pushed = space.kiln_ok(["push", "app", &format!("{}/cut/app", proxy.host())]);
    assert!(!proxy.has_plan(), "it was cut");
    let whole = space.kiln_ok(["push", "app", &format!("{}/whole/app", registry.host())]);
    assert_eq!(digest(&pushed.stdout), digest(&whole.stdout));
    let other = TestSpace::new();
    other.kiln_ok(["pull", &format!("{}/cut/app", registry.host())]);
}

/// The digest in what a push prints.
fn digest(printed: &str) -> &str {
    printed.trim().rsplit('@').next().expect("a digest")
}

#[test]
fn what_a_repository_of_the_registry_has_is_not_sent_again() {
    let space = project(1);
    let registry = Registry::start(&space);
    let proxy = Proxy::start(&registry.host());
    Build::ok(
        &space,
        &["--cache-to", &format!("{}/team/cache", proxy.host())],
    );
    let sent = proxy.up_bytes();
    assert!(sent > LARGE_BYTES, "the cache has the layers: {sent}");
    // From the cache's repository, then from the other image's.
    for name in ["team/app:1", "team/app:2", "others/app:1"] {
        let before = proxy.up_bytes();
        space.kiln_ok(["push", "app", &format!("{}/{name}", proxy.host())]);
        let sent = proxy.up_bytes() - before;
        assert!(sent < SMALL_BYTES, "{name}: {sent}");
    }
    // Who pulled it knows as well.
    let other = TestSpace::new();
    let name = format!("{}/team/app:1", proxy.host());
    other.kiln_ok(["pull", &name]);
    let before = proxy.up_bytes();
    other.kiln_ok(["push", &name, &format!("{}/copies/app:1", proxy.host())]);
    let sent = proxy.up_bytes() - before;
    assert!(sent < SMALL_BYTES, "{sent}");
    // And who built the same elsewhere finds out before it sends.
    let third = project(1);
    third.kiln_ok(["build", "--quiet"]);
    let before = proxy.up_bytes();
    third.kiln_ok(["push", "app", &name]);
    let sent = proxy.up_bytes() - before;
    assert!(sent < SMALL_BYTES, "{sent}");
}

#[test]
fn what_was_pushed_is_remembered_and_not_kept() {
    let space = project(1);
    let (first, other) = (Registry::start(&space), TestSpace::new());
    let second = Registry::start(&other);
    space.kiln_ok(["build", "--quiet"]);
    let blobs = || {
        let folder = fs::read_dir(space.store().join("blobs/sha256"));
        folder
            .expect("blobs")
            .flatten()
            .map(|blob| blob.metadata().map_or(0, |it| it.len()))
            .max()
    };
    let pushed = space.kiln_ok(["push", "app", &format!("{}/team/app", first.host())]);
    assert!(blobs() < Some(SMALL_BYTES), "{:?}", blobs());
    let again = space.kiln_ok(["push", "app", &format!("{}/team/app", second.host())]);
    assert_eq!(digest(&pushed.stdout), digest(&again.stdout));
    assert!(blobs() < Some(SMALL_BYTES), "{:?}", blobs());
    // Another kiln may have compressed otherwise: what it remembered is not believed for ever.
    let mut changed = 0;
    for export in fs::read_dir(space.store().join("exports"))
        .expect("exports")
        .flatten()
    {
        if export.path().extension().is_some_and(|it| it == "gzip") {
            let text = fs::read_to_string(export.path()).expect("a descriptor");
            let at = text.find("sha256:").expect("a digest") + 7;
            let other: String = text[at..at + 64].chars().rev().collect();
            fs::write(export.path(), text.replace(&text[at..at + 64], &other)).expect("written");
            changed += 1;
        }
    }
    assert_eq!(changed, 2);
    let third_space = TestSpace::new();
    let third = Registry::start(&third_space);
    let healed = space.kiln_ok(["push", "app", &format!("{}/team/app", third.host())]);
    assert_eq!(digest(&pushed.stdout), digest(&healed.stdout));
}
