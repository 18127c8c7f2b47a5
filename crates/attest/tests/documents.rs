//! What the sources say, and the documents that are made of it.

use expect_test::expect;
use kiln_attest::{
    Component, Dependency, Distribution, Inventory, PROVENANCE_TYPE, Provenance, SbomFormat,
    Source, Statement, Subject, fits_file_name,
};
use kiln_manifest::lock::Lock;
use kiln_oci::{Digest, ImageId};
use serde_json::Value;

const DEBIAN: &str = "NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n";

const DPKG: &str = "Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u4
Description: GNU C Library
 Package: not a field

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: tzdata
Status: hold ok installed
Architecture: all
Version: 1:2024a-0
";

const LOCK: &str = r#"
version = 1
layer-format = 1

[image."registry.example.com/team/base:1"]
digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

[image."registry.example.com/team/base:1".platforms]
"linux/amd64" = "sha256:2222222222222222222222222222222222222222222222222222222222222222"

[url."https://user:secret@example.com/tool-1.0.tar.gz"]
sha256 = "3333333333333333333333333333333333333333333333333333333333333333"
size = 10

[[git]]
url = "https://example.com/team/lib.git"
ref = "v1"
commit = "4444444444444444444444444444444444444444"

[[debian]]
suite = "bookworm"
architecture = "amd64"
components = ["main"]
snapshot = "20240101T000000Z"
packages = [
  { name = "libc6", version = "2.36-9+deb12u4", architecture = "amd64", size = 5, sha256 = "5555555555555555555555555555555555555555555555555555555555555555", path = "pool/main/g/glibc/libc6.deb" },
]

[[debian.set]]
request = ["libc6"]
over = "000000000000"
packages = ["libc6=2.36-9+deb12u4"]
"#;

fn lock() -> Lock {
    Lock::parse("kiln.lock", LOCK).expect("a lock")
}

/// What one source adds, a line each.
fn found(source: Source, text: &str) -> String {
    let mut inventory = Inventory::default();
    inventory
        .read(source, "path", text, &Distribution::parse(DEBIAN))
        .expect("a source");
    lines(&inventory)
}

fn lines(inventory: &Inventory) -> String {
    let line = |component: &Component| {
        let Component {
            role,
            name,
            version,
            purl,
            licence,
            checksums,
            ..
        } = component;
        let purl = purl.as_ref().map_or("-".to_owned(), ToString::to_string);
        let licence = licence.as_deref().unwrap_or("-");
        let sums: Vec<String> = checksums
            .iter()
            .map(|(algorithm, hex)| format!("{algorithm:?}:{}", &hex[..4]))
            .collect();
        let sums = sums.join(" ");
        let text = format!("{role:?} {name} {version} {purl} {licence} {sums}");
        text.trim_end().to_owned() + "\n"
    };
    inventory.components().map(line).collect()
}

fn subject() -> Subject {
    Subject {
        name: "registry.example.com/team/app".to_owned(),
        id: ImageId(Digest::of(b"config")),
        pushed: Some((
            Digest::of(b"manifest"),
            "registry.example.com/team/app:1"
                .parse()
                .expect("a reference"),
        )),
        architecture: "amd64".to_owned(),
        created: "1980-01-01T00:00:00Z".to_owned(),
    }
}

fn inventory() -> Inventory {
    let distribution = Distribution::parse(DEBIAN);
    let mut inventory = Inventory::default();
    inventory.add_distribution(&distribution);
    let mut read = |source, path, text| inventory.read(source, path, text, &distribution);
    read(Source::Dpkg, "var/lib/dpkg/status", DPKG).expect("a database");
    read(
        Source::Apk,
        "lib/apk/db/installed",
        "P:odd\nV:1\nA:x86_64\nL:MIT odd\n",
    )
    .expect("apk");
    read(Source::Rpm, "var/lib/rpm/rpmdb.sqlite", "").expect("a note");
    inventory.read_lock(&lock(), "linux/amd64", &distribution);
    inventory
}

#[test]
fn installed_packages_of_dpkg_are_those_with_files() {
    expect![[r#"
        Installed libc6 2.36-9+deb12u4 pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12 -
        Installed tzdata 1:2024a-0 pkg:deb/debian/tzdata@1:2024a-0?arch=all&distro=debian-12 -
    "#]]
    .assert_eq(&found(Source::Dpkg, DPKG));
    // Images without dpkg have a file for each package, without a state.
    let alone = "Package: base-files\nVersion: 12\nArchitecture: amd64\n";
    assert!(found(Source::Dpkg, alone).starts_with("Installed base-files 12 pkg:deb/debian/"));
    let mut inventory = Inventory::default();
    let broken = "Package: a\n\nVersion: 1\n";
    let error = inventory
        .read(Source::Dpkg, "p", broken, &Distribution::default())
        .expect_err("no version");
    assert_eq!(
        error.to_string(),
        "`p` cannot be read: an entry has no `Package:` or no `Version:`"
    );
    assert_eq!(inventory, Inventory::default());
}

#[test]
fn packages_of_apk_have_licences() {
    let text =
        "C:Q1x\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\np:so:libc=1\nF:lib\nR:ld.so\n\nP:b\nV:2\n";
    let mut inventory = Inventory::default();
    let alpine = Distribution::parse("ID=alpine\nVERSION_ID=3.18.4\n");
    inventory
        .read(Source::Apk, "p", text, &alpine)
        .expect("a database");
    expect![[r#"
        Installed b 2 pkg:apk/alpine/b@2?distro=alpine-3.18.4 -
        Installed musl 1.2.4-r2 pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.18.4 MIT
    "#]]
    .assert_eq(&lines(&inventory));
}

#[test]
fn lock_files_of_languages_name_packages() {
    let cargo = r#"
version = 4
[[package]]
name = "own"
version = "0.1.0"
[[package]]
name = "serde"
version = "1.0.0"
source = "registry+https://example.com/crates.io-index"
checksum = "6666666666666666666666666666666666666666666666666666666666666666"
[[package]]
name = "forked"
version = "0.2.0"
source = "git+https://user:secret@example.com/forked?branch=x#4444444444444444444444444444444444444444"
[[package]]
name = "inner"
version = "0.3.0"
source = "sparse+https://example.com/index/"
"#;
    expect![[r#"
        Named own 0.1.0 - -
        Named forked 0.2.0 pkg:cargo/forked@0.2.0?vcs_url=git%2Bhttps:%2F%2Fexample.com%2Fforked%3Fbranch%3Dx%404444444444444444444444444444444444444444 -
        Named inner 0.3.0 pkg:cargo/inner@0.3.0?repository_url=https:%2F%2Fexample.com%2Findex%2F -
        Named serde 1.0.0 pkg:cargo/serde@1.0.0 - Sha256:6666
    "#]]
    .assert_eq(&found(Source::Cargo, cargo));
    let go = "example.com/A/b v1.0.0 h1:xyz=\nexample.com/A/b v1.0.0/go.mod h1:abc=\nexample.com/c v2.0.0/go.mod h1:d=\n";
    expect![[r#"
        Named example.com/A/b v1.0.0 pkg:golang/example.com/a/b@v1.0.0 -
    "#]]
    .assert_eq(&found(Source::Go, go));
}

#[test]
fn every_version_of_npms_lock_is_read() {
    let third = r#"{"lockfileVersion": 3, "packages": {
        "": {"name": "app", "version": "1.0.0"},
        "packages/part": {"version": "0.1.0"},
        "node_modules/part": {"resolved": "packages/part", "link": true},
        "node_modules/@a/b": {"version": "2.0.0", "license": "MIT", "integrity": "sha1-qvTGHdzF6KLavt4PO0gs2a6pQ00= sha512-MJ7MSJwS1utMxA9QyQLytNDtd+5RGnx6m808qG1M2G+YndNbxf9JlnDaNCVbRbDP2DDoH2Bdz33FVC6TrpzXbw=="},
        "node_modules/@a/b/node_modules/c": {"name": "real-c", "version": "3.0.0", "license": ["MIT"]}
    }}"#;
    expect![[r#"
        Named @a/b 2.0.0 pkg:npm/%40a/b@2.0.0 MIT Sha1:aaf4 Sha512:309e
        Named real-c 3.0.0 pkg:npm/real-c@3.0.0 -
    "#]]
    .assert_eq(&found(Source::Npm, third));
    let first = r#"{"lockfileVersion": 1, "dependencies": {"a": {"version": "1.0.0", "requires": {"b": "^2"},
        "dependencies": {"b": {"version": "2.0.0"}}}}}"#;
    expect![[r#"
        Named a 1.0.0 pkg:npm/a@1.0.0 -
        Named b 2.0.0 pkg:npm/b@2.0.0 -
    "#]]
    .assert_eq(&found(Source::Npm, first));
}

#[test]
fn python_is_read_where_it_is_installed_and_where_it_is_pinned() {
    let metadata = "Metadata-Version: 2.4\nName: Foo_Bar\nVersion: 1.2\nLicense-Expression: MIT OR Apache-2.0\nLicense: old\n\nName: text\n";
    let pins = "# all of them\nflask==3.0.0 \\\n    --hash=sha256:7777777777777777777777777777777777777777777777777777777777777777\nrequests[socks]==2.31.0 ; python_version > \"3\" --hash=sha256:88 --hash=sha256:99\nloose>=1\n-r other.txt\nany==1.*\n";
    let poetry = "[[package]]\nname = \"Some_Thing\"\nversion = \"1.0\"\n[[package]]\nname = \"own\"\nversion = \"0.1\"\nsource = { editable = \".\" }\n[[package]]\nname = \"none\"\n";
    expect![[r#"
        Installed Foo_Bar 1.2 pkg:pypi/foo-bar@1.2 MIT OR Apache-2.0
        ---
        Named flask 3.0.0 pkg:pypi/flask@3.0.0 - Sha256:7777
        Named requests 2.31.0 pkg:pypi/requests@2.31.0 -
        ---
        Named own 0.1 - -
        Named Some_Thing 1.0 pkg:pypi/some-thing@1.0 -
    "#]]
    .assert_eq(
        &[
            found(Source::PythonMetadata, metadata),
            found(Source::Requirements, pins),
            found(Source::PythonLock, poetry),
        ]
        .join("---\n"),
    );
}

#[test]
fn kiln_lock_adds_what_was_used_and_no_secrets() {
    let mut inventory = Inventory::default();
    let distribution = Distribution::parse(DEBIAN);
    inventory
        .read(Source::Dpkg, "p", DPKG, &distribution)
        .expect("a database");
    inventory.read_lock(&lock(), "linux/amd64", &distribution);
    expect![[r#"
        Installed libc6 2.36-9+deb12u4 pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12 - Sha256:5555
        Installed tzdata 1:2024a-0 pkg:deb/debian/tzdata@1:2024a-0?arch=all&distro=debian-12 -
        Used lib 4444444444444444444444444444444444444444 pkg:generic/lib@4444444444444444444444444444444444444444?vcs_url=git%2Bhttps:%2F%2Fexample.com%2Fteam%2Flib.git%404444444444444444444444444444444444444444 -
        Used tool-1.0.tar.gz  pkg:generic/tool-1.0.tar.gz?checksum=sha256:3333333333333333333333333333333333333333333333333333333333333333&download_url=https:%2F%2Fexample.com%2Ftool-1.0.tar.gz - Sha256:3333
        Base registry.example.com/team/base:1 sha256:2222222222222222222222222222222222222222222222222222222222222222 pkg:oci/base@sha256:2222222222222222222222222222222222222222222222222222222222222222?repository_url=registry.example.com%2Fteam%2Fbase&tag=1 - Sha256:2222
    "#]]
    .assert_eq(&lines(&inventory));
    for format in [SbomFormat::Spdx, SbomFormat::CycloneDx] {
        let bytes = inventory.write(format, &subject(), "0");
        assert!(!String::from_utf8(bytes).expect("text").contains("secret"));
    }
}

#[test]
fn files_are_told_by_their_names() {
    for (path, expected) in [
        ("var/lib/dpkg/status", Some(Source::Dpkg)),
        ("srv/var/lib/dpkg/status", None),
        ("var/lib/dpkg/status.d/libc6", Some(Source::Dpkg)),
        ("var/lib/dpkg/status.d/libc6.md5sums", None),
        (
            "usr/lib/python3/a-1.dist-info/METADATA",
            Some(Source::PythonMetadata),
        ),
        (
            "usr/lib/python3/a.egg-info/PKG-INFO",
            Some(Source::PythonMetadata),
        ),
        ("METADATA", None),
        ("Cargo.lock", Some(Source::Cargo)),
        ("srv/node_modules/.package-lock.json", Some(Source::Npm)),
        ("requirements-dev.txt", Some(Source::Requirements)),
        ("a/my-requirements.txt", None),
    ] {
        assert_eq!(fits_file_name(path), expected, "{path}");
    }
}

/// The rules of SPDX 2.3 that a reader relies on, and that its schema does not say all of.
fn check_spdx(document: &Value) {
    let ids: Vec<&str> = document["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| package["SPDXID"].as_str().expect("an identifier"))
        .collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), ids.len(), "identifiers are unique");
    for id in &ids {
        let rest = id.strip_prefix("SPDXRef-").expect("the prefix");
        assert!(
            rest.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        );
    }
    for package in document["packages"].as_array().expect("packages") {
        for field in [
            "name",
            "downloadLocation",
            "licenseDeclared",
            "licenseConcluded",
        ] {
            assert!(package[field].is_string(), "{field} of {package}");
        }
        // Without it a reader expects the digest of all files.
        assert_eq!(package["filesAnalyzed"], false);
    }
    let related = document["relationships"].as_array().expect("relationships");
    assert_eq!(related.len(), ids.len(), "each package has one");
    for relationship in related {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            let end = relationship[end].as_str().expect("an identifier");
            assert!(end == "SPDXRef-DOCUMENT" || ids.contains(&end), "{end}");
        }
    }
}

#[test]
fn an_spdx_document_is_pinned() {
    let bytes = inventory().write(SbomFormat::Spdx, &subject(), "1.0.0");
    let document: Value = serde_json::from_slice(&bytes).expect("JSON");
    check_spdx(&document);
    expect_test::expect_file!["documents/spdx.json"]
        .assert_eq(&(serde_json::to_string_pretty(&document).expect("JSON") + "\n"));
}

#[test]
fn a_cyclonedx_document_is_pinned() {
    let bytes = inventory().write(SbomFormat::CycloneDx, &subject(), "1.0.0");
    let document: Value = serde_json::from_slice(&bytes).expect("JSON");
    let references: Vec<&Value> = document["components"]
        .as_array()
        .expect("components")
        .iter()
        .map(|component| &component["bom-ref"])
        .collect();
    let depends = document["dependencies"][0]["dependsOn"]
        .as_array()
        .expect("a list");
    assert_eq!(depends.iter().collect::<Vec<_>>(), references);
    expect_test::expect_file!["documents/cyclonedx.json"]
        .assert_eq(&(serde_json::to_string_pretty(&document).expect("JSON") + "\n"));
}

#[test]
fn equal_lists_are_equal_bytes_whatever_the_order() {
    let distribution = Distribution::parse(DEBIAN);
    let mut turned = Inventory::default();
    turned
        .read(Source::Rpm, "var/lib/rpm/rpmdb.sqlite", "", &distribution)
        .expect("a note");
    let apk = "P:odd\nV:1\nA:x86_64\nL:MIT odd\n";
    turned
        .read(Source::Apk, "lib/apk/db/installed", apk, &distribution)
        .expect("apk");
    let mut paragraphs: Vec<&str> = DPKG.split("\n\n").collect();
    paragraphs.reverse();
    let dpkg = paragraphs.join("\n\n");
    turned
        .read(Source::Dpkg, "var/lib/dpkg/status", &dpkg, &distribution)
        .expect("dpkg");
    turned.add_distribution(&distribution);
    turned.read_lock(&lock(), "linux/amd64", &distribution);
    assert_eq!(turned, inventory());
}

#[test]
fn provenance_is_pinned() {
    let provenance = Provenance {
        target: "app".to_owned(),
        arguments: [("mode".to_owned(), "fast".to_owned())].into(),
        profiles: vec!["release".to_owned()],
        platform: "linux/amd64".to_owned(),
        epoch_seconds: Some(315_532_800),
        manifest: Digest::of(b"schema = 1\n"),
        dependencies: Dependency::of_lock(&lock(), "linux/amd64"),
        version: "1.0.0".to_owned(),
    };
    let name = "registry.example.com/team/app";
    let digest = Digest::of(b"manifest");
    let statement = Statement::new(name, digest, PROVENANCE_TYPE, provenance.predicate());
    let bytes = statement.to_bytes();
    assert_eq!(Statement::parse(&bytes).expect("a statement"), statement);
    assert!(statement.is_about(digest) && !statement.is_about(Digest::of(b"other")));
    let document: Value = serde_json::from_slice(&bytes).expect("JSON");
    let text = serde_json::to_string_pretty(&document).expect("JSON") + "\n";
    assert!(!text.contains("secret"));
    expect_test::expect_file!["documents/provenance.json"].assert_eq(&text);
}
