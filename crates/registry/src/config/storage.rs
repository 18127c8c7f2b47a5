//! Where the bytes of blobs are, if not in the registry's folder.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::ConfigError;
use crate::objects::Endpoint;

/// A bucket of an object store that speaks S3.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Storage {
    /// The store's URL, as `https://s3.example.com`; buckets are named in paths, not in hosts.
    pub endpoint: String,
    /// The bucket, which exists.
    pub bucket: String,
    /// What all keys begin with, as `registry/`.
    #[serde(default)]
    pub prefix: String,
    /// The region that requests are signed for.
    #[serde(default = "usual_region")]
    pub region: String,
    /// File with `aws_access_key_id` and `aws_secret_access_key` under a profile, as AWS' tools have it.
    pub credentials: PathBuf,
    /// The profile.
    #[serde(default = "usual_profile")]
    pub profile: String,
    /// File in PEM with the authorities to trust instead of the system's.
    #[serde(default)]
    pub authority: Option<PathBuf>,
    /// Send clients to the store for blobs, with URLs that are good for a while, instead of passing bytes on.
    #[serde(default)]
    pub redirect: bool,
}

fn usual_region() -> String {
    "us-east-1".to_owned()
}

fn usual_profile() -> String {
    "default".to_owned()
}

impl Storage {
    /// Makes paths relative to the folder of the settings.
    pub(super) fn resolve(&mut self, folder: &Path) {
        self.credentials = folder.join(&self.credentials);
        if let Some(authority) = &mut self.authority {
            *authority = folder.join(&*authority);
        }
    }

    pub(crate) fn parsed_endpoint(&self) -> Result<Endpoint, ConfigError> {
        self.endpoint.parse().map_err(|why| {
            let endpoint = &self.endpoint;
            ConfigError::Unsafe(format!("`storage.endpoint`: `{endpoint}`: {why}"))
        })
    }

    /// Checks what can be checked without asking anybody.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        self.parsed_endpoint()?;
        let wrong = |text: String| Err(ConfigError::Unsafe(text));
        let bucket = &self.bucket;
        let is_plain =
            |byte: u8| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_');
        if bucket.is_empty() || bucket.starts_with('.') || !bucket.bytes().all(is_plain) {
            return wrong(format!(
                "`storage.bucket`: `{bucket}` is no name of a bucket"
            ));
        }
        let prefix = &self.prefix;
        let is_key = |byte: u8| is_plain(byte) || byte == b'/';
        let is_relative =
            !prefix.starts_with('/') && !prefix.split('/').any(|part| matches!(part, "." | ".."));
        if !is_relative || prefix.contains("//") || !prefix.bytes().all(is_key) {
            return wrong(format!(
                "`storage.prefix`: `{prefix}` is more than letters, digits, `-`, `.`, `_`, and `/` between them"
            ));
        }
        if !prefix.is_empty() && !prefix.ends_with('/') {
            return wrong(format!(
                "`storage.prefix`: `{prefix}` does not end with `/`"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(further: &str) -> Result<Storage, String> {
        let text = format!("credentials = \"c\"\n{further}");
        let storage: Storage = toml::from_str(&text).map_err(|error| error.to_string())?;
        storage.check().map_err(|error| error.to_string())?;
        Ok(storage)
    }

    #[test]
    fn names_that_could_mean_something_else_are_refused() {
        let good = "endpoint = \"http://127.0.0.1:8333\"\nbucket = \"b-1.x\"\n";
        let read = checked(good).unwrap();
        assert_eq!(
            (read.region.as_str(), read.profile.as_str()),
            ("us-east-1", "default")
        );
        assert!(checked(&format!("{good}prefix = \"a/b/\"")).is_ok());
        for prefix in ["/a/", "a", "a//", "../", "a b/"] {
            assert!(
                checked(&format!("{good}prefix = \"{prefix}\"")).is_err(),
                "{prefix}"
            );
        }
        for bucket in ["", "a/b", "..", "a?b"] {
            let text = format!("endpoint = \"http://x\"\nbucket = \"{bucket}\"");
            assert!(checked(&text).is_err(), "{bucket}");
        }
        assert!(
            checked("endpoint = \"x\"\nbucket = \"b\"")
                .unwrap_err()
                .contains("https://")
        );
        assert!(checked("bucket = \"b\"").unwrap_err().contains("endpoint"));
    }
}
