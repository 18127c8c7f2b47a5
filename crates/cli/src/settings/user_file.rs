//! `$XDG_CONFIG_HOME/kiln/config.toml`: what a person settles once for all projects.
//!
//! ```toml
//! [store]
//! path = "/data/kiln"        # unless KILN_HOME says it
//! max  = "50GB"              # collect garbage after a build that goes beyond
//!
//! [build]
//! jobs = 16
//! cache-from = ["registry.example.com/team/cache"]
//! cache-to   = ["registry.example.com/team/cache"]
//!
//! [run]
//! runtime = "crun"           # unless --runtime says it
//! detach-keys = "ctrl-x,q"   # unless --detach-keys says it
//! cdi = ["/etc/cdi"]         # where devices are described
//!
//! [debian]
//! mirror = "http://mirror.example.com/debian"
//!
//! [registry."registry.example.com"]
//! plain-http  = true
//! authorities = ["/etc/ssl/example.pem"]
//!
//! [registry."docker.io"]
//! mirrors = ["mirror.example.com/hub"]
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kiln_client::{Mirror, RegistrySettings};
use kiln_http::{ClientCertificate, HostSettings};
use kiln_manifest::value::ByteSize;
use kiln_runtime::DetachKeys;
use serde::Deserialize;

use crate::caches::CacheReference;
use crate::errors::{Class, Failure, Outcome};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserFile {
    /// `[store]`
    pub(crate) store: UserStore,
    /// `[build]`
    pub(crate) build: UserBuild,
    /// `[run]`
    pub(crate) run: UserRun,
    /// `[debian]`
    pub(crate) debian: UserDebian,
    /// `[registry."HOST"]`
    pub(crate) registry: BTreeMap<String, UserRegistry>,
}

impl UserFile {
    /// Makes paths that begin nowhere begin at `folder`: settings must not depend on where kiln is called.
    fn begin_paths_at(&mut self, folder: &Path) {
        let registries = self.registry.values_mut();
        let of_registries = registries.flat_map(|registry| {
            let pair = registry.certificate.iter_mut().chain(&mut registry.key);
            registry.authorities.iter_mut().chain(pair)
        });
        let of_run = &mut self.run.cdi;
        for path in self
            .store
            .path
            .iter_mut()
            .chain(of_run)
            .chain(of_registries)
        {
            *path = folder.join(&*path);
        }
    }

    /// Registries to ask before others.
    pub(crate) fn mirrors(&self) -> BTreeMap<String, RegistrySettings> {
        let of = |registry: &UserRegistry| RegistrySettings {
            mirrors: registry
                .mirrors
                .iter()
                .map(|location| Mirror {
                    location: location.clone(),
                })
                .collect(),
        };
        self.registry
            .iter()
            .map(|(name, registry)| (name.clone(), of(registry)))
            .collect()
    }

    /// What differs for single hosts.
    pub(crate) fn hosts(&self) -> BTreeMap<String, HostSettings> {
        let of = |registry: &UserRegistry| HostSettings {
            plain_http: registry.plain_http,
            authorities: registry.authorities.clone(),
            client_certificate: registry
                .certificate
                .clone()
                .zip(registry.key.clone())
                .map(|(certificate, key)| ClientCertificate { certificate, key }),
        };
        self.registry
            .iter()
            .map(|(host, registry)| (host.clone(), of(registry)))
            .collect()
    }
}

/// `[store]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserStore {
    /// Where the store is, unless `KILN_HOME` says it.
    pub(crate) path: Option<PathBuf>,
    /// Garbage is collected when the store is larger than this after a build.
    pub(crate) max: Option<Size>,
}

/// `[build]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserBuild {
    /// Most steps that run at once.
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Caches to read from, unless a flag names some.
    pub(crate) cache_from: Vec<CacheReference>,
    /// Caches to write to, unless a flag names some.
    pub(crate) cache_to: Vec<CacheReference>,
}

/// `[run]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserRun {
    /// Who starts containers, unless a flag says it.
    pub(crate) runtime: Option<String>,
    /// Folders with descriptions of devices, in place of the usual ones; the last one wins.
    pub(crate) cdi: Vec<PathBuf>,
    /// The keys that leave a container alone, unless a flag names some.
    pub(crate) detach_keys: Option<Keys>,
}

/// `[debian]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserDebian {
    /// Base URL of the archive, without `dists/`.
    pub(crate) mirror: Option<String>,
}

/// `[registry."HOST"]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserRegistry {
    /// Asked first; what none of them has comes from the registry itself.
    pub(crate) mirrors: Vec<String>,
    /// Whether it may be spoken to without TLS.
    pub(crate) plain_http: bool,
    /// PEM files with further certificate authorities.
    pub(crate) authorities: Vec<PathBuf>,
    /// PEM file of the certificate shown to it; `key` stands beside it.
    pub(crate) certificate: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub(crate) key: Option<PathBuf>,
}

/// Keys that leave a container alone, `ctrl-x,q`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) struct Keys(pub(crate) DetachKeys);

impl TryFrom<String> for Keys {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

/// A size with a unit, `50GB`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) struct Size(pub(crate) u64);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        ByteSize::parse(&text)
            .map(|size| Self(size.0))
            .map_err(|error| format!("`{text}` {error}: {}", error.help))
    }
}

/// Reads the file; nothing there is fine.
///
/// # Errors
/// It cannot be read, or says what no kiln understands.
pub(crate) fn read(path: &Path) -> Outcome<UserFile> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(UserFile::default()),
        Err(error) => Err(Failure::message(
            Class::Environment,
            format!("`{}`: {error}", path.display()),
            None,
        )),
    }
}

fn parse(path: &Path, text: &str) -> Outcome<UserFile> {
    let wrong = |reason: &str| {
        Failure::message(
            Class::User,
            format!("`{}`: {}", path.display(), reason.trim_end()),
            Some("these are your own settings, not the project's".to_owned()),
        )
    };
    let mut file: UserFile = toml::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    if let Some(folder) = path.parent() {
        file.begin_paths_at(folder);
    }
    for (host, registry) in &file.registry {
        if registry.certificate.is_some() != registry.key.is_some() {
            return Err(wrong(&format!(
                "`registry.\"{host}\"` needs both `certificate` and `key`"
            )));
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_setting_is_an_error_that_names_the_file() {
        let failure = parse(Path::new("/c/config.toml"), "sotre = 1").expect_err("typo");
        assert!(failure.report.to_string().contains("/c/config.toml"));
        assert_eq!(failure.class, Class::User);
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = "[store]\npath = \"store\"\n[registry.a]\nauthorities = [\"a.pem\", \"/b.pem\"]\n\
                    certificate = \"c.pem\"\nkey = \"d.pem\"\n";
        let file = parse(Path::new("/c/kiln/config.toml"), text).expect("settings");
        let registry = &file.registry["a"];
        let path = |path: &str| PathBuf::from(path);
        assert_eq!(file.store.path, Some(path("/c/kiln/store")));
        assert_eq!(
            registry.authorities,
            [path("/c/kiln/a.pem"), path("/b.pem")]
        );
        assert_eq!(registry.certificate, Some(path("/c/kiln/c.pem")));
        assert_eq!(registry.key, Some(path("/c/kiln/d.pem")));
    }

    #[test]
    fn everything_in_the_module_documentation_is_understood() {
        let text = "[store]\npath = \"/data/kiln\"\nmax = \"50GB\"\n[build]\njobs = 16\n\
                    cache-from = [\"registry.example.com/team/cache\"]\n\
                    cache-to = [\"registry.example.com/team/cache\"]\n\
                    [run]\nruntime = \"crun\"\ndetach-keys = \"ctrl-x,q\"\ncdi = [\"/etc/cdi\"]\n\
                    [debian]\nmirror = \"http://mirror.example.com/debian\"\n\
                    [registry.\"registry.example.com\"]\nplain-http = true\n\
                    authorities = [\"/etc/ssl/example.pem\"]\n\
                    [registry.\"docker.io\"]\nmirrors = [\"mirror.example.com/hub\"]\n";
        let file = parse(Path::new("c"), text).expect("valid");
        assert_eq!(file.store.max, Some(Size(50_000_000_000)));
        assert!(file.registry["registry.example.com"].plain_http);
    }

    #[test]
    fn a_size_without_a_unit_and_a_certificate_without_a_key_are_errors() {
        for text in [
            "[store]\nmax = \"50\"",
            "[registry.a]\ncertificate = \"/x\"",
            "[run]\ndetach-keys = \"nonsense\"",
        ] {
            assert!(parse(Path::new("c"), text).is_err(), "{text}");
        }
    }
}
