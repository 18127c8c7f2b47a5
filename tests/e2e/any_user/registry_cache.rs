//! Results in a registry, for machines that have none.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::events::Build;
use crate::fixtures::{Registry, busybox_project, toolchain_project};
use crate::space::{TestSpace, host};

const NODES: [&str; 4] = ["app.folder", "app.program", "tools.compile", "tools:base"];

fn project() -> TestSpace {
    toolchain_project("one\n")
}

/// The same project on a machine with an empty store.
fn elsewhere(space: &TestSpace) -> TestSpace {
    let other = TestSpace::new();
    for file in ["kiln.toml", "rootfs.tar", "input"] {
        let from = space.project().join(file);
        fs::copy(from, other.project().join(file)).expect("a file of the project");
    }
    other
}

fn cache(registry: &Registry) -> String {
    format!("{}/team/cache", registry.host())
}

/// What the build says was found in a cache.
fn hits_in(build: &Build, cache: &str) -> Vec<String> {
    let hits = build.of_kind("hit").filter(|hit| hit["cache"] == cache);
    let mut hits: Vec<String> = hits
        .filter_map(|hit| hit["step"].as_str().map(str::to_owned))
        .collect();
    hits.sort();
    hits
}

fn warnings(build: &Build) -> Vec<String> {
    let warnings = build.of_kind("warning");
    warnings
        .filter_map(|it| it["message"].as_str().map(str::to_owned))
        .collect()
}

fn layers_here(space: &TestSpace) -> usize {
    fs::read_dir(space.store().join("layers")).map_or(0, Iterator::count)
}

/// The files in which the registry has its blobs, the largest first.
fn blobs(space: &TestSpace) -> Vec<PathBuf> {
    let root = space
        .path()
        .join("registry/data/docker/registry/v2/blobs/sha256");
    let mut files = Vec::new();
    for folder in fs::read_dir(root).expect("the registry's blobs").flatten() {
        for blob in fs::read_dir(folder.path()).expect("blobs").flatten() {
            files.push(blob.path().join("data"));
        }
    }
    let size = |file: &PathBuf| fs::metadata(file).map_or(0, |it| it.len());
    files.sort_by_key(|file| std::cmp::Reverse(size(file)));
    files
}

/// Builds once with a cache, and returns the space, its registry and the digest.
fn cached() -> (TestSpace, Registry, String) {
    let space = project();
    let registry = Registry::start(&space);
    let built = Build::ok(&space, &["--cache", &cache(&registry)]);
    assert_eq!(built.ran(), NODES, "{}", built.run.shown());
    assert_eq!(warnings(&built), [""; 0]);
    let digest = built.digest_of("app");
    (space, registry, digest)
}

#[test]
fn a_fresh_machine_fetches_what_the_image_needs_and_runs_nothing() {
    let (space, registry, digest) = cached();
    let cache = cache(&registry);
    let other = elsewhere(&space);
    let built = Build::ok(&other, &["--cache-from", &cache]);
    assert_eq!(built.ran(), [""; 0], "{}", built.run.shown());
    assert_eq!(hits_in(&built, &cache), NODES);
    assert_eq!(built.digest_of("app"), digest);
    assert_eq!(warnings(&built), [""; 0]);
    // Neither the toolchain's base nor what it compiled: only the image's own two layers.
    assert_eq!(layers_here(&other), 2);
    assert!(!built.images().contains_key("tools"));
    // What was fetched is here now.
    let again = Build::ok(&other, &["--cache-from", &cache]);
    assert_eq!(hits_in(&again, &cache), ["tools.compile", "tools:base"]);
    // It leaves as it would have left where it was made.
    let name = format!("{}/team/app", registry.host());
    let pushed = other.kiln_ok(["push", "app", &name]).stdout;
    assert_eq!(space.kiln_ok(["push", "app", &name]).stdout, pushed);
}

#[test]
fn a_step_that_runs_gets_the_layers_it_sees() {
    let (space, registry, _) = cached();
    let cache = cache(&registry);
    let other = elsewhere(&space);
    other.write("input", "two\n");
    let built = Build::ok(&other, &["--cache", &cache]);
    assert_eq!(built.ran(), ["app.program", "tools.compile"]);
    assert_eq!(hits_in(&built, &cache), ["app.folder", "tools:base"]);
    // A third machine has both now, and goes on from what the second one wrote.
    let third = elsewhere(&other);
    let built_there = Build::ok(&third, &["--cache-from", &cache]);
    assert_eq!(built_there.ran(), [""; 0]);
    assert_eq!(built_there.digest_of("app"), built.digest_of("app"));
}

#[test]
fn explain_says_where_a_hit_is() {
    let (space, registry, _) = cached();
    let cache = cache(&registry);
    let here = space.kiln_ok(["explain", "--cache-from", &cache]).stdout;
    assert_eq!(here.matches("hit here").count(), 4, "{here}");
    let other = elsewhere(&space);
    let there = other.kiln_ok(["explain", "--cache-from", &cache]).stdout;
    let words = format!("hit in {cache}");
    assert_eq!(there.matches(&words).count(), 4, "{there}");
    assert_eq!(layers_here(&other), 0);
    other.write("input", "two\n");
    let missed = other.kiln_ok(["explain", "--cache-from", &cache]).stdout;
    assert!(missed.contains("miss: the store has no result"), "{missed}");
}

/// Does something to the blob of the image's program layer and expects a rebuild of the same image.
/// The registry comes first, since it has to end before its space.
fn recovers(harm: impl Fn(&Path)) -> (Registry, TestSpace) {
    let (space, registry, digest) = cached();
    let program = blob_of(&space, "app.program", &registry);
    harm(&program);
    let other = elsewhere(&space);
    let built = Build::ok(&other, &["--cache", &cache(&registry)]);
    assert_eq!(built.digest_of("app"), digest);
    assert_eq!(built.ran(), ["app.program"], "{}", built.run.shown());
    assert_eq!(warnings(&built).len(), 1, "{:?}", warnings(&built));
    assert!(
        built.of_kind("finished").count() == 1 && built.of_kind("build").count() == 1,
        "{}",
        built.run.shown()
    );
    (registry, space)
}

/// The file in which the registry has the blob of a step's layer.
fn blob_of(space: &TestSpace, step: &str, registry: &Registry) -> PathBuf {
    let tags = host(
        Command::new("skopeo")
            .args(["list-tags", "--tls-verify=false"])
            .arg(format!("docker://{}", cache(registry)))
            .env("HOME", space.path()),
    );
    let tags: serde_json::Value = serde_json::from_str(&tags).expect("what skopeo says");
    for tag in tags["Tags"].as_array().expect("tags") {
        let manifest = host(
            Command::new("skopeo")
                .args(["inspect", "--raw", "--tls-verify=false"])
                .arg(format!(
                    "docker://{}:{}",
                    cache(registry),
                    tag.as_str().expect("a tag")
                ))
                .env("HOME", space.path()),
        );
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("a manifest");
        let record = manifest["annotations"]["vnd.kiln.step"].as_str();
        if record.is_some_and(|record| record.contains(&format!("\"{step}\""))) {
            let digest = manifest["layers"][0]["digest"].as_str().expect("a digest");
            let hex = digest.strip_prefix("sha256:").expect("SHA-256");
            return blobs(space)
                .into_iter()
                .find(|file| file.to_string_lossy().contains(hex))
                .expect("the registry has the blob");
        }
    }
    panic!("`{step}` is not in the cache");
}

#[test]
fn a_lost_blob_is_a_warning_and_a_rebuild_and_comes_back() {
    let recovered = recovers(|blob| fs::remove_file(blob).expect("a blob"));
    let (registry, space) = (&recovered.0, &recovered.1);
    let third = elsewhere(space);
    let built = Build::ok(&third, &["--cache-from", &cache(registry)]);
    assert_eq!(built.ran(), [""; 0], "{}", built.run.shown());
}

#[test]
fn a_corrupt_blob_is_a_warning_and_a_rebuild() {
    recovers(|blob| {
        let mut bytes = fs::read(blob).expect("a blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(blob, bytes).expect("a blob");
    });
}

#[test]
fn a_lost_layer_of_a_toolchain_is_made_again_when_it_is_needed() {
    let (space, registry, _) = cached();
    fs::remove_file(blob_of(&space, "tools:base", &registry)).expect("a blob");
    let other = elsewhere(&space);
    // Nobody needs it.
    let built = Build::ok(&other, &["--cache-from", &cache(&registry)]);
    assert_eq!(built.ran(), [""; 0]);
    let third = elsewhere(&space);
    third.write("input", "two\n");
    let built = Build::ok(&third, &["--cache-from", &cache(&registry)]);
    assert_eq!(
        built
            .ran()
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>(),
        ["app.program", "tools.compile", "tools:base"]
            .map(str::to_owned)
            .into()
    );
    assert_eq!(warnings(&built).len(), 1, "{:?}", warnings(&built));
    let finished = built.of_kind("finished").next().expect("an end");
    assert_eq!(
        (&finished["built"], &finished["cached"]),
        (&3.into(), &1.into())
    );
}

#[test]
fn what_is_not_kilns_is_a_warning_and_a_rebuild() {
    let (space, registry, digest) = cached();
    let other = elsewhere(&space);
    // Every entry becomes a copy of one: of another step than its tag says.
    let tags = host(
        Command::new("skopeo")
            .args(["list-tags", "--tls-verify=false"])
            .arg(format!("docker://{}", cache(&registry)))
            .env("HOME", space.path()),
    );
    let tags: serde_json::Value = serde_json::from_str(&tags).expect("what skopeo says");
    let tags: Vec<&str> = tags["Tags"]
        .as_array()
        .expect("tags")
        .iter()
        .filter_map(|tag| tag.as_str())
        .collect();
    space.kiln_ok([
        "push",
        "app",
        &format!("{}/team/cache:image", registry.host()),
    ]);
    for tag in &tags {
        registry.copy(&space, "team/cache:image", &format!("team/cache:{tag}"));
    }
    let built = Build::ok(&other, &["--cache", &cache(&registry)]);
    assert_eq!(built.ran(), NODES);
    assert_eq!(built.digest_of("app"), digest);
    assert_eq!(warnings(&built).len(), 4, "{:?}", warnings(&built));
    // What was wrong has been put right.
    let third = elsewhere(&space);
    let again = Build::ok(&third, &["--cache-from", &cache(&registry)]);
    assert_eq!(again.ran(), [""; 0]);
}

#[test]
fn a_registry_that_is_down_is_one_warning() {
    let space = project();
    let built = Build::ok(&space, &["--cache-from", "127.0.0.1:1/team/cache"]);
    assert_eq!(built.ran(), NODES);
    assert_eq!(warnings(&built).len(), 1, "{:?}", warnings(&built));
    let other = project();
    let built = Build::ok(&other, &["--cache-to", "127.0.0.1:1/team/cache"]);
    assert_eq!(warnings(&built).len(), 1, "{:?}", warnings(&built));
    let tagged = space.kiln(["build", "--cache", "127.0.0.1:1/team/cache:1"]);
    tagged
        .assert_code(2)
        .assert_says("the tags of a cache are kiln's");
}

/// Starts a registry that answers everything so; returns its `host:port`.
fn answering(reply: &'static str) -> String {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    // Ends with the process of the tests: nobody can stop an `accept`.
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if connection.read(&mut request).is_ok() {
                connection.write_all(reply.as_bytes()).unwrap_or_default();
            }
        }
    });
    address.to_string()
}

#[test]
fn a_registry_that_refuses_is_one_warning_that_says_what_to_do() {
    let address = answering(
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let cache = format!("{address}/team/cache");
    for flag in ["--cache-from", "--cache-to"] {
        let built = Build::ok(&project(), &[flag, &cache]);
        let warnings = warnings(&built);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("kiln login"), "{warnings:?}");
    }
}

#[test]
fn a_registry_that_limits_requests_is_one_warning_and_no_wait() {
    let address = answering(
        "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 20\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
    );
    let cache = format!("{address}/team/cache");
    for flag in ["--cache-from", "--cache-to"] {
        let began = std::time::Instant::now();
        let built = Build::ok(&project(), &[flag, &cache]);
        let warnings = warnings(&built);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("asked again in 20 s"), "{warnings:?}");
        // Once would be too often.
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    }
}

#[test]
fn two_writers_at_once_leave_one_whole_cache() {
    let one = project();
    let registry = Registry::start(&one);
    let cache = cache(&registry);
    let other = elsewhere(&one);
    let build = |space| Build::ok(space, &["--cache-to", &cache]);
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| build(&one));
        let second = build(&other);
        (first.join().expect("a build"), second)
    });
    assert_eq!(warnings(&first), warnings(&second));
    let third = elsewhere(&one);
    let built = Build::ok(&third, &["--cache-from", &cache]);
    assert_eq!(built.ran(), [""; 0], "{}", built.run.shown());
    assert_eq!(built.digest_of("app"), first.digest_of("app"));
}

#[test]
fn an_image_as_a_base_comes_from_the_cache() {
    let base = busybox_project("");
    let registry = Registry::start(&base);
    base.kiln_ok(["build"]);
    let name = format!("{}/team/base:1", registry.host());
    base.kiln_ok(["push", "app", &name]);
    let space = TestSpace::with_manifest(&format!(
        "schema = 1\n[project]\nname = \"t\"\ndefault = \"app\"\n[image.app]\nfrom = {{ registry = \"{name}\" }}\n\
         [image.app.step.file]\nrun = \"echo text > /file\"\n"
    ));
    let built = Build::ok(&space, &["--cache-to", &cache(&registry)]);
    let other = TestSpace::new();
    for file in ["kiln.toml", "kiln.lock"] {
        fs::copy(space.project().join(file), other.project().join(file)).expect("a file");
    }
    let there = Build::ok(&other, &["--cache-from", &cache(&registry)]);
    assert_eq!(there.ran(), [""; 0], "{}", there.run.shown());
    assert_eq!(there.digest(), built.digest());
    assert_eq!(
        other.kiln_ok(["run", "app", "cat", "/file"]).stdout,
        "text\n"
    );
}

#[test]
fn an_exported_cache_mount_travels() {
    let steps = r#"
        [cache.objects]
        export = true
        max    = "1MB"
        [cache.own]
        [image.app.step.compile]
        files   = ["input"]
        workdir = "/work"
        caches  = { objects = "/objects", own = "/own" }
        run     = "cat /objects/a/mark /own/mark || true; mkdir -p /objects/a; echo warm > /objects/a/mark; echo cold > /own/mark"
    "#;
    let space = busybox_project(steps);
    space.write("input", "one\n");
    let registry = Registry::start(&space);
    let cache = cache(&registry);
    Build::ok(&space, &["--cache", &cache]);
    let other = elsewhere(&space);
    other.write("input", "two\n");
    let built = Build::ok(&other, &["--cache-from", &cache]);
    assert_eq!(warnings(&built), [""; 0]);
    let output = built.output("app.compile");
    assert!(output.contains(&"warm".to_owned()), "{output:?}");
    assert!(!output.contains(&"cold".to_owned()), "{output:?}");
    // One that is not empty stays as it is, and one that is too large stays here.
    let large = steps.replace(
        "echo cold",
        "dd if=/dev/zero of=/objects/large bs=1M count=2; echo",
    );
    let third = busybox_project(&large);
    third.write("input", "one\n");
    let built = Build::ok(&third, &["--cache-to", &cache]);
    assert!(
        warnings(&built).iter().any(|it| it.contains("max")),
        "{}",
        built.run.shown()
    );
    let fourth = elsewhere(&other);
    fourth.write("input", "three\n");
    let built = Build::ok(&fourth, &["--cache-from", &cache]);
    assert!(built.output("app.compile").contains(&"warm".to_owned()));
}
