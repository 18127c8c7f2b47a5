//! User names and passwords, from the files that docker and podman keep.
//!
//! Both programs write one format: docker to `~/.docker/config.json`, podman and its relatives to
//! `containers/auth.json`. Entries name a registry or, more closely, a repository; passwords are in
//! the file or with a helper program.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use kiln_http::Cancel;
use serde::Deserialize;

use crate::error::CredentialsError;
use crate::helper::{self, Answer};

mod edit;
mod keep;

pub use keep::Kept;

/// The largest credentials file read, in bytes.
const LARGEST_FILE: u64 = 4 << 20;
/// What docker calls its default registry in these files, and to helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The user name with which helpers and files mark an identity token.
const TOKEN_USER: &str = "<token>";

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret, to be sent and not to be shown.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a registry is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A user and a password.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token that is exchanged for access tokens.
    Identity(Secret),
    /// An access token, used as it is.
    Access(Secret),
}

impl Credential {
    /// Returns the user's name, for messages.
    pub fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } => user,
            Self::Identity(_) | Self::Access(_) => TOKEN_USER,
        }
    }

    fn of(user: String, secret: String) -> Self {
        if user == TOKEN_USER {
            return Self::Identity(Secret(secret));
        }
        Self::Password {
            user,
            password: Secret(secret),
        }
    }
}

/// Where credentials are looked up. Files that do not exist are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialFiles {
    /// Files in docker's or podman's format; the first that knows the registry decides.
    pub files: Vec<PathBuf>,
    /// Folders in which credential helpers (`docker-credential-…`) are looked up.
    pub helper_folders: Vec<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity: Option<String>,
    #[serde(rename = "registrytoken")]
    access: Option<String>,
}

impl CredentialFiles {
    /// Finds the credential for `registry`, and more closely for `repository` there. May run a
    /// helper program, and then blocks.
    ///
    /// # Errors
    /// [`CredentialsError`] for a file or helper that is named but does not work: an anonymous
    /// request instead would fail in a way that is harder to understand.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
        cancel: &Cancel,
    ) -> Result<Option<Credential>, CredentialsError> {
        for path in &self.files {
            let Some(file) = read(path)? else { continue };
            if let Some(found) = self.find_in(path, &file, registry, repository, cancel)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn find_in(
        &self,
        path: &Path,
        file: &File,
        registry: &str,
        repository: &str,
        cancel: &Cancel,
    ) -> Result<Option<Credential>, CredentialsError> {
        let names = names(registry, repository);
        for name in &names {
            let own = file.helpers.iter().find(|(key, _)| normal(key) == *name);
            if let Some((_, helper)) = own {
                return self.ask(path, helper, registry, cancel);
            }
            let entry = file.auths.iter().find(|(key, _)| normal(key) == *name);
            if let Some((key, Some(entry))) = entry
                && let Some(credential) =
                    entry
                        .credential()
                        .map_err(|reason| CredentialsError::File {
                            path: path.to_owned(),
                            reason: format!("the entry `{key}` {reason}"),
                        })?
            {
                return Ok(Some(credential));
            }
        }
        match &file.store {
            Some(helper) if !helper.is_empty() => self.ask(path, helper, registry, cancel),
            _ => Ok(None),
        }
    }

    /// Finds the program of a helper that the file `path` names.
    fn helper(&self, path: &Path, helper: &str) -> Result<PathBuf, CredentialsError> {
        let program = format!("docker-credential-{helper}");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        self.helper_folders
            .iter()
            .filter(|_| helper.chars().all(plain))
            .map(|folder| folder.join(&program))
            .find(|path| path.is_file())
            .ok_or_else(|| CredentialsError::NoHelper {
                path: path.to_owned(),
                program: program.escape_debug().collect(),
            })
    }

    fn ask(
        &self,
        path: &Path,
        helper: &str,
        registry: &str,
        cancel: &Cancel,
    ) -> Result<Option<Credential>, CredentialsError> {
        let found = self.helper(path, helper)?;
        let server = server(registry);
        let answer = helper::get(&found, server, cancel)
            .map_err(|failure| helper_failed(&found, server, failure))?;
        Ok(answer.map(|Answer { user, secret }| Credential::of(user, secret)))
    }
}

/// Returns the name under which helpers, and docker's files, have a registry: docker keeps its own
/// under an old address.
fn server(registry: &str) -> &str {
    if registry == kiln_oci::DEFAULT_REGISTRY {
        DOCKER_HUB
    } else {
        registry
    }
}

fn helper_failed(program: &Path, server: &str, failure: helper::Failure) -> CredentialsError {
    match failure {
        helper::Failure::Cancelled(cancelled) => CredentialsError::Cancelled(cancelled),
        helper::Failure::Reason(reason) => CredentialsError::Helper {
            program: program
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            server: server.to_owned(),
            reason,
        },
    }
}

/// Reads a file; `None` if there is none.
fn read(path: &Path) -> Result<Option<File>, CredentialsError> {
    match read_bytes(path)? {
        None => Ok(None),
        // The reader's own words would quote the file, which holds secrets.
        Some(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| malformed(path, &error)),
    }
}

fn malformed(path: &Path, error: &serde_json::Error) -> CredentialsError {
    let (line, column) = (error.line(), error.column());
    CredentialsError::File {
        path: path.to_owned(),
        reason: format!("it is not a credentials file (line {line}, column {column})"),
    }
}

/// Reads the bytes of a file; `None` if there is none, or nothing in it.
fn read_bytes(path: &Path) -> Result<Option<Vec<u8>>, CredentialsError> {
    let fail = |reason: String| CredentialsError::File {
        path: path.to_owned(),
        reason,
    };
    let opened = match fs::File::open(path) {
        Ok(opened) => opened,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(fail(error.to_string())),
    };
    let mut bytes = Vec::new();
    opened
        .take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(fail("it is larger than 4 MiB".to_owned()));
    }
    // Podman writes an empty file before the first login.
    Ok(Some(bytes).filter(|bytes| !bytes.iter().all(u8::is_ascii_whitespace)))
}

/// The keys under which a credential may stand, the closest first.
fn names(registry: &str, repository: &str) -> Vec<String> {
    let mut name = format!("{registry}/{repository}");
    let mut names = vec![name.clone()];
    while let Some(at) = name.rfind('/') {
        name.truncate(at);
        names.push(name.clone());
    }
    names
}

/// Brings a key to the form `registry[/path]`: docker also writes addresses of its first API.
fn normal(key: &str) -> String {
    let address = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let name = address.unwrap_or(key).trim_end_matches('/');
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => kiln_oci::DEFAULT_REGISTRY,
        other => other,
    };
    match path {
        "" | "v1" | "v2" => host.to_ascii_lowercase(),
        path => format!("{}/{path}", host.to_ascii_lowercase()),
    }
}

impl Entry {
    /// Returns what the entry holds; `None` for an empty one, which says that a helper has it.
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let full = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = full(&self.access) {
            return Ok(Some(Credential::Access(Secret(token))));
        }
        if let Some(token) = full(&self.identity) {
            return Ok(Some(Credential::Identity(Secret(token))));
        }
        if let Some(auth) = full(&self.auth) {
            let bytes = STANDARD
                .decode(auth.trim())
                .or_else(|_padded| STANDARD_NO_PAD.decode(auth.trim()))
                .map_err(|_not_base64| "is not in base64")?;
            let text = String::from_utf8(bytes).map_err(|_not_text| "is not text")?;
            let (user, password) = text.split_once(':').ok_or("has no `:` after the user")?;
            // Docker pads with zero bytes.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credential::of(user.to_owned(), password.to_owned())));
        }
        match (full(&self.username), full(&self.password)) {
            (Some(user), Some(password)) => Ok(Some(Credential::of(user, password))),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with credentials files, tried in order, and helpers.
    fn find(files: &[&str], helpers: &[(&str, &str)], registry: &str, repository: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let mut paths = vec![at("missing.json")];
        for (index, text) in files.iter().enumerate() {
            paths.push(at(&format!("{index}.json")));
            fs::write(paths.last().unwrap(), text).unwrap();
        }
        for (name, script) in helpers {
            let path = at(&format!("docker-credential-{name}"));
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let files = CredentialFiles {
            files: paths,
            helper_folders: vec![at("nowhere"), folder.path().to_owned()],
        };
        match files.find(registry, repository, &Cancel::new()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(Credential::Password { user, password })) => {
                format!("{user}:{}", password.reveal())
            }
            Ok(Some(Credential::Identity(token))) => format!("identity {}", token.reveal()),
            Ok(Some(Credential::Access(token))) => format!("access {}", token.reveal()),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
                    "{text}"
                );
                text.replace(folder.path().to_str().unwrap(), "")
            }
        }
    }

    // `me:secret` and `you:other`.
    const ME: &str = "bWU6c2VjcmV0";
    const YOU: &str = "eW91Om90aGVy";

    #[test]
    fn the_default_registry_is_found_under_its_old_names() {
        for key in [
            "https://index.docker.io/v1/",
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
        ] {
            let file = format!(r#"{{"auths":{{"{key}":{{"auth":"{ME}"}}}},"experimental":"on"}}"#);
            assert_eq!(
                find(&[&file], &[], "docker.io", "library/x"),
                "me:secret",
                "{key}"
            );
            assert_eq!(find(&[&file], &[], "quay.io", "library/x"), "none");
        }
    }

    #[test]
    fn the_closest_entry_and_the_first_file_win() {
        let file = format!(
            r#"{{"auths":{{"r:5000":{{"auth":"{ME}"}},"r:5000/team/app":{{"auth":"{YOU}"}}}}}}"#
        );
        assert_eq!(find(&[&file], &[], "r:5000", "team/app"), "you:other");
        assert_eq!(find(&[&file], &[], "r:5000", "team/app/sub"), "you:other");
        assert_eq!(
            find(&[&file], &[], "r:5000", "team/application"),
            "me:secret"
        );
        let second =
            format!(r#"{{"auths":{{"r:5000/x":{{"auth":"{YOU}"}},"s":{{"auth":"{YOU}"}}}}}}"#);
        assert_eq!(find(&[&file, &second], &[], "r:5000", "x"), "me:secret");
        assert_eq!(
            find(&["", "{}", &file, &second], &[], "s", "x"),
            "you:other"
        );
    }

    #[test]
    fn every_kind_of_entry_is_read() {
        for (entry, expected) in [
            (r#"{"username":"a","password":"b"}"#, "a:b"),
            (r#"{"identitytoken":"t"}"#, "identity t"),
            (r#"{"registrytoken":"t"}"#, "access t"),
            // `<token>:x`, and a password with `:` and padding
            (r#"{"auth":"PHRva2VuPjp4"}"#, "identity x"),
            (r#"{"auth":"YTpiOmMAAA=="}"#, "a:b:c"),
            ("{}", "none"),
            ("null", "none"),
        ] {
            let file = format!(r#"{{"auths":{{"r":{entry}}}}}"#);
            assert_eq!(find(&[&file], &[], "r", "x"), expected, "{entry}");
        }
    }

    #[test]
    fn bad_files_are_named_and_not_quoted() {
        for file in [
            r#"{"auths":{"r":{"auth":"hunter2!"}}}"#,
            r#"{"auths":{"r":{"auth":"aHVudGVyMg=="}}}"#,
            r#"{"auths":{"r":"hunter2"}}"#,
            r#"hunter2"#,
        ] {
            let error = find(&[file], &[], "r", "x");
            assert!(
                error.starts_with("cannot read credentials from `/0.json`"),
                "{error}"
            );
        }
    }

    #[test]
    fn helpers_are_asked() {
        let good = r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"at $server\",\"Secret\":\"s\"}""#;
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        let helpers = [("good", good), ("token", token)];
        let own = r#"{"credHelpers":{"r":"good","docker.io":"good"},"credsStore":"token"}"#;
        assert_eq!(find(&[own], &helpers, "r", "x"), "at r:s");
        assert_eq!(
            find(&[own], &helpers, "docker.io", "x"),
            "at https://index.docker.io/v1/:s"
        );
        assert_eq!(find(&[own], &helpers, "other", "x"), "identity t");
        // Docker leaves empty entries for what the helper has.
        let both =
            format!(r#"{{"auths":{{"r":{{}},"s":{{"auth":"{ME}"}}}},"credsStore":"token"}}"#);
        assert_eq!(find(&[&both], &helpers, "r", "x"), "identity t");
        assert_eq!(find(&[&both], &helpers, "s", "x"), "me:secret");
    }

    #[test]
    fn a_helper_without_an_entry_passes_and_a_broken_one_does_not() {
        let none = "echo 'credentials not found in native keychain'; exit 1";
        let broken = "echo 'the keychain is \x1b[1mlocked' >&2; exit 3";
        let helpers = [
            ("none", none),
            ("broken", broken),
            ("odd", "echo '[]'"),
            ("huge", "yes | head -c 3000000"),
        ];
        let with = |helper: &str| {
            find(
                &[&format!(r#"{{"credsStore":"{helper}"}}"#)],
                &helpers,
                "r",
                "x",
            )
        };
        assert_eq!(with("none"), "none");
        assert!(
            with("broken").contains("the keychain is \\u{1b}[1mlocked"),
            "{}",
            with("broken")
        );
        assert!(with("odd").contains("its answer"), "{}", with("odd"));
        assert!(with("huge").contains("its answer"), "{}", with("huge"));
        assert!(with("absent").contains("`docker-credential-absent`, which is not installed"));
        assert!(with("../../bin/sh").contains("not installed"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let credential = Credential::Password {
            user: "me".to_owned(),
            password: Secret::new("hunter2"),
        };
        assert!(!format!("{credential:?}").contains("hunter2"));
    }
}
