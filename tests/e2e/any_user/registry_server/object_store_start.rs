//! A registry that starts tries out its object store before anybody relies on it.

use std::fs;

use crate::fixtures::own_registry::OwnRegistry;
use crate::fixtures::{Faults, ObjectStore};
use crate::space::TestSpace;

#[test]
fn a_store_that_cannot_be_used_is_told_at_the_start() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let good = store.settings();
    let bad = space.path().join("credentials");
    let secret = "a-secret-nobody-sees";
    let text =
        format!("[default]\naws_access_key_id = kiln-id\naws_secret_access_key = {secret}\n");
    fs::write(&bad, text).expect("credentials");
    let line = good
        .lines()
        .find(|line| line.starts_with("credentials"))
        .expect("a line");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("bound").to_string();
    drop(closed);
    for (settings, says) in [
        (
            good.replace(line, &format!("credentials = \"{}\"", bad.display())),
            "SignatureDoesNotMatch",
        ),
        (good.replace("\"images\"", "\"elsewhere\""), "NoSuchBucket"),
        (good.replace(&store.host(), &nobody), "refused"),
        (good.replace("credentials\"\n", "nothing\"\n"), "nothing"),
        (
            good.replace("[storage]", "[storage]\nprofile = \"other\""),
            "[other]",
        ),
    ] {
        let folder = space.path().join("unfit");
        fs::create_dir_all(&folder).expect("a folder");
        let config = folder.join("registry.toml");
        fs::write(&config, settings).expect("settings");
        let mut command = space.command();
        command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(&config).arg("--data").arg(folder.join("data"));
        let run = space.run(&mut command);
        assert_ne!(run.code, Some(0));
        run.assert_says(says);
        assert!(!run.shown().contains(secret), "{}", run.shown());
    }
}

#[test]
fn a_registry_starts_whatever_happens_on_the_way_to_the_store() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let faults = Faults::start(&store.host());
    let mut registry = OwnRegistry::start(&space, &store.settings_by(&faults.host(), ""));
    registry.image("a", "v1", b"layer");
    assert!(registry.stop());
    faults.set(100);
    // Whoever has the command opens it each time, and tries out the store before that.
    for _ in 0..25 {
        registry.admin(&space, &["gc"]).assert_code(0);
    }
    assert!(faults.met().1 > 20, "{:?}", faults.met());
}
