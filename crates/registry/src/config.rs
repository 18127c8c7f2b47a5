//! The one file with settings, and what stands where it says nothing.

mod database;
mod storage;
pub(crate) mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

pub use database::Database;
pub use storage::Storage;
pub use units::{Size, Span};

use crate::name::Pattern;

/// Settings of a registry: `kiln registry serve --config FILE`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to answer on.
    pub listen: Vec<SocketAddr>,
    /// The folder with everything, or with everything but the blobs if those are elsewhere.
    pub data: Option<PathBuf>,
    /// A database that several registries share; without it, a file in the folder is used.
    pub database: Option<Database>,
    /// The URL clients use, where it is another than the one they are seen to use.
    pub external_url: Option<String>,
    /// Refuse every change.
    pub read_only: bool,
    /// How connections are encrypted.
    pub tls: Option<Tls>,
    /// Where blobs are, if not in the folder.
    pub storage: Option<Storage>,
    /// Who may do what.
    pub access: Access,
    /// What may be pushed.
    pub push: Push,
    /// When garbage is collected, and what is garbage.
    pub gc: Gc,
    /// What one client may use up.
    pub limits: Limits,
    /// What is written down.
    pub log: Log,
}

/// Files for TLS, in PEM; read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tls {
    /// The certificate, then those of the authorities between it and the root.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Who may do what.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Access {
    /// Whether changes, and reading what is not public, need an account: `required`, or `none` on
    /// loopback addresses, where it is the default.
    pub login: Option<Login>,
    /// Repositories that everybody may read: names with `*` for a part, `**` at the end for all below.
    pub anonymous_pull: Vec<String>,
    /// Something in front encrypts: lets other addresses than loopback be served without `[tls]`.
    pub behind_tls_proxy: bool,
    /// How long a token for a client is good.
    pub token_life: Option<Span>,
}

/// Whether one has to say who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Login {
    /// An account is needed.
    Required,
    /// Everybody may do everything.
    None,
}

/// What may be pushed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Push {
    /// What becomes of a manifest whose parts are not in the repository.
    pub missing_parts: MissingParts,
}

/// What becomes of a manifest whose parts are not in the repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MissingParts {
    /// It is refused, with the names of what is missing.
    #[default]
    Refuse,
    /// It is taken.
    Allow,
}

/// When garbage is collected, and what is garbage.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Gc {
    /// Time between collections; `0s` for none but those asked for.
    pub interval: Span,
    /// How long a blob without a manifest is kept: longer than any push takes.
    pub grace: Span,
    /// How long what was deleted can be had back with `kiln registry undelete`.
    pub trash: Span,
    /// After what time a manifest that lost its tags is deleted; without it, never.
    pub untagged: Option<Span>,
    /// After what time an upload that does not go on is given up.
    pub uploads: Span,
}

/// What one client may use up.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once; more wait.
    pub connections: u32,
    /// Time for a request's line and headers.
    pub header_time: Span,
    /// Time a connection may be idle.
    pub idle_time: Span,
    /// Bytes per second that a body must flow at, over half a minute.
    pub least_rate: Size,
    /// The largest manifest.
    pub manifest: Size,
    /// The largest blob.
    pub blob: Option<Size>,
    /// Room on the disk that uploads leave for everything else; 1 GiB or 2 % of it, whichever is more, by default.
    pub reserve: Option<Size>,
    /// Time for requests to end when the registry stops.
    pub drain_time: Span,
}

/// What is written down.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Log {
    /// One JSON object a line for each request, on standard error.
    pub requests: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 5000))],
            data: None,
            database: None,
            external_url: None,
            read_only: false,
            tls: None,
            storage: None,
            access: Access::default(),
            push: Push::default(),
            gc: Gc::default(),
            limits: Limits::default(),
            log: Log::default(),
        }
    }
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            interval: Span::minutes(10),
            grace: Span::hours(24),
            trash: Span::hours(7 * 24),
            untagged: None,
            uploads: Span::hours(24),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            header_time: Span::seconds(15),
            idle_time: Span::seconds(75),
            least_rate: Size(4 << 10),
            manifest: Size(4 << 20),
            blob: None,
            reserve: None,
            drain_time: Span::seconds(30),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { requests: true }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of the right shape.
    #[error("{path}: {source}", path = path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: toml::de::Error,
    },
    /// Two settings do not go together, or one is missing.
    #[error("{0}")]
    Unsafe(String),
}

impl Config {
    /// Reads a file with settings; paths in it are relative to its folder.
    ///
    /// # Errors
    /// The file cannot be read or says something that is not a setting.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config: Self = toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        if let Some(data) = &mut config.data {
            *data = folder.join(&*data);
        }
        if let Some(database) = &mut config.database {
            database.place(folder);
        }
        if let Some(tls) = &mut config.tls {
            tls.certificate = folder.join(&tls.certificate);
            tls.key = folder.join(&tls.key);
        }
        if let Some(storage) = &mut config.storage {
            storage.resolve(folder);
        }
        Ok(config)
    }

    /// Checks what must hold before anybody is let in.
    ///
    /// # Errors
    /// Others than this machine could connect, without TLS or without an account; or a value makes
    /// no sense.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |text: String| Err(ConfigError::Unsafe(text));
        if self.listen.is_empty() {
            return wrong("`listen` names no address".to_owned());
        }
        if let Some(database) = &self.database {
            database.check()?;
        }
        for pattern in &self.access.anonymous_pull {
            if let Err(error) = pattern.parse::<Pattern>() {
                return wrong(format!("`access.anonymous-pull`: `{pattern}`: {error}"));
            }
        }
        if let Some(url) = &self.external_url
            && !url.starts_with("https://")
            && !url.starts_with("http://")
        {
            return wrong(format!(
                "`external-url`: `{url}` is not an http or https URL"
            ));
        }
        if let Some(storage) = &self.storage {
            storage.check()?;
        }
        let Some(open) = self
            .listen
            .iter()
            .find(|address| !address.ip().is_loopback())
        else {
            return Ok(());
        };
        if self.tls.is_none() && !self.access.behind_tls_proxy {
            return wrong(format!(
                "{open} can be reached from other machines, and nothing encrypts: set `[tls]`, or `access.behind-tls-proxy` if something in front does"
            ));
        }
        if self.access.login == Some(Login::None) {
            return wrong(format!(
                "{open} can be reached from other machines, and `access.login` is `none`: make it `required`, or listen on 127.0.0.1 only"
            ));
        }
        Ok(())
    }

    /// Whether changes need an account.
    #[must_use]
    pub fn needs_login(&self) -> bool {
        let is_open = self
            .listen
            .iter()
            .any(|address| !address.ip().is_loopback());
        self.access
            .login
            .map_or(is_open, |login| login == Login::Required)
    }

    pub(crate) fn token_life(&self) -> Duration {
        self.access
            .token_life
            .map_or(Duration::from_secs(600), |span| span.0)
    }
}

/// The JSON Schema of the file, for editors.
#[must_use]
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(Config);
    schema.insert("title".to_owned(), "Settings of kiln registry serve".into());
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn nothing_but_loopback_is_open_by_default() {
        assert!(!parsed("").unwrap().needs_login());
        assert!(
            parsed(r#"listen = ["0.0.0.0:5000"]"#)
                .unwrap_err()
                .contains("encrypts")
        );
        let proxied = "listen = [\"0.0.0.0:5000\"]\naccess = { behind-tls-proxy = true";
        assert!(parsed(&format!("{proxied} }}")).unwrap().needs_login());
        assert!(parsed(&format!("{proxied}, login = \"none\" }}")).is_err());
        let tls = "listen = [\"[::]:5000\"]\ntls = { certificate = \"c\", key = \"k\" }";
        assert!(parsed(tls).unwrap().needs_login());
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        assert!(parsed("lisen = []").unwrap_err().contains("unknown field"));
        assert!(parsed("[gc]\ngrace = \"soon\"").is_err());
        assert!(parsed("[access]\nanonymous-pull = [\"../x\"]").is_ok());
        assert!(parsed("[access]\nanonymous-pull = [\"a//b\"]").is_err());
    }
}
