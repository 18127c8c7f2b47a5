//! Who one is to the object store: from a file of the form that AWS' own tools use.

use std::fmt;
use std::path::Path;

use crate::config::ConfigError;

/// A key and its secret.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) id: String,
    pub(super) secret: String,
    /// For credentials that end by themselves.
    pub(super) token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads a profile of a file.
    ///
    /// # Errors
    /// The file cannot be read, or the profile is not there or not whole; what is in the file is never part of it.
    pub(super) fn read(path: &Path, profile: &str) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, profile).ok_or_else(|| {
            ConfigError::Unsafe(format!(
                "{}: there is no profile `[{profile}]` with `aws_access_key_id` and `aws_secret_access_key`",
                path.display()
            ))
        })
    }

    fn parse(text: &str, profile: &str) -> Option<Self> {
        let (mut is_ours, mut id, mut secret, mut token) = (false, None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[') {
                is_ours = name.strip_suffix(']').map(str::trim) == Some(profile);
            } else if is_ours
                && !line.starts_with(['#', ';'])
                && let Some((name, value)) = line.split_once('=')
            {
                let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
                match name.trim() {
                    "aws_access_key_id" => id = value,
                    "aws_secret_access_key" => secret = value,
                    "aws_session_token" => token = value,
                    // Such files hold other settings too.
                    _ => {}
                }
            }
        }
        Some(Self {
            id: id?,
            secret: secret?,
            token,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\n[other]\naws_access_key_id = O\naws_secret_access_key=P\n\n\
        [default]\nregion = x\naws_access_key_id=A\n  aws_secret_access_key = s/e=c \naws_session_token = t\n\
        [half]\naws_access_key_id = H\n";

    #[test]
    fn profiles_are_told_apart() {
        let read = Credentials::parse(FILE, "default").unwrap();
        assert_eq!(
            (
                read.id.as_str(),
                read.secret.as_str(),
                read.token.as_deref()
            ),
            ("A", "s/e=c", Some("t"))
        );
        assert_eq!(Credentials::parse(FILE, "other").unwrap().secret, "P");
        assert!(Credentials::parse(FILE, "half").is_none());
        assert!(Credentials::parse(FILE, "none").is_none());
        assert!(Credentials::parse("aws_access_key_id = A", "default").is_none());
    }

    #[test]
    fn a_secret_is_not_shown() {
        let read = Credentials::parse(FILE, "default").unwrap();
        let shown = format!("{read:?}");
        assert!(!shown.contains("s/e") && shown.contains('A'), "{shown}");
    }
}
