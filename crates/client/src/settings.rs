//! What the caller decides: mirrors, credentials, how much at once.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use crate::credentials::CredentialFiles;

/// Everything a [`Registry`](crate::Registry) is told; the `cli` fills it from the user's settings.
///
/// Certificate authorities, client certificates and the permission for plain http belong to hosts
/// and are in [`kiln_http::Settings`].
#[derive(Debug, Clone)]
pub struct Settings {
    /// What differs for single registries, by the name that references use (`docker.io`,
    /// `localhost:5000`).
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Where user names and passwords are looked up.
    pub credentials: CredentialFiles,
    /// How many blobs are transferred at once.
    pub jobs: NonZeroUsize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            credentials: CredentialFiles::default(),
            jobs: NonZeroUsize::new(6).expect("six is not zero"),
        }
    }
}

/// What differs for one registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Asked first, in this order; what none of them has comes from the registry itself.
    pub mirrors: Vec<Mirror>,
}

/// Another registry that has the same repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// `host[:port]`, or `host[:port]/prefix` when the repositories are below a prefix there.
    pub location: String,
}
