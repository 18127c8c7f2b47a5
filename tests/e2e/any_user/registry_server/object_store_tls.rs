//! Object stores that are spoken to with TLS, as all are that are not on the same machine.

use std::fs;

use super::object_store::{bytes, in_pieces, pull};
use crate::fixtures::ObjectStore;
use crate::fixtures::own_registry::{OwnRegistry, sha256};
use crate::space::{Run, TestSpace};

#[test]
fn everything_goes_in_and_out_by_tls() {
    let space = TestSpace::new();
    let (store, authority) = ObjectStore::start_with_tls(&space, "IP:127.0.0.1");
    let port = store.tls_port();
    let trusted = format!("authority = \"{}\"\n", authority.display());
    let settings = store.settings_at(&format!("https://127.0.0.1:{port}"), &trusted);
    let registry = OwnRegistry::start(&space, &settings);
    for length in [0, 1000, 8 << 20, (17 << 20) + 5] {
        let blob = bytes(length, length as u64);
        let digest = registry.blob("a", &blob);
        assert_eq!(pull(&registry, "a", &digest), blob, "{length}");
    }
    let blob = bytes(20 << 20, 3);
    let digest = in_pieces(&registry, "b", &blob, &[100, 9 << 20]);
    assert_eq!(pull(&registry, "b", &digest), blob);
    let path = format!("/v2/b/blobs/{digest}");
    let part = registry.ask("GET", &path, &[("Range", "bytes=9000000-9000999")], b"");
    assert_eq!(part.expect(206).body, &blob[9_000_000..9_001_000]);
    registry.image("a", "v1", b"a layer");
    registry.delete("/v2/a/manifests/v1").expect(202);
    for command in ["gc", "check", "scrub"] {
        registry.admin(&space, &[command]).assert_code(0);
    }
}

#[test]
fn a_store_has_a_name_and_clients_are_sent_there() {
    let space = TestSpace::new();
    let (store, authority) = ObjectStore::start_with_tls(&space, "DNS:localhost");
    let endpoint = format!("https://localhost:{}", store.tls_port());
    let further = format!("authority = \"{}\"\nredirect = true\n", authority.display());
    let registry = OwnRegistry::start(&space, &store.settings_at(&endpoint, &further));
    let digest = registry.blob("a", b"some bytes");
    let reply = registry.get(&format!("/v2/a/blobs/{digest}")).expect(307);
    let place = reply.header("location").expect("a location");
    assert!(place.starts_with(&format!("{endpoint}/")), "{place}");
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sf", "--cacert"]).arg(&authority).arg(place);
    let output = curl.output().expect("curl is installed");
    assert_eq!(sha256(&output.stdout), digest);
}

#[test]
fn a_store_that_is_not_the_one_it_says_is_not_trusted() {
    let space = TestSpace::new();
    let (store, authority) = ObjectStore::start_with_tls(&space, "DNS:localhost");
    let folder = space.path().join("unfit");
    fs::create_dir(&folder).expect("a folder");
    let start = |endpoint: &str, authority: Option<&str>| -> Run {
        let trusted = authority.map_or_else(String::new, |authority| {
            format!("authority = \"{authority}\"\n")
        });
        let config = folder.join("registry.toml");
        fs::write(&config, store.settings_at(endpoint, &trusted)).expect("settings");
        let mut command = space.command();
        command.args(["registry", "serve", "--listen", "127.0.0.1:0", "--config"]);
        command.arg(&config).arg("--data").arg(folder.join("data"));
        let run = space.run(&mut command);
        assert_ne!(run.code, Some(0));
        run
    };
    let authority = authority.to_string_lossy();
    let named = format!("https://localhost:{}", store.tls_port());
    // Nobody vouches for it whom the system knows; nor does another authority.
    start(&named, None).assert_says("UnknownIssuer");
    let other = authority.replace("authority.pem", "store.pem");
    start(&named, Some(&other)).assert_says("invalid peer certificate");
    // It is another one than was asked for.
    let elsewhere = format!("https://127.0.0.1:{}", store.tls_port());
    start(&elsewhere, Some(&authority)).assert_says("not valid for name");
    // It does not speak TLS there.
    let plain = format!("https://{}", store.host());
    start(&plain, Some(&authority)).assert_says("cannot be used");
    start(&named, Some("nowhere.pem")).assert_says("`storage.authority`");
    let no_certificate = authority.replace("authority.pem", "store.key");
    start(&named, Some(&no_certificate)).assert_says("holds no certificate");
}
