//! Registries as seen by one kiln process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_http::{Cancel, Client, Patience, Request, Url};
use kiln_oci::{MAX_DOCUMENT_BYTES, Platform, Reference};

use crate::access::Access;
use crate::auth::Auth;
use crate::document::{RemoteImage, Resolved};
use crate::error::Error;
use crate::place::Place;
use crate::settings::Settings;
use crate::visit::Visit;

/// What the answer of a mirror is worth, which the next place can give, too. One that fetches on demand needs some
/// seconds for its first byte.
const MIRROR_PATIENCE: Patience = Patience {
    tries: 2,
    silence: Duration::from_secs(10),
    retry_after: Duration::from_secs(1),
};

/// Talks to registries. Clones share connections and tokens; used from any number of threads.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Arc<Inner>,
    /// What an answer is worth.
    patience: Patience,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) http: Client,
    pub(crate) settings: Settings,
    pub(crate) auth: Auth,
    /// Whether loopback hosts speak TLS, by authority, as found out.
    pub(crate) secure: Mutex<BTreeMap<String, bool>>,
    /// Mirrors that did not answer, by authority: they are not waited for again.
    pub(crate) silent: Mutex<BTreeSet<String>>,
}

impl Registry {
    /// Returns a client for registries; nothing is read or asked yet.
    pub fn new(http: Client, settings: Settings) -> Self {
        Self {
            inner: Arc::new(Inner {
                http,
                settings,
                auth: Auth::default(),
                secure: Mutex::default(),
                silent: Mutex::default(),
            }),
            patience: Patience::FULL,
        }
    }

    /// Returns the same for work that is not worth a long wait.
    #[must_use]
    pub fn impatient(&self, patience: Patience) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            patience,
        }
    }

    /// Returns what an answer of `place` is worth.
    pub(crate) fn patience(&self, place: &Place) -> Patience {
        if place.is_mirror {
            MIRROR_PATIENCE
        } else {
            self.patience
        }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// How many blobs are transferred at once.
    pub fn jobs(&self) -> std::num::NonZeroUsize {
        self.inner.settings.jobs
    }

    /// Finds out what `reference` means now, for `platform`. Blocks.
    ///
    /// Asks for headers only where that is enough. A manifest that is no index is taken to be for
    /// every platform: whether it is, its config tells when it is [fetched](Self::fetch).
    ///
    /// # Errors
    /// [`Error::RepositoryNotFound`], [`Error::ManifestNotFound`], [`Error::Unauthorised`],
    /// [`Error::Platform`] with the platforms there are, and the others of [`Error`].
    pub fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<Resolved, Error> {
        self.at_places(reference, 0, cancel, |visit, _| visit.resolve(platform))
    }

    /// Fetches and verifies the documents of the image that `reference` means on `platform`: indexes,
    /// manifest and config. Blocks.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve); [`Error::Platform`] also for a single image whose config
    /// is for another platform; [`Error::WrongManifest`], [`Error::Schema1`],
    /// [`Error::NotAnImage`], [`Error::Document`] for what the registry sends.
    pub fn fetch(
        &self,
        reference: &Reference,
        platform: &Platform,
        cancel: &Cancel,
    ) -> Result<RemoteImage, Error> {
        self.at_places(reference, 0, cancel, |visit, place| {
            visit.fetch(platform, place)
        })
    }

    /// Begins an operation at one place.
    pub(crate) fn visit<'a>(
        &'a self,
        reference: &'a Reference,
        place: &'a Place,
        access: &'a Access,
        cancel: &'a Cancel,
    ) -> Visit<'a> {
        Visit {
            registry: self,
            reference,
            place,
            access,
            cancel,
        }
    }

    /// Tells whether a host is asked over TLS: always, except where the settings say otherwise and on
    /// this machine, where it is tried out.
    pub(crate) fn is_secure(
        &self,
        authority: &str,
        patience: Patience,
        cancel: &Cancel,
    ) -> Result<bool, kiln_http::Error> {
        let http = &self.inner.http;
        let url = |secure| Url::from_parts(secure, authority, "/v2/");
        let plain = url(false)?;
        let allowed = http
            .settings()
            .host(&url(true)?)
            .or_else(|| http.settings().host(&plain))
            .is_some_and(|(_, host)| host.plain_http);
        if allowed {
            return Ok(false);
        }
        if !plain.is_loopback() {
            return Ok(true);
        }
        let known = &self.inner.secure;
        let found = known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(authority)
            .copied();
        if let Some(secure) = found {
            return Ok(secure);
        }
        // Servers that want TLS answer 400 to plain words, or nothing that is HTTP.
        let once = Patience {
            tries: 1,
            ..patience
        };
        let request = Request::get(plain).patience(once);
        let secure = match http.fetch(&request, MAX_DOCUMENT_BYTES, cancel) {
            Ok(response) => response.status == 400,
            Err(kiln_http::Error::Protocol { .. } | kiln_http::Error::Broken { .. }) => true,
            // The request itself will tell, with its tries.
            Err(kiln_http::Error::Server { .. } | kiln_http::Error::RateLimited { .. }) => false,
            Err(error) => return Err(error),
        };
        known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(authority.to_owned(), secure);
        Ok(secure)
    }

    /// Does `work` at the first place, from number `first` on, where it succeeds: mirrors, then the
    /// registry itself, whose error counts.
    pub(crate) fn at_places<T>(
        &self,
        reference: &Reference,
        first: usize,
        cancel: &Cancel,
        mut work: impl FnMut(Visit<'_>, usize) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let places = Place::all(&self.inner.settings, reference)?;
        let (last, mirrors) = places.split_last().expect("the registry itself is a place");
        let visit = |place| self.visit(reference, place, &Access::Pull, cancel);
        for (number, place) in mirrors.iter().enumerate().skip(first) {
            if self.silent().contains(&place.authority) {
                continue;
            }
            match work(visit(place), number) {
                Err(error) if !error.is_ours() => self.pass_over(place, reference, error),
                result => return result,
            }
        }
        work(visit(last), mirrors.len())
    }

    /// The mirrors that are not asked any more.
    pub(crate) fn silent(&self) -> MutexGuard<'_, BTreeSet<String>> {
        let silent = self.inner.silent.lock();
        silent.unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what is wrong with a mirror, unless it just has not got everything, which is in the nature of one.
    fn pass_over(&self, mirror: &Place, reference: &Reference, error: Error) {
        if error.is_silence() {
            self.silent().insert(mirror.authority.clone());
        }
        let is_absence = error.is_absence();
        let error = error.renamed(mirror.name(reference));
        let mirror = mirror.authority.as_str();
        if is_absence {
            tracing::debug!("the mirror `{mirror}` does not have it: {error}");
        } else {
            // Told once for each mirror: every blob asks anew.
            tracing::warn!(
                once = mirror,
                "the mirror `{mirror}` is of no help: {error}"
            );
        }
    }
}

impl Error {
    /// Tells whether the failure has nothing to do with the place asked.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_) | Self::Sink { .. } | Self::Source { .. } | Self::Credentials(_)
        )
    }

    /// Tells whether the place was asked and simply has not got it.
    fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::RepositoryNotFound { .. }
                | Self::ManifestNotFound { .. }
                | Self::BlobNotFound { .. }
                | Self::Platform { .. }
        )
    }

    /// Tells whether nobody answered, or too late.
    fn is_silence(&self) -> bool {
        use kiln_http::Error as Http;
        let Self::Http { source, .. } = self else {
            return false;
        };
        matches!(
            **source,
            Http::Timeout { .. } | Http::Connect { .. } | Http::HostNotFound { .. }
        )
    }

    /// Says the same of the image under another name: what a mirror lacks or refuses is not to be put
    /// down to the registry.
    fn renamed(mut self, name: Reference) -> Self {
        match &mut self {
            Self::RepositoryNotFound { reference }
            | Self::ManifestNotFound { reference, .. }
            | Self::BlobNotFound { reference, .. }
            | Self::Unauthorised { reference, .. }
            | Self::Denied { reference, .. }
            | Self::RateLimited { reference, .. }
            | Self::Platform { reference, .. }
            | Self::Schema1 { reference }
            | Self::NotAnImage { reference, .. }
            | Self::Document { reference, .. }
            | Self::TooDeep { reference }
            | Self::WrongManifest { reference, .. }
            | Self::Sink { reference, .. }
            | Self::Source { reference, .. }
            | Self::Rejected { reference, .. }
            | Self::TagDeletion { reference, .. }
            | Self::ReferrersList { reference, .. }
            | Self::Mangled { reference, .. }
            | Self::Http { reference, .. } => **reference = name,
            Self::Mirror { .. } | Self::Credentials(_) | Self::Cancelled(_) => {}
        }
        self
    }
}
