//! Statements about images in a registry: attached, listed, verified, forged.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::fixtures::own_registry::sha256;
use crate::fixtures::{Registry, busybox_project, http, rewrite_busybox_project};
use crate::space::{Run, TestSpace, host};

const PASSWORD: &str = "correct horse";

const STEPS: &str = r#"
[image.app.step.system]
run = """
mkdir -p /var/lib/dpkg /etc
printf 'ID=debian\nVERSION_ID="12"\n' > /etc/os-release
printf 'Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n' > /var/lib/dpkg/status
"""
[image.app.step.build]
needs = ["system"]
run = "echo built > /built"
files = ["Cargo.lock"]
workdir = "/work"
"#;

const CARGO_LOCK: &str = "version = 4\n[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\n\
    source = \"registry+https://example.com/crates.io-index\"\n";

/// A built project, a registry and a pair of keys.
fn start() -> (TestSpace, Registry) {
    let space = busybox_project(STEPS);
    space.write("Cargo.lock", CARGO_LOCK);
    space.kiln_ok(["build"]);
    let registry = Registry::start(&space);
    sealed(&space, &["generate-key"]).assert_code(0);
    (space, registry)
}

/// Runs kiln where the password is known.
fn sealed(space: &TestSpace, arguments: &[&str]) -> Run {
    space.run(
        space
            .command()
            .args(arguments)
            .env("COSIGN_PASSWORD", PASSWORD),
    )
}

/// The hex digits behind the `@sha256:` of the only line.
fn hex(run: &Run) -> &str {
    let (_, hex) = run
        .stdout
        .trim_end()
        .split_once("@sha256:")
        .expect("a digest");
    hex
}

fn referrers(space: &TestSpace, name: &str) -> Vec<Value> {
    let listed = space
        .kiln_ok(["referrers", "--format", "json", name])
        .stdout;
    serde_json::from_str(&listed).expect("a list")
}

fn types(referrers: &[Value]) -> Vec<&str> {
    let mut types: Vec<&str> = referrers
        .iter()
        .map(|entry| entry["artifactType"].as_str().expect("a type"))
        .collect();
    types.sort_unstable();
    types
}

fn raw(space: &TestSpace, name: &str) -> Value {
    let raw = host(
        Command::new("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false"])
            .arg(format!("docker://{name}"))
            .env("HOME", space.path()),
    );
    serde_json::from_str(&raw).expect("a document")
}

/// Where the registry keeps a blob or manifest.
fn blob(space: &TestSpace, digest: &Value) -> PathBuf {
    let digest = digest.as_str().expect("a digest");
    let hex = digest.strip_prefix("sha256:").expect("SHA-256");
    let data = space
        .path()
        .join("registry/data/docker/registry/v2/blobs/sha256");
    data.join(&hex[..2]).join(hex).join("data")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a blob")).expect("JSON")
}

/// Puts a manifest under a tag, past all that kiln would do.
fn put(registry: &Registry, repository: &str, tag: &str, manifest: &Value) {
    let body = manifest.to_string();
    let mut stream = TcpStream::connect(registry.host()).expect("the registry");
    let request = format!(
        "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: {}\r\nContent-Length: {}\r\n\r\n{body}",
        registry.host(),
        manifest["mediaType"]
            .as_str()
            .unwrap_or("application/vnd.oci.image.manifest.v1+json"),
        body.len()
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn statements_are_attached_once_and_the_image_stays_one_image() {
    let (space, registry) = start();
    let name = format!("{}/team/app:1", registry.host());
    let plain = space.kiln_ok(["push", "app", &name]);
    let before = raw(&space, &name);
    let all = [
        "push",
        "--sbom",
        "spdx",
        "--sbom",
        "cyclonedx",
        "--provenance",
        "--sign",
        "kiln.key",
        "app",
        &name,
    ];
    let pushed = sealed(&space, &all);
    pushed.assert_code(0);
    assert_eq!(pushed.stdout, plain.stdout);
    assert_eq!(raw(&space, &name), before);
    let attached = referrers(&space, &name);
    assert_eq!(
        types(&attached),
        [
            "application/vnd.dev.cosign.artifact.sig.v1+json",
            "application/vnd.dsse.envelope.v1+json",
            "application/vnd.dsse.envelope.v1+json",
            "application/vnd.dsse.envelope.v1+json",
        ]
    );
    // The same again changes nothing at all.
    sealed(&space, &all).assert_code(0);
    assert_eq!(referrers(&space, &name), attached);
    let list = raw(
        &space,
        &format!("{}/team/app:sha256-{}.att", registry.host(), hex(&plain)),
    );
    assert_eq!(list["layers"].as_array().map(Vec::len), Some(3));

    let verified = space.kiln_ok([
        "verify-signature",
        "--key",
        "kiln.pub",
        "--statement",
        "spdx",
        "--statement",
        "cyclonedx",
        "--statement",
        "provenance",
        &name,
    ]);
    assert_eq!(verified.stdout, plain.stdout);
    let signatures = space
        .kiln_ok(["referrers", "--type", "signature", &name])
        .stdout;
    assert_eq!(signatures.lines().count(), 2, "{signatures}");
}

#[test]
fn openssl_verifies_what_kiln_signs_and_kiln_takes_its_keys() {
    let (space, registry) = start();
    let name = format!("{}/team/app:1", registry.host());
    let pushed = sealed(&space, &["push", "--sign", "kiln.key", "app", &name]);
    let list = format!("{}/team/app:sha256-{}.sig", registry.host(), hex(&pushed));
    let layer = raw(&space, &list)["layers"][0].clone();
    let signature = &layer["annotations"]["dev.cosignproject.cosign/signature"];
    space.write("signature.b64", signature.as_str().expect("a signature"));
    fs::copy(
        blob(&space, &layer["digest"]),
        space.project().join("payload"),
    )
    .expect("a payload");
    // What cosign looks at once the signature holds.
    let signed = read(&space.project().join("payload"));
    let critical = &signed["critical"];
    assert_eq!(critical["type"], "cosign container image signature");
    assert_eq!(
        critical["image"]["docker-manifest-digest"],
        format!("sha256:{}", hex(&pushed))
    );
    assert_eq!(
        critical["identity"]["docker-reference"],
        format!("{}/team/app", registry.host())
    );
    assert_eq!(
        layer["mediaType"],
        "application/vnd.dev.cosign.simplesigning.v1+json"
    );
    let script = "openssl base64 -d -A -in signature.b64 -out signature && \
        openssl dgst -sha256 -verify kiln.pub -signature signature payload && \
        openssl ecparam -name prime256v1 -genkey -out sec1.pem && \
        openssl pkcs8 -topk8 -nocrypt -in sec1.pem -out pkcs8.pem && \
        openssl ec -in sec1.pem -pubout -out other.pub";
    let said = host(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(space.project()),
    );
    assert!(said.contains("Verified OK"), "{said}");

    let other = space.kiln(["verify-signature", "--key", "other.pub", &name]);
    other.assert_code(1);
    other.assert_says("that `other.pub` verifies");
    // Both forms are one key, so that the second adds nothing.
    space.kiln_ok(["push", "--sign", "sec1.pem", "app", &name]);
    space.kiln_ok(["push", "--sign", "pkcs8.pem", "app", &name]);
    assert_eq!(referrers(&space, &name).len(), 2);
    for key in ["kiln.pub", "other.pub"] {
        space.kiln_ok(["verify-signature", "--key", key, &name]);
    }
    assert_eq!(
        raw(&space, &list)["layers"].as_array().map(Vec::len),
        Some(2)
    );
}

/// Puts a blob into a repository, past all that kiln would do; returns its descriptor.
fn put_blob(registry: &Registry, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
    let host = registry.host();
    let digest = sha256(bytes);
    let begun = http::request(
        &host,
        "POST",
        &format!("/v2/{repository}/blobs/uploads/"),
        &[],
        b"",
    )
    .expect(202);
    let place = begun.header("location").expect("a location");
    let (_, place) = place.split_once(&host).expect("a place in the registry");
    let path = format!("{place}&digest={digest}");
    http::request(&host, "PUT", &path, &[], bytes).expect(201);
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}

/// Neither program of kiln has a part in these signatures: the layouts are cosign's, the key and the signature
/// are openssl's.
#[test]
fn kiln_takes_what_openssl_signed_in_the_layouts_of_cosign() {
    let (space, registry) = start();
    let script = "openssl ecparam -name prime256v1 -genkey -out key.pem && \
        openssl ec -in key.pem -pubout -out key.pub && \
        openssl dgst -sha256 -sign key.pem -out signature payload && \
        openssl base64 -A -in signature";
    let sign = |payload: &Value| {
        space.write("payload", payload.to_string());
        let mut openssl = Command::new("sh");
        openssl.args(["-ec", script]).current_dir(space.project());
        host(&mut openssl)
    };
    for repository in ["team/tagged", "team/referring"] {
        let name = format!("{}/{repository}:1", registry.host());
        let pushed = space.kiln_ok(["push", "app", &name]);
        let verify = || space.kiln(["verify-signature", "--key", "key.pub", &name]);
        // As cosign writes it: `optional` is null without annotations.
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": format!("{}/{repository}", registry.host()) },
                "image": { "docker-manifest-digest": format!("sha256:{}", hex(&pushed)) },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let signature = sign(&payload);
        verify().assert_code(1).assert_says("has no signature");
        let simple = "application/vnd.dev.cosign.simplesigning.v1+json";
        let payload = payload.to_string();
        let mut layer = put_blob(&registry, repository, simple, payload.as_bytes());
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "layers": [layer],
        });
        if repository == "team/tagged" {
            let config = json!({
                "architecture": "", "os": "", "created": "0001-01-01T00:00:00Z", "config": {},
                "history": [{ "created": "0001-01-01T00:00:00Z" }],
                "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
            })
            .to_string();
            let config_type = "application/vnd.oci.image.config.v1+json";
            manifest["config"] = put_blob(&registry, repository, config_type, config.as_bytes());
            let tag = format!("sha256-{}.sig", hex(&pushed));
            put(&registry, repository, &tag, &manifest);
        } else {
            // cosign's way of OCI 1.1; this registry has no list of referrers, so that there is one under a tag.
            let artifact = "application/vnd.dev.cosign.artifact.sig.v1+json";
            manifest["config"] = put_blob(&registry, repository, artifact, b"{}");
            let image = raw(&space, &name);
            manifest["subject"] = json!({
                "mediaType": image["mediaType"],
                "digest": format!("sha256:{}", hex(&pushed)),
                "size": image_bytes(&space, &name),
            });
            let body = manifest.to_string();
            let digest = sha256(body.as_bytes());
            put(&registry, repository, &digest, &manifest);
            let index = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.index.v1+json",
                "manifests": [{
                    "mediaType": manifest_type, "digest": digest, "size": body.len(),
                    "artifactType": artifact,
                }],
            });
            let tag = format!("sha256-{}", hex(&pushed));
            put(&registry, repository, &tag, &index);
        }
        let verified = verify();
        verified.assert_code(0);
        assert_eq!(verified.stdout, pushed.stdout);
        let other = space.kiln(["verify-signature", "--key", "kiln.pub", &name]);
        other.assert_code(1).assert_says("that `kiln.pub` verifies");
        // Whoever signs with cosign sees it in the list, and has it in a copy.
        let listed = referrers(&space, &name);
        let artifact = "application/vnd.dev.cosign.artifact.sig.v1+json";
        assert_eq!(types(&listed), [artifact]);
        let copy = format!("{}/copies/{repository}:1", registry.host());
        space.kiln_ok(["copy", "--referrers", &name, &copy]);
        assert_eq!(referrers(&space, &copy), listed);
        let there = ["verify-signature", "--key", "key.pub", "--identity"];
        space.kiln_ok([&there[..], &[&name, &copy]].concat());
    }
}

#[test]
fn what_is_attached_goes_with_a_copy_that_wants_it() {
    let (space, registry) = start();
    sealed(&space, &["generate-key", "--output", "other"]).assert_code(0);
    let name = format!("{}/team/app", registry.host());
    let arguments = ["push", "--sbom", "spdx", "--provenance", "--sign"];
    let pushed = sealed(
        &space,
        &[&arguments[..], &["kiln.key", "app", &name]].concat(),
    );
    let plain = format!("{}/plain/app", registry.host());
    space.kiln_ok(["copy", &name, &plain]);
    assert_eq!(referrers(&space, &plain), [] as [Value; 0]);

    // What others attached to the copy stays.
    let copy = format!("{}/copies/app", registry.host());
    sealed(&space, &["push", "--sign", "other.key", "app", &copy]).assert_code(0);
    let copied = space.kiln_ok(["copy", "--referrers", &name, &copy]);
    copied.assert_says("copied what is attached to it");
    let verify = [
        "verify-signature",
        "--statement",
        "spdx",
        "--statement",
        "provenance",
    ];
    let from_there = ["--key", "kiln.pub", "--identity", &name, &copy];
    space.kiln_ok([&verify[..], &from_there].concat());
    space.kiln_ok(["verify-signature", "--key", "other.pub", &copy]);
    let tag = format!("sha256-{}.sig", hex(&pushed));
    let list = raw(&space, &format!("{copy}:{tag}"));
    assert_eq!(list["layers"].as_array().expect("layers").len(), 2);
    let again = space.kiln_ok(["copy", "--referrers", &name, &copy]);
    again.assert_says("is this image already");
}

/// The size of a name's manifest.
fn image_bytes(space: &TestSpace, name: &str) -> usize {
    let inspect = ["inspect", "--raw", "--tls-verify=false"];
    let raw = host(
        Command::new("skopeo")
            .args(inspect)
            .arg(format!("docker://{name}"))
            .env("HOME", space.path()),
    );
    raw.len()
}

#[test]
fn forged_signatures_are_refused() {
    let (space, registry) = start();
    let name = format!("{}/team/app:1", registry.host());
    let pushed = sealed(&space, &["push", "--sign", "kiln.key", "app", &name]);
    let signed = raw(
        &space,
        &format!("{}/team/app:sha256-{}.sig", registry.host(), hex(&pushed)),
    );

    let verify = |name: &str| space.kiln(["verify-signature", "--key", "kiln.pub", name]);
    // Another image gets the signature of the first.
    rewrite_busybox_project(&space, "[image.app.step.other]\nrun = \"echo 2 > /2\"\n");
    space.kiln_ok(["build"]);
    let second = format!("{}/team/app:2", registry.host());
    let other = space.kiln_ok(["push", "app", &second]);
    let none = verify(&second);
    none.assert_code(1);
    none.assert_says("has no signature");
    let tag = format!("sha256-{}.sig", hex(&other));
    put(&registry, "team/app", &tag, &signed);
    let moved = verify(&second);
    moved.assert_code(1);
    moved.assert_says("does not vouch for");
    moved.assert_says("do not trust it");
    // The signature stays and the payload becomes another one.
    let mut changed = signed.clone();
    let config = &raw(&space, &second)["config"];
    changed["layers"][0]["digest"] = config["digest"].clone();
    changed["layers"][0]["size"] = config["size"].clone();
    put(&registry, "team/app", &tag, &changed);
    let tampered = verify(&second);
    tampered.assert_code(1);
    tampered.assert_says("that `kiln.pub` verifies");
    // The bytes of the payload are changed where they lie.
    let payload = blob(&space, &signed["layers"][0]["digest"]);
    let text = fs::read_to_string(&payload).expect("a payload");
    fs::write(&payload, text.replace("team/app", "team/apq")).expect("a payload");
    let damaged = verify(&name);
    assert_ne!(damaged.code, Some(0), "{}", damaged.shown());
    assert_eq!(damaged.stdout, "");
}

#[test]
fn a_copy_in_another_repository_counts_only_where_that_is_said() {
    let (space, registry) = start();
    let name = format!("{}/team/app", registry.host());
    let pushed = sealed(&space, &["push", "--sign", "kiln.key", "app", &name]);
    let copy = format!("{}/copies/app", registry.host());
    sealed(&space, &["push", "--sign", "kiln.key", "app", &copy]).assert_code(0);
    let tag = format!("sha256-{}.sig", hex(&pushed));
    // Only the signature of the first repository is left in the second.
    let signed = raw(&space, &format!("{name}:{tag}"));
    let list = space
        .path()
        .join("registry/data/docker/registry/v2/repositories/copies/app/_manifests/tags");
    fs::remove_dir_all(list.join(format!("sha256-{}", hex(&pushed)))).expect("a list");
    let mut blobs = list.clone();
    blobs.pop();
    blobs.pop();
    let layer = signed["layers"][0]["digest"].as_str().expect("a digest");
    let link = blobs.join("_layers/sha256").join(&layer["sha256:".len()..]);
    fs::create_dir_all(&link).expect("a folder");
    fs::write(link.join("link"), layer).expect("a link");
    put(&registry, "copies/app", &tag, &signed);
    let strict = space.kiln(["verify-signature", "--key", "kiln.pub", &copy]);
    strict.assert_code(1);
    strict.assert_says("--identity");
    let arguments = [
        "verify-signature",
        "--key",
        "kiln.pub",
        "--identity",
        &name,
        &copy,
    ];
    space.kiln_ok(arguments);
}

#[test]
fn unsigned_statements_are_plain_documents() {
    let (space, registry) = start();
    let name = format!("{}/team/app:1", registry.host());
    let pushed = space.kiln_ok(["push", "--sbom", "spdx", "--provenance", "app", &name]);
    let attached = referrers(&space, &name);
    assert_eq!(
        types(&attached),
        ["application/spdx+json", "application/vnd.in-toto+json"]
    );
    for entry in attached {
        let manifest = read(&blob(&space, &entry["digest"]));
        assert_eq!(
            manifest["subject"]["digest"],
            format!("sha256:{}", hex(&pushed))
        );
        let document = read(&blob(&space, &manifest["layers"][0]["digest"]));
        if entry["artifactType"] == "application/spdx+json" {
            let purls = document.to_string();
            assert!(purls.contains("pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12"));
            // The step used it, though no file of the image has it.
            assert!(purls.contains("pkg:cargo/serde@1.0.0"), "{document}");
            assert!(purls.contains("pkg:oci/app@sha256:"));
        } else {
            let digest = json!({"sha256": hex(&pushed)});
            assert_eq!(document["subject"][0]["digest"], digest);
            let definition = &document["predicate"]["buildDefinition"];
            assert_eq!(definition["externalParameters"]["target"], "app");
            assert_eq!(definition["resolvedDependencies"][0]["name"], "kiln.toml");
        }
    }
    let unsigned = space.kiln(["verify-signature", "--key", "kiln.pub", &name]);
    unsigned.assert_code(1);
    unsigned.assert_says("sign it: kiln push --sign KEYFILE");
    let listed = space
        .kiln_ok(["sbom", "--format", "cyclonedx", "app"])
        .stdout;
    assert!(listed.contains("pkg:cargo/serde@1.0.0"));
    assert_eq!(
        space
            .kiln_ok(["sbom", "--format", "cyclonedx", "app"])
            .stdout,
        listed
    );
}

#[test]
fn provenance_is_only_of_what_is_known_for_sure() {
    let (space, registry) = start();
    let name = format!("{}/team/app:1", registry.host());
    // A config makes another image without running a step.
    rewrite_busybox_project(
        &space,
        &format!("{STEPS}[image.app.config]\ncmd = [\"/x\"]\n"),
    );
    let changed = space.kiln(["push", "--provenance", "app", &name]);
    changed.assert_code(1);
    changed.assert_says("kiln build app");
    let listed = space.kiln_ok(["sbom", "app"]).stdout;
    assert!(
        !listed.contains("pkg:cargo/serde") && listed.contains("are left out"),
        "{listed}"
    );
    space.kiln_ok(["build"]);
    space.kiln_ok(["push", "--provenance", "app", &name]);
    space.write("Cargo.lock", format!("{CARGO_LOCK}\n"));
    space
        .kiln(["push", "--provenance", "app", &name])
        .assert_code(1);
    // What came from elsewhere has no recipe here.
    let foreign = TestSpace::new();
    foreign.kiln_ok(["pull", &name]);
    let unknown = foreign.kiln(["push", "--provenance", &name]);
    unknown.assert_code(1);
    unknown.assert_says("it is not one of this project");
}

#[test]
fn mistakes_with_keys_are_told() {
    let (space, registry) = start();
    let name = format!("{}/team/app:1", registry.host());
    let push = |key: &str| space.kiln(["push", "--sign", key, "app", &name]);
    let again = sealed(&space, &["generate-key"]);
    again.assert_code(1);
    again.assert_says("a key is never replaced");
    for (run, says) in [
        (push("kiln.pub"), "it is no private key that kiln knows"),
        (push("none.key"), "cannot be read"),
        (push("kiln.key"), "set COSIGN_PASSWORD"),
        (
            space.run(
                space
                    .command()
                    .args(["push", "--sign", "kiln.key", "app", &name])
                    .env("COSIGN_PASSWORD", "wrong"),
            ),
            "the password does not open it",
        ),
        (
            space.kiln(["verify-signature", "--key", "kiln.key", &name]),
            "name the public one",
        ),
    ] {
        run.assert_code(1);
        run.assert_says(says);
    }
    // Nothing was sent before the key was known to be good.
    space.kiln(["pull", &name]).assert_says("has no repository");
}
