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
mod tests;
