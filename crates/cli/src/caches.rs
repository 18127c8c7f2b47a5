//! Which registries' caches a build uses: flags, then the user's settings.

use std::str::FromStr;

use kiln_build::CacheRegistries;
use kiln_oci::Reference;
use serde::Deserialize;

use crate::settings::Settings;

/// A repository in a registry: a reference without tag.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct CacheReference(pub(crate) Reference);

impl FromStr for CacheReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let reference: Reference = text
            .parse()
            .map_err(|error: kiln_oci::ReferenceError| error.to_string())?;
        let last = text.rsplit('/').next().unwrap_or(text);
        if last.contains([':', '@']) {
            return Err(format!(
                "the tags of a cache are kiln's: leave out what follows `{}/{}`",
                reference.registry(),
                reference.repository()
            ));
        }
        Ok(Self(reference))
    }
}

impl TryFrom<String> for CacheReference {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Results in registries; for every verb that builds.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Building")]
pub(crate) struct CacheArgs {
    /// Use results that this repository of a registry has, and give it those it lacks
    #[arg(long, value_name = "REPOSITORY")]
    cache: Vec<CacheReference>,

    /// Use results that this repository of a registry has; the first one that has one counts
    #[arg(long, value_name = "REPOSITORY")]
    cache_from: Vec<CacheReference>,

    /// Give this repository of a registry the results that it lacks
    #[arg(long, value_name = "REPOSITORY")]
    cache_to: Vec<CacheReference>,
}

impl CacheArgs {
    /// Resolves them: flags replace what the settings say of the same direction.
    pub(crate) fn registries(&self, settings: &Settings) -> CacheRegistries {
        let user = &settings.user.build;
        let or_settings = |flags: &[CacheReference], settings: &[CacheReference]| {
            let given = self.cache.iter().chain(flags);
            let mut all = Vec::new();
            let from = if self.cache.is_empty() && flags.is_empty() {
                settings.iter().collect::<Vec<_>>()
            } else {
                given.collect()
            };
            for CacheReference(reference) in from {
                if !all.contains(reference) {
                    all.push(reference.clone());
                }
            }
            all
        };
        CacheRegistries {
            read: or_settings(&self.cache_from, &user.cache_from),
            write: or_settings(&self.cache_to, &user.cache_to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_a_repository_without_tag() {
        let cache: CacheReference = "registry.example.com:5000/team/cache".parse().unwrap();
        assert_eq!(cache.0.repository(), "team/cache");
        for text in [
            "registry.example.com/team/cache:latest",
            "registry.example.com/team/cache:1",
        ] {
            let error = text.parse::<CacheReference>().unwrap_err();
            assert!(error.contains("leave out"), "{error}");
        }
        assert!("A/B C".parse::<CacheReference>().is_err());
    }
}
