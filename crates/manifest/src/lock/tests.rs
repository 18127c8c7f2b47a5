//! The lock is read back as it was written, and refused where it is wrong.

use miette::{GraphicalReportHandler, GraphicalTheme};
use proptest::prelude::*;

use super::*;

const SAMPLE: &str = include_str!("tests/sample.lock");

fn sample() -> Lock {
    let mut lock = Lock::new(1);
    let digest = Digest::of(b"sample");
    lock.images.insert(
        "docker.io/library/debian:12-slim".to_owned(),
        ImagePin {
            digest,
            platforms: [
                ("linux/amd64".to_owned(), digest),
                ("linux/arm64".to_owned(), digest),
            ]
            .into(),
        },
    );
    lock.urls.insert(
        "https://example.com/a.tar.gz".to_owned(),
        UrlPin {
            sha256: digest,
            size_bytes: 12,
        },
    );
    lock.git.insert(
        GitKey {
            url: "https://example.com/a.git".to_owned(),
            reference: "v1".to_owned(),
        },
        "0123456789abcdef0123456789abcdef01234567".to_owned(),
    );
    let package = PackageKey {
        name: "libc6".to_owned(),
        version: "2.36-9+deb12u9".to_owned(),
    };
    let pin = PackagePin {
        architecture: "amd64".to_owned(),
        size_bytes: 2_755_000,
        sha256: digest,
        path: "pool/main/g/glibc/libc6_2.36-9+deb12u9_amd64.deb".to_owned(),
    };
    let set = SetKey {
        request: ["libc6".to_owned()].into(),
        over: "0123456789ab".to_owned(),
    };
    lock.debian.insert(
        SuiteKey {
            suite: "bookworm".to_owned(),
            architecture: "amd64".to_owned(),
            components: ["main".to_owned()].into(),
            fixed_snapshot: None,
        },
        SuitePin {
            snapshot: "20250131T120000Z".to_owned(),
            packages: [(package.clone(), pin)].into(),
            sets: [(set, vec![package])].into(),
        },
    );
    lock
}

#[test]
fn the_text_is_as_pinned() {
    assert_eq!(sample().to_text(), SAMPLE);
    assert_eq!(Lock::parse("kiln.lock", SAMPLE).unwrap(), sample());
}

/// Renders the error of a changed sample.
fn refused(from: &str, to: &str) -> String {
    assert!(SAMPLE.contains(from), "{from}");
    let text = SAMPLE.replacen(from, to, 1);
    let error = Lock::parse("kiln.lock", &text).unwrap_err();
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .render_report(&mut out, &error)
        .unwrap();
    out
}

#[test]
fn what_is_wrong_is_pointed_at() {
    let table = [
        ("version = 1", "version = 2", "lock::unknown_version"),
        (
            "version = 1",
            "version = \"1\"",
            "`version` is not a number",
        ),
        ("version = 1\n", "", "`version` is missing"),
        ("layer-format", "layer-formal", "unknown field"),
        ("size = 12", "size = -1", "invalid value"),
        ("ref = \"v1\"", "ref = \"v1", "invalid basic string"),
        (
            "version = 1",
            "<<<<<<< HEAD\nversion = 1",
            "lock::merge_conflict",
        ),
        ("sha256 = \"", "sha256 = \"zz", "lock::invalid"),
        ("\"pool/", "\"../pool/", "below an archive's root"),
        ("\"pool/", "\"https://host/", "below an archive's root"),
        (
            "\"libc6=2.36-9",
            "\"libc6=2.37-9",
            "not among the suite's packages",
        ),
        (
            "over = \"0123456789ab\"",
            "over = \"xyz\"",
            "12 to 64 hex digits",
        ),
        ("20250131T120000Z", "yesterday", "is not a time"),
        ("commit = \"0", "commit = \"", "is not a commit"),
    ];
    for (from, to, expected) in table {
        let shown = refused(from, to);
        assert!(shown.contains(expected), "{from} -> {to}:\n{shown}");
        assert!(shown.contains("kiln.lock:"), "no place shown:\n{shown}");
    }
}

/// Each code as a user sees it; `UPDATE=1` writes the pictures anew.
#[test]
fn each_code_is_as_pinned() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lock/tests");
    #[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
    let update = std::env::var_os("UPDATE").is_some();
    for (name, from, to) in [
        (
            "merge_conflict",
            "[url",
            "<<<<<<< HEAD\n=======\n>>>>>>> branch\n[url",
        ),
        ("unknown_version", "version = 1", "version = 2"),
        ("invalid", "\"pool/", "\"../pool/"),
    ] {
        let shown = refused(from, to);
        let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
        let shown = shown.join("\n") + "\n";
        let pinned = folder.join(name).with_extension("stderr");
        if update {
            std::fs::write(&pinned, &shown).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&pinned).unwrap(), shown);
        assert!(shown.contains(&format!("lock::{name}\n")), "{shown}");
    }
}

#[test]
fn a_pin_is_not_taken_twice() {
    let git = SAMPLE.find("[[git]]").unwrap();
    let end = git + SAMPLE[git..].find("\n\n").unwrap();
    let text = SAMPLE.replace("[[git]]", &format!("{}\n\n[[git]]", &SAMPLE[git..end]));
    let error = Lock::parse("kiln.lock", &text).unwrap_err();
    assert!(error.to_string().contains("pinned twice"), "{error}");
}

fn words() -> impl Strategy<Value = String> {
    // Any text may stand in a reference or URL as far as the writer is concerned.
    proptest::string::string_regex("[a-z\"\\\\\n\t é=.#\u{7f}]{0,12}").unwrap()
}

prop_compose! {
    fn any_lock()(
        layer_format in any::<u32>(),
        images in prop::collection::btree_map(words(), prop::collection::btree_map(words(), any::<[u8; 32]>(), 0..3), 0..4),
        urls in prop::collection::btree_map(words(), any::<u32>(), 0..4),
        git in prop::collection::btree_map((words(), words()), "[0-9a-f]{40}", 0..4),
        packages in prop::collection::btree_set(("[a-z0-9][a-z0-9+.-]{0,6}", "[0-9][0-9a-zA-Z.+~:-]{0,6}"), 0..6),
        requests in prop::collection::btree_map("[0-9a-f]{12}", prop::collection::btree_set(words(), 0..3), 0..3),
        fixed in any::<bool>(),
    ) -> Lock {
        let mut lock = Lock::new(layer_format);
        let digest = Digest::of(b"x");
        for (reference, platforms) in images {
            let platforms = platforms.into_iter().map(|(name, raw)| (name, Digest::from_raw(raw))).collect();
            lock.images.insert(reference, ImagePin { digest, platforms });
        }
        for (url, size) in urls {
            lock.urls.insert(url, UrlPin { sha256: digest, size_bytes: u64::from(size) });
        }
        for ((url, reference), commit) in git {
            lock.git.insert(GitKey { url, reference }, commit);
        }
        let keys: Vec<PackageKey> = packages.into_iter().map(|(name, version)| PackageKey { name, version }).collect();
        let pin = PackagePin { architecture: "all".to_owned(), size_bytes: 1, sha256: digest, path: "pool/a".to_owned() };
        let snapshot = "20250131T120000Z".to_owned();
        let suite = SuitePin {
            snapshot: snapshot.clone(),
            packages: keys.iter().map(|key| (key.clone(), pin.clone())).collect(),
            sets: requests.into_iter().map(|(over, request)| (SetKey { request, over }, keys.iter().rev().cloned().collect())).collect(),
        };
        lock.debian.insert(SuiteKey {
            suite: "bookworm".to_owned(),
            architecture: "amd64".to_owned(),
            components: ["main".to_owned()].into(),
            fixed_snapshot: fixed.then_some(snapshot),
        }, suite);
        lock
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(lock in any_lock()) {
        let text = lock.to_text();
        let again = Lock::parse("kiln.lock", &text).unwrap();
        prop_assert_eq!(&again, &lock);
        prop_assert_eq!(again.to_text(), text);
    }

    #[test]
    fn mutated_text_never_panics(at in 0..SAMPLE.len(), with in "[\"\\[\\]{}=,\n a0-]{0,3}") {
        let mut text = SAMPLE.to_owned();
        text.replace_range(at..(at + 1), &with);
        if let Ok(lock) = Lock::parse("kiln.lock", &text) {
            prop_assert_eq!(Lock::parse("kiln.lock", &lock.to_text()).unwrap(), lock);
        }
    }
}
