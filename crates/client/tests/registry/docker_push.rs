//! Pushed to Debian's `docker-registry`, read back by kiln and by skopeo.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kiln_client::{CredentialFiles, Documents, Error, Outcome, Pushed, Registry, Settings};
use kiln_http::{Cancel, Client, HostSettings};
use kiln_oci::{Digest, Reference};

use crate::certificates::Authority;
use crate::docker::{DockerRegistry, assert_whole, images, missing};
use crate::fake::http;
use crate::memory::{Blobs, indexed};
use crate::proxy::CuttingProxy;

const USERS: &str = "auth: {htpasswd: {realm: test, path: FOLDER/htpasswd}}\n";

fn registry() -> Registry {
    Registry::new(Client::new(http()), Settings::default())
}

fn push(
    registry: &Registry,
    reference: &Reference,
    documents: &Documents,
    source: &Blobs,
) -> Result<Pushed, Error> {
    registry.push(reference, documents, source, &|_| {}, &Cancel::new())
}

#[test]
fn a_pushed_image_is_read_by_others() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let server = DockerRegistry::start("", "", &[]);
    let (documents, source) = (indexed(&[&image, &other]), Blobs::of(&[&image, &other]));
    let registry = registry();
    let pushed = push(
        &registry,
        &server.reference("team/app:all"),
        &documents,
        &source,
    )
    .unwrap();
    assert!(pushed.blobs.values().all(|how| *how == Outcome::Pushed));
    let single = image.documents();
    push(
        &registry,
        &server.reference("team/app:one"),
        &single,
        &source,
    )
    .unwrap();
    for name in ["team/app:all", "team/app:one"] {
        let (pulled, sink) = server.pull(&registry, name).unwrap();
        assert_whole(&image, &pulled, &sink);
    }
    let layout = server.read_by_skopeo("team/app:all", &["--src-tls-verify=false"]);
    for bytes in source.blobs.values().chain([&documents.root.bytes]) {
        let path = layout.path().join("blobs/sha256");
        let read = fs::read(path.join(Digest::of(bytes).hex())).unwrap();
        assert!(read == *bytes);
    }
    // To another repository nothing is sent but documents.
    let mounting = Blobs {
        known_in: vec![server.reference("team/app")],
        ..Blobs::default()
    };
    let pushed = push(
        &registry,
        &server.reference("other/app:all"),
        &documents,
        &mounting,
    )
    .unwrap();
    let how = Outcome::Mounted("team/app".to_owned());
    assert!(pushed.blobs.values().all(|outcome| *outcome == how));
    // And again, as another process, nothing at all.
    let started = Instant::now();
    let again = push(
        &self::registry(),
        &server.reference("team/app:all"),
        &documents,
        &Blobs::default(),
    )
    .unwrap();
    println!("the second push took {:?}", started.elapsed());
    assert!(!again.changed && again.sent_bytes == 0);
}

#[test]
fn users_and_tls_are_no_obstacle() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, _) = images();
    let authority = Authority::new();
    let pair = authority.issue("localhost", 2999);
    let tls = format!(
        "  tls: {{certificate: {}, key: {}}}\n",
        pair.certificate.display(),
        pair.key.display()
    );
    let server = DockerRegistry::start(&tls, USERS, &[]);
    let mut trusting = http();
    let host = HostSettings {
        authorities: vec![authority.path()],
        ..HostSettings::default()
    };
    let name = format!("localhost:{}", server.port);
    trusting.hosts.insert(name.clone(), host);
    let with = |password: Option<&str>| {
        let file = server.folder.path().join("auth.json");
        let entry = password.map_or_else(String::new, |password| {
            format!(r#""{name}":{{"username":"me","password":"{password}"}}"#)
        });
        fs::write(&file, format!(r#"{{"auths":{{{entry}}}}}"#)).unwrap();
        let credentials = CredentialFiles {
            files: vec![file],
            helper_folders: Vec::new(),
        };
        let settings = Settings {
            credentials,
            ..Settings::default()
        };
        Registry::new(Client::new(trusting.clone()), settings)
    };
    let (reference, source) = (server.reference("app:1"), Blobs::of(&[&image]));
    let error = push(&with(None), &reference, &image.documents(), &source).unwrap_err();
    let login = format!("`kiln login {name}`");
    assert!(error.to_string().ends_with(&login), "{error}");
    let error = push(
        &with(Some("wrong")),
        &reference,
        &image.documents(),
        &source,
    )
    .unwrap_err();
    assert!(matches!(error, Error::Unauthorised { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong"), "{error:?}");
    let registry = with(Some("hunter2"));
    push(&registry, &reference, &image.documents(), &source).unwrap();
    let (pulled, sink) = server.pull(&registry, "app:1").unwrap();
    assert_whole(&image, &pulled, &sink);
    server.read_by_skopeo(
        "app:1",
        &["--src-tls-verify=false", "--src-creds=me:hunter2"],
    );
}

#[test]
fn cut_connections_delay_a_push_and_no_more() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, _) = images();
    let server = DockerRegistry::start("", "", &[]);
    let target = ([127, 0, 0, 1], server.port).into();
    let proxy = CuttingProxy::start(target, vec![1_000_000, 2_000_000, 10_000]);
    let reference: Reference = format!("{}/team/app:1", proxy.address).parse().unwrap();
    let registry = registry();
    push(
        &registry,
        &reference,
        &image.documents(),
        &Blobs::of(&[&image]),
    )
    .unwrap_or_else(|error| panic!("{error}\n{}", server.log()));
    assert_eq!(proxy.cuts.load(Ordering::SeqCst), 3);
    let (pulled, sink) = server.pull(&registry, "team/app:1").unwrap();
    assert_whole(&image, &pulled, &sink);
}
