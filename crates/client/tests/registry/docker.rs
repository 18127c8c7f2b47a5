//! Debian's `docker-registry`, filled by skopeo: what other people's programs really do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_client::{CredentialFiles, Error, Pulled, Registry, Settings};
use kiln_http::{Cancel, Client, HostSettings};
use kiln_oci::{Compression, Digest, MediaType, Reference};

use crate::certificates::Authority;
use crate::fake::http;
use crate::memory::{Memory, TestImage, index};

/// bcrypt of `hunter2`, made with libcrypt.
const HTPASSWD: &str = "me:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

/// A running registry; it ends when dropped.
pub(crate) struct DockerRegistry {
    // Before its folder, which goes after it.
    _server: kiln_peers::Registry,
    pub(crate) port: u16,
    pub(crate) folder: tempfile::TempDir,
    /// What skopeo needs to be told to reach it.
    skopeo: Vec<String>,
}

/// Says why a test cannot run; `None` if it can.
pub(crate) fn missing() -> Option<String> {
    ["docker-registry", "skopeo"]
        .into_iter()
        .find(|program| !Path::new("/usr/bin").join(program).exists())
        .map(|program| format!("SKIP: `{program}` is not installed (apt-get install {program})"))
}

impl DockerRegistry {
    /// Starts one with further lines in its `http` section and at the top level of its config.
    pub(crate) fn start(http: &str, top: &str, skopeo: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("htpasswd"), HTPASSWD).unwrap();
        let root = folder.path().display().to_string();
        let further = format!("{http}{top}").replace("FOLDER", &root);
        let server = kiln_peers::Registry::start_keeping(folder.path(), &further).unwrap();
        Self {
            port: server.port(),
            _server: server,
            folder,
            skopeo: skopeo
                .iter()
                .map(|argument| (*argument).to_owned())
                .collect(),
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn reference(&self, name: &str) -> Reference {
        format!("localhost:{}/{name}", self.port).parse().unwrap()
    }

    /// Copies `tag` of the layout to `name`, bytes unchanged.
    fn fill(&self, layout: &Path, tag: &str, name: &str) {
        self.copy(&["--all", "--preserve-digests"], layout, tag, name);
    }

    /// Copies `name` into a new layout, checking all of it.
    pub(crate) fn read_by_skopeo(&self, name: &str, options: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("/usr/bin/skopeo")
            .args(["copy", "--insecure-policy", "--all", "--preserve-digests"])
            .args(options)
            .arg(format!("docker://localhost:{}/{name}", self.port))
            .arg(format!("oci:{}:x", folder.path().display()))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{}", self.log());
        folder
    }

    fn copy(&self, options: &[&str], layout: &Path, tag: &str, name: &str) {
        let output = Command::new("/usr/bin/skopeo")
            .args(["copy", "--insecure-policy"])
            .args(options)
            .args(&self.skopeo)
            .arg(format!("oci:{}:{tag}", layout.display()))
            .arg(format!("docker://localhost:{}/{name}", self.port))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{}", self.log());
    }

    pub(crate) fn pull(&self, registry: &Registry, name: &str) -> Result<(Pulled, Memory), Error> {
        let sink = Memory::default();
        let platform = "linux/amd64".parse().unwrap();
        let pulled = registry.pull(
            &self.reference(name),
            &platform,
            &sink,
            &|_| {},
            &Cancel::new(),
        )?;
        Ok((pulled, sink))
    }
}

/// Writes an image layout that holds `image` as `one` and an index of both as `all`.
fn layout(image: &TestImage, other: &TestImage) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let index = index(&[other, image]);
    let documents = [&image.manifest, &other.manifest, &index];
    for bytes in image.blobs().chain(other.blobs()).chain(documents) {
        fs::write(blobs.join(Digest::of(bytes).hex()), bytes).unwrap();
    }
    let entry = |kind: &str, bytes: &[u8], tag: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}.v1+json","digest":"{}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}"#,
            Digest::of(bytes),
            bytes.len()
        )
    };
    let entries = [
        entry("manifest", &image.manifest, "one"),
        entry("index", &index, "all"),
    ]
    .join(",");
    fs::write(
        folder.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    fs::write(
        folder.path().join("index.json"),
        format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#),
    )
    .unwrap();
    folder
}

pub(crate) fn images() -> (TestImage, TestImage) {
    (
        TestImage::new("linux/amd64", &[3_000_000, 10, 70_000]),
        TestImage::new("linux/arm64", &[500]),
    )
}

pub(crate) fn assert_whole(image: &TestImage, pulled: &Pulled, sink: &Memory) {
    assert_eq!(pulled.image.manifest.digest, image.digest());
    for blob in image.blobs().chain([&image.manifest]) {
        assert!(sink.get(Digest::of(blob)).unwrap() == *blob);
    }
}

#[test]
fn images_that_skopeo_pushed_are_pulled() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let layout = layout(&image, &other);
    let server = DockerRegistry::start("", "", &["--dest-tls-verify=false"]);
    server.fill(layout.path(), "one", "team/app:one");
    server.fill(layout.path(), "all", "team/app:all");
    let registry = Registry::new(Client::new(http()), Settings::default());
    for name in ["team/app:one", "team/app:all"] {
        let (pulled, sink) = server.pull(&registry, name).unwrap();
        assert_whole(&image, &pulled, &sink);
        let platform = "linux/amd64".parse().unwrap();
        let resolved = registry
            .resolve(&server.reference(name), &platform, &Cancel::new())
            .unwrap();
        assert_eq!(resolved.manifest, image.digest());
        assert_eq!(
            resolved.index,
            pulled.image.indexes.first().map(|index| index.digest)
        );
    }
    let error = server.pull(&registry, "team/app:none").unwrap_err();
    assert!(matches!(error, Error::ManifestNotFound { .. }), "{error}");
    let error = server.pull(&registry, "team/nothing:one").unwrap_err();
    assert!(matches!(error, Error::RepositoryNotFound { .. }), "{error}");
    let riscv = "linux/riscv64".parse().unwrap();
    let error = registry
        .resolve(&server.reference("team/app:all"), &riscv, &Cancel::new())
        .unwrap_err();
    assert!(matches!(error, Error::Platform { .. }), "{error}");
}

#[test]
fn a_partial_blob_is_completed() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let layout = layout(&image, &other);
    let server = DockerRegistry::start("", "", &["--dest-tls-verify=false"]);
    server.fill(layout.path(), "one", "app:one");
    let registry = Registry::new(Client::new(http()), Settings::default());
    let (sink, layer) = (Memory::default(), &image.layers[0]);
    sink.partial
        .lock()
        .unwrap()
        .insert(Digest::of(layer), layer[..1_234_567].to_vec());
    let platform = "linux/amd64".parse().unwrap();
    let pulled = registry
        .pull(
            &server.reference("app:one"),
            &platform,
            &sink,
            &|_| {},
            &Cancel::new(),
        )
        .unwrap();
    assert_whole(&image, &pulled, &sink);
    assert_eq!(pulled.received_bytes, 3_070_010 - 1_234_567);
}

#[test]
fn a_registry_with_users_lets_in_who_is_known() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let layout = layout(&image, &other);
    let auth = "auth: {htpasswd: {realm: test, path: FOLDER/htpasswd}}\n";
    let server = DockerRegistry::start(
        "",
        auth,
        &["--dest-tls-verify=false", "--dest-creds=me:hunter2"],
    );
    server.fill(layout.path(), "one", "app:one");
    let file = server.folder.path().join("auth.json");
    let with = |password: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("me:{password}"));
        let text = format!(
            r#"{{"auths":{{"localhost:{}":{{"auth":"{auth}"}}}}}}"#,
            server.port
        );
        fs::write(&file, text).unwrap();
        let credentials = CredentialFiles {
            files: vec![PathBuf::from("/nonexistent/config.json"), file.clone()],
            helper_folders: Vec::new(),
        };
        Registry::new(
            Client::new(http()),
            Settings {
                credentials,
                ..Settings::default()
            },
        )
    };
    let (pulled, sink) = server.pull(&with("hunter2"), "app:one").unwrap();
    assert_whole(&image, &pulled, &sink);
    let error = server.pull(&with("wrong"), "app:one").unwrap_err();
    assert!(
        matches!(&error, Error::Unauthorised { user: Some(user), .. } if user == "me"),
        "{error}"
    );
    let anonymous = Registry::new(Client::new(http()), Settings::default());
    let error = server.pull(&anonymous, "app:one").unwrap_err();
    assert!(
        matches!(error, Error::Unauthorised { user: None, .. }),
        "{error}"
    );
}

#[test]
fn a_registry_with_its_own_authority_is_trusted_where_that_is_set() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let layout = layout(&image, &other);
    let authority = Authority::new();
    let pair = authority.issue("localhost", 2999);
    let tls = format!(
        "  tls: {{certificate: {}, key: {}}}\n",
        pair.certificate.display(),
        pair.key.display()
    );
    let server = DockerRegistry::start(&tls, "", &["--dest-tls-verify=false"]);
    server.fill(layout.path(), "one", "app:one");
    let mut trusting = http();
    let host = HostSettings {
        authorities: vec![authority.path()],
        ..HostSettings::default()
    };
    trusting
        .hosts
        .insert(format!("localhost:{}", server.port), host);
    let registry = Registry::new(Client::new(trusting), Settings::default());
    let (pulled, sink) = server.pull(&registry, "app:one").unwrap();
    assert_whole(&image, &pulled, &sink);
    let strange = Registry::new(Client::new(http()), Settings::default());
    let error = server.pull(&strange, "app:one").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("unknown issuer; if you trust it, add"),
        "{error}"
    );
}

#[test]
fn docker_schema_2_is_pulled() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let layout = layout(&image, &other);
    let server = DockerRegistry::start("", "", &["--dest-tls-verify=false"]);
    server.copy(&["--format", "v2s2"], layout.path(), "one", "app:docker");
    let registry = Registry::new(Client::new(http()), Settings::default());
    let (pulled, sink) = server.pull(&registry, "app:docker").unwrap();
    assert_eq!(pulled.image.manifest.media_type, MediaType::DockerManifest);
    assert_eq!(pulled.image.config.rootfs.diff_ids.len(), 3);
    for layer in &pulled.image.image.layers {
        // skopeo compresses on the way.
        assert_eq!(layer.media_type, MediaType::DockerLayer(Compression::Gzip));
        assert_eq!(
            sink.get(layer.digest).unwrap().len() as u64,
            layer.size_bytes
        );
    }
}

#[test]
fn the_file_that_a_login_writes_is_read() {
    if let Some(reason) = missing() {
        return println!("{reason}");
    }
    let (image, other) = images();
    let layout = layout(&image, &other);
    let auth = "auth: {htpasswd: {realm: test, path: FOLDER/htpasswd}}\n";
    let server = DockerRegistry::start(
        "",
        auth,
        &["--dest-tls-verify=false", "--dest-creds=me:hunter2"],
    );
    server.fill(layout.path(), "one", "app:one");
    let file = server.folder.path().join("login.json");
    let login = Command::new("/usr/bin/skopeo")
        .args([
            "login",
            "--tls-verify=false",
            "-u",
            "me",
            "-p",
            "hunter2",
            "--authfile",
        ])
        .arg(&file)
        .arg(format!("localhost:{}", server.port))
        .output()
        .unwrap();
    assert!(
        login.status.success(),
        "{}",
        String::from_utf8_lossy(&login.stderr)
    );
    let credentials = CredentialFiles {
        files: vec![file],
        helper_folders: Vec::new(),
    };
    let registry = Registry::new(
        Client::new(http()),
        Settings {
            credentials,
            ..Settings::default()
        },
    );
    let (pulled, sink) = server.pull(&registry, "app:one").unwrap();
    assert_whole(&image, &pulled, &sink);
}
