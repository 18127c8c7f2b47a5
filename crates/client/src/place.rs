//! Where the repository of a reference is asked for.

use kiln_http::Url;
use kiln_oci::{DEFAULT_REGISTRY, Reference};

use crate::error::Error;
use crate::settings::{Mirror, Settings};

/// The host that serves the default registry; its name is a web page.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";

/// Returns the host that serves a registry.
pub(crate) fn host(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY {
        DEFAULT_REGISTRY_HOST
    } else {
        registry
    }
}

/// A repository on one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `host[:port]`.
    pub(crate) authority: String,
    /// The repository there, with a mirror's prefix.
    pub(crate) repository: String,
    /// The name under which credentials files have this registry.
    pub(crate) credentials: String,
    /// Whether this is a mirror, which may lack what the registry has.
    pub(crate) is_mirror: bool,
}

impl Place {
    /// Returns the places of `reference` in the order in which they are asked: the registry itself
    /// is last.
    pub(crate) fn all(settings: &Settings, reference: &Reference) -> Result<Vec<Self>, Error> {
        let mirrors = settings
            .registries
            .get(reference.registry())
            .map_or(&[][..], |registry| &registry.mirrors);
        let mut places = Vec::with_capacity(mirrors.len() + 1);
        for mirror in mirrors {
            places.push(Self::mirror(mirror, reference)?);
        }
        places.push(Self::upstream(reference));
        Ok(places)
    }

    /// Returns the registry itself: where things are written.
    pub(crate) fn upstream(reference: &Reference) -> Self {
        let registry = reference.registry();
        Self {
            authority: host(registry).to_owned(),
            repository: reference.repository().to_owned(),
            credentials: registry.to_owned(),
            is_mirror: false,
        }
    }

    fn mirror(mirror: &Mirror, reference: &Reference) -> Result<Self, Error> {
        let location = mirror.location.trim_end_matches('/');
        let (authority, prefix) = location.split_once('/').unwrap_or((location, ""));
        let repository = match prefix {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        // The parts are checked as those of a reference are.
        let parts_are_good = Reference::new(authority, &repository, None, None).is_ok();
        if !parts_are_good || Url::from_parts(true, authority, "/").is_err() {
            return Err(Error::Mirror {
                location: mirror.location.clone(),
            });
        }
        Ok(Self {
            authority: authority.to_owned(),
            repository,
            credentials: authority.to_owned(),
            is_mirror: true,
        })
    }

    /// Returns what `reference` is called here.
    pub(crate) fn name(&self, reference: &Reference) -> Reference {
        let (tag, digest) = (reference.tag(), reference.digest());
        Reference::new(&self.authority, &self.repository, tag, digest)
            .unwrap_or_else(|_checked_before| reference.clone())
    }

    /// Returns the path of something in the repository, such as `manifests/latest`.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::RegistrySettings;

    #[test]
    fn mirrors_come_first_and_the_default_registry_has_its_host() {
        let mut settings = Settings::default();
        let location = |location: &str| Mirror {
            location: location.to_owned(),
        };
        let mirrors = vec![location("mirror:5000"), location("cache.corp/hub/")];
        settings
            .registries
            .insert("docker.io".to_owned(), RegistrySettings { mirrors });
        let places = |settings: &Settings, name: &str| {
            Place::all(settings, &name.parse().unwrap()).map(|places| {
                places
                    .iter()
                    .map(|place| format!("{}{}", place.authority, place.path("manifests/x")))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(
            places(&settings, "debian").unwrap(),
            [
                "mirror:5000/v2/library/debian/manifests/x",
                "cache.corp/v2/hub/library/debian/manifests/x",
                "registry-1.docker.io/v2/library/debian/manifests/x",
            ]
        );
        assert_eq!(
            places(&settings, "localhost:5000/a/b").unwrap(),
            ["localhost:5000/v2/a/b/manifests/x"]
        );
        for wrong in ["https://mirror", "", "a b", "m/UPPER", "m/../x"] {
            let mirrors = vec![location(wrong)];
            settings
                .registries
                .insert("docker.io".to_owned(), RegistrySettings { mirrors });
            assert!(places(&settings, "debian").is_err(), "{wrong}");
        }
    }
}
