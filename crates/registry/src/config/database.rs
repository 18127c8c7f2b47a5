//! The part of the settings about a database that registries share.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfigError;

/// Authorities that Debian and most others trust.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A PostgreSQL database for what is known about images and accounts, instead of a file in the
/// folder: for several registries that serve the same.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Database {
    /// Where it is, as in `postgresql://account:password@host/name`. Written into no log.
    #[schemars(with = "Option<String>")]
    pub(crate) url: Option<Hidden>,
    /// A file that holds the URL and nothing else.
    pub(crate) url_file: Option<PathBuf>,
    /// A file with the authorities that the server's certificate may come from, in PEM; those of the system by
    /// default. Without TLS only a server on this machine is spoken to, or with `sslmode=disable` in the URL.
    pub(crate) authorities: Option<PathBuf>,
    /// Connections at once, beside three for other purposes.
    #[serde(default = "ten")]
    pub(crate) connections: u32,
}

fn ten() -> u32 {
    10
}

/// A text that is not shown.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Database {
    /// Makes paths relative to the folder of the settings.
    pub(super) fn place(&mut self, folder: &Path) {
        for path in [&mut self.url_file, &mut self.authorities]
            .into_iter()
            .flatten()
        {
            *path = folder.join(&*path);
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.url.is_some() == self.url_file.is_some() {
            let text = "`database` needs one of `url` and `url-file`";
            return Err(ConfigError::Unsafe(text.to_owned()));
        }
        if self.connections == 0 {
            let text = "`database.connections` is 0; the least is 1";
            return Err(ConfigError::Unsafe(text.to_owned()));
        }
        Ok(())
    }

    /// The URL.
    ///
    /// # Errors
    /// The file that holds it cannot be read.
    pub(crate) fn url(&self) -> Result<String, ConfigError> {
        match (&self.url, &self.url_file) {
            (Some(Hidden(url)), _) => Ok(url.clone()),
            (None, Some(path)) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(text.trim().to_owned()),
                Err(source) => Err(ConfigError::Read {
                    path: path.clone(),
                    source,
                }),
            },
            (None, None) => Ok(String::new()),
        }
    }

    /// The file of the authorities to trust.
    pub(crate) fn authorities(&self) -> &Path {
        self.authorities
            .as_deref()
            .unwrap_or(Path::new(SYSTEM_AUTHORITIES))
    }
}
