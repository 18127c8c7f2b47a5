//! Signed archives, good and bad, from a folder.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kiln_debian::{
    Architecture, ArchiveSet, Catalog, CatalogError, DownloadError, Keyring, LockedPackage,
    MirrorSettings, ReleaseError, Request, SetKey, SuiteLock, resolve,
};
use support::World;
use support::archive::{Archive, NOW, Package};
use support::keys::{KEY_TIME, TestKey};

/// Makes other bytes of those of an index.
type Damage = fn(&[u8]) -> Vec<u8>;

struct Scene {
    folder: tempfile::TempDir,
    archive: Archive,
    key: TestKey,
    keyring: Keyring,
    world: World,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = Archive::new(&folder.path().join("debian"));
        archive
            .add(&Package::new("app", "1.0", "Depends: lib (>= 2)"))
            .add(&Package::new("lib", "2.1", ""));
        let key = TestKey::new(1, None);
        let mut keyring = Keyring::default();
        keyring.add("test", &key.public()).unwrap();
        let world = World::new(&folder.path().join("downloads"));
        Self {
            folder,
            archive,
            key,
            keyring,
            world,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn set(&self) -> ArchiveSet {
        let manifest = MirrorSettings {
            mirror: Some(self.archive.url()),
            snapshot: None,
        };
        let none = MirrorSettings::default();
        let mut set = ArchiveSet::choose("zurg", &[], &manifest, &none, None, NOW).unwrap();
        set.snapshot_archive = format!("file:{}", self.path("snapshot").display());
        set
    }

    fn open(&self, cache: Option<&Path>) -> Result<Catalog, CatalogError> {
        Catalog::open(
            &self.set(),
            Architecture::Amd64,
            &self.keyring,
            self.world.outside(),
            cache,
            NOW,
        )
    }

    fn packages(&self, names: &[&str]) -> Vec<LockedPackage> {
        let catalog = self.open(None).unwrap();
        let packages: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let request = Request {
            packages: &packages,
            over: None,
            pins: &BTreeSet::new(),
        };
        resolve(&catalog, &request).unwrap()
    }

    fn in_release(&self) -> std::path::PathBuf {
        self.path("debian/dists/zurg/InRelease")
    }
}

fn release_error(result: Result<Catalog, CatalogError>) -> ReleaseError {
    let error = result.unwrap_err();
    let CatalogError::Release(error) = error else {
        panic!("{error}");
    };
    error
}

#[test]
fn a_signed_archive_is_read_and_kept() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let cache = scene.path("cache");
    let catalog = scene.open(Some(&cache)).unwrap();
    assert_eq!(catalog.versions("lib")[0].version(), "2.1");
    assert_eq!(catalog.date().to_string(), "20260711T101637Z");
    // The second time the index comes from the cache: the mirror has lost it.
    fs::remove_dir_all(scene.path("debian/dists/zurg/main")).unwrap();
    assert_eq!(scene.open(Some(&cache)).unwrap().packages().count(), 2);
    assert!(scene.open(None).is_err());
}

#[test]
fn armored_keyrings_are_read_too() {
    let mut scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    scene.keyring = Keyring::default();
    scene
        .keyring
        .add("test", scene.key.armored().as_bytes())
        .unwrap();
    scene.open(None).unwrap();
    assert!(scene.keyring.add("test", b"nonsense").is_err());
}

#[test]
fn updates_and_security_are_read_where_they_are() {
    let mut scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    scene.archive.add(&Package::new("lib", "2.2", ""));
    scene.archive.publish("zurg-updates", &scene.key);
    let mut security = Archive::new(&scene.path("debian-security"));
    security.add(&Package::new("lib", "2.2+sec1", ""));
    security.publish("zurg-security", &scene.key);
    let catalog = scene.open(None).unwrap();
    let versions: Vec<&str> = catalog
        .versions("lib")
        .iter()
        .map(|one| one.version())
        .collect();
    assert_eq!(versions, ["2.2+sec1", "2.2", "2.1"]);
}

#[test]
fn an_unknown_suite_is_named() {
    let scene = Scene::new();
    let error = scene.open(None).unwrap_err();
    assert!(matches!(error, CatalogError::UnknownSuite { .. }));
    assert!(
        error.to_string().contains("no Debian suite `zurg`"),
        "{error}"
    );
}

#[test]
fn changed_text_is_a_bad_signature() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let good = fs::read_to_string(scene.in_release()).unwrap();
    fs::write(
        scene.in_release(),
        good.replace("Origin: Test", "Origin: Evil"),
    )
    .unwrap();
    let error = release_error(scene.open(None));
    assert!(
        matches!(error, ReleaseError::BadSignature { .. }),
        "{error}"
    );
}

#[test]
fn text_outside_the_signed_part_is_never_trusted() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let good = fs::read_to_string(scene.in_release()).unwrap();
    let evil = "Origin: Evil\nSuite: zurg\nDate: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n\n";
    for text in [
        format!("{evil}{good}"),
        format!("\n{good}"),
        format!("{good}\n{evil}"),
        format!("{good}{good}"),
        good.replace("Hash: SHA", "Comment: x\nHash: SHA"),
        good.replacen("-----BEGIN PGP SIGNATURE", "-----BEGIN PGP MESSAGE", 1),
        good[..good.len() / 2].to_owned(),
        evil.to_owned(),
        String::new(),
    ] {
        fs::write(scene.in_release(), &text).unwrap();
        let error = release_error(scene.open(None));
        assert!(
            matches!(error, ReleaseError::Malformed { .. }),
            "{error}: {text}"
        );
    }
}

#[test]
fn escaped_dashes_are_part_of_the_signed_text() {
    let scene = Scene::new();
    scene
        .archive
        .publish_as("zurg", &scene.key, |text| text + "-Odd: field\n");
    let text = fs::read_to_string(scene.in_release()).unwrap();
    assert!(text.contains("\n- -Odd: field"), "{text}");
    scene.open(None).unwrap();
}

#[test]
fn keys_that_are_not_trusted_are_named() {
    let mut scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    scene.keyring = Keyring::default();
    scene
        .keyring
        .add("other", &TestKey::new(2, None).public())
        .unwrap();
    let error = release_error(scene.open(None));
    let ReleaseError::UnknownKey { keys, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].len(), 40, "{keys:?}");
}

#[test]
fn a_key_that_has_expired_vouches_for_nothing() {
    let mut scene = Scene::new();
    let lives_until = |seconds: i64| TestKey::new(3, u32::try_from(seconds).ok());
    let age = NOW.as_second() - i64::from(KEY_TIME);
    for (key, is_good) in [
        (lives_until(age - 60), false),
        (lives_until(age + 60), true),
    ] {
        scene.archive.publish("zurg", &key);
        scene.keyring = Keyring::default();
        scene.keyring.add("test", &key.public()).unwrap();
        match scene.open(None) {
            Ok(_) => assert!(is_good),
            Err(error) => {
                assert!(!is_good, "{error}");
                let error = release_error(Err(error));
                assert!(matches!(error, ReleaseError::ExpiredKey { .. }), "{error}");
            }
        }
    }
}

#[test]
fn dates_and_names_of_a_release_are_checked() {
    let scene = Scene::new();
    let publish = |from: &str, to: &str| {
        scene.archive.publish_as("zurg", &scene.key, |text| {
            assert!(text.contains(from));
            text.replace(from, to)
        });
        release_error(scene.open(None))
    };
    let error = publish("Valid-Until: Sat, 18", "Valid-Until: Sat, 11");
    assert!(matches!(error, ReleaseError::Outdated { .. }), "{error}");
    let error = publish("Date: Sat, 11 Jul 2026", "Date: Sat, 11 Jul 2027");
    assert!(
        matches!(error, ReleaseError::FromTheFuture { .. }),
        "{error}"
    );
    let error = publish(
        "Suite: zurg\nCodename: zurg",
        "Suite: other\nCodename: buzz",
    );
    assert!(matches!(error, ReleaseError::OtherSuite { .. }), "{error}");
    let error = publish("Date: ", "X-Date: ");
    assert!(matches!(error, ReleaseError::Malformed { .. }), "{error}");
    let error = publish("SHA256:", "SHA1:");
    assert!(matches!(error, ReleaseError::Malformed { .. }), "{error}");
}

#[test]
fn an_index_that_is_not_the_signed_one_is_refused() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let folder = scene.path("debian/dists/zurg/main/binary-amd64");
    let by_hash: Vec<_> = fs::read_dir(folder.join("by-hash/SHA256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let all = by_hash.iter().chain([&folder]).count();
    assert_eq!(all, 3);
    let originals: Vec<Vec<u8>> = by_hash.iter().map(|path| fs::read(path).unwrap()).collect();
    let damage: [Damage; 2] = [
        |bytes| bytes[..bytes.len() - 7].to_vec(),
        |bytes| {
            let mut bytes = bytes.to_vec();
            bytes[20] ^= 1;
            bytes
        },
    ];
    for damage in damage {
        for (path, bytes) in by_hash.iter().zip(&originals) {
            fs::write(path, damage(bytes)).unwrap();
        }
        let cache = scene.path("cache");
        let error = scene.open(Some(&cache)).unwrap_err();
        assert!(matches!(error, CatalogError::WrongIndex { .. }), "{error}");
        assert!(!cache.exists(), "nothing of it is kept");
    }
    // A mirror without files by digest: the plain name is asked then.
    fs::remove_dir_all(folder.join("by-hash")).unwrap();
    scene.open(None).unwrap();
}

#[test]
fn a_component_that_is_not_there_is_named() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let mut set = scene.set();
    set.components = vec!["contrib".to_owned()];
    let outside = scene.world.outside();
    let error = Catalog::open(
        &set,
        Architecture::Amd64,
        &scene.keyring,
        outside,
        None,
        NOW,
    );
    assert!(matches!(error.unwrap_err(), CatalogError::NoIndex { .. }));
}

#[test]
fn an_index_that_the_mirror_lacks_is_read_in_another_form() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let folder = scene.path("debian/dists/zurg/main/binary-amd64");
    let packed = folder.join("Packages.xz");
    let digest = kiln_oci::Digest::of(&fs::read(&packed).unwrap());
    fs::remove_file(&packed).unwrap();
    fs::remove_file(folder.join("by-hash/SHA256").join(digest.hex())).unwrap();
    assert_eq!(scene.packages(&["app"]).len(), 2);
}

#[test]
fn packages_are_downloaded_once() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let packages = scene.packages(&["app"]);
    let set = scene.set();
    let snapshot = "20260711T101637Z".parse().unwrap();
    let paths = support::download(&packages, &set, snapshot, scene.world.outside()).unwrap();
    assert_eq!(paths.len(), 2);
    for (path, package) in paths.iter().zip(&packages) {
        assert_eq!(
            kiln_oci::Digest::of(&fs::read(path).unwrap()),
            package.sha256
        );
    }
    fs::remove_dir_all(&scene.archive.root).unwrap();
    let again = support::download(&packages, &set, snapshot, scene.world.outside()).unwrap();
    assert_eq!(again, paths);
}

#[test]
fn a_complete_lock_needs_nothing_from_outside() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let packages = scene.packages(&["app"]);
    let snapshot = "20260711T101637Z".parse().unwrap();
    let key = SetKey::new(
        &["app".to_owned()],
        kiln_debian::Installed::default().digest(),
    );
    let mut lock = SuiteLock {
        suite: "zurg".to_owned(),
        architecture: Architecture::Amd64,
        components: vec!["main".to_owned()],
        snapshot,
        packages: BTreeSet::new(),
        sets: std::collections::BTreeMap::new(),
    };
    lock.insert(key.clone(), packages.clone());
    support::download(&packages, &scene.set(), snapshot, scene.world.outside()).unwrap();
    let none = MirrorSettings::default();
    let set = ArchiveSet::choose("zurg", &[], &none, &none, None, NOW).unwrap();
    let locked = lock.find(&key).unwrap();
    assert_eq!(locked, packages);
    assert_eq!(
        support::download(&locked, &set, snapshot, scene.world.outside())
            .unwrap()
            .len(),
        2
    );
    assert!(scene.world.asked.lock().unwrap().is_empty());
}

#[test]
fn what_the_mirror_lost_comes_from_the_snapshot_archive() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let packages = scene.packages(&["app"]);
    let snapshot = "20260711T101637Z".parse().unwrap();
    let lost = scene.path("debian").join(&packages[0].path);
    let kept = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    let error =
        support::download(&packages, &scene.set(), snapshot, scene.world.outside()).unwrap_err();
    assert!(matches!(error, DownloadError::Gone { .. }));
    let text = error.to_string();
    assert!(
        text.contains("`lib` 2.1") && text.contains("kiln lock --update"),
        "{text}"
    );
    // A snapshot taken some hours after the index was signed has it.
    let later = scene
        .path("snapshot/debian/20260711T161637Z")
        .join(&packages[0].path);
    fs::create_dir_all(later.parent().unwrap()).unwrap();
    fs::write(&later, kept).unwrap();
    let found =
        support::download(&packages, &scene.set(), snapshot, scene.world.outside()).unwrap();
    assert_eq!(found.len(), 2);
}

#[test]
fn a_file_that_is_not_the_locked_one_is_not_kept() {
    let scene = Scene::new();
    scene.archive.publish("zurg", &scene.key);
    let packages = scene.packages(&["app"]);
    let snapshot = "20260711T101637Z".parse().unwrap();
    let path = scene.path("debian").join(&packages[1].path);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error =
        support::download(&packages, &scene.set(), snapshot, scene.world.outside()).unwrap_err();
    assert!(
        matches!(error, DownloadError::WrongContent { .. }),
        "{error}"
    );
    let kept: Vec<_> = fs::read_dir(&scene.world.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    let bad = packages[1].sha256.hex();
    assert!(kept.iter().all(|name| *name != *bad), "{kept:?}");
    let mut evil = packages[0].clone();
    evil.sha256 = kiln_oci::Digest::of(b"");
    evil.path = "../../etc/passwd".to_owned();
    let error =
        support::download(&[evil], &scene.set(), snapshot, scene.world.outside()).unwrap_err();
    assert!(matches!(error, DownloadError::Path { .. }), "{error}");
}
