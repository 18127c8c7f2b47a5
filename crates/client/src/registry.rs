//! Registries as seen by one kiln process: requests with authorisation, manifests, resolution.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_http::{BodyText, Cancel, Client, Download, Request, Response, Url};
use kiln_oci::{
    Digest, ImageConfig, ImageIndex, ImageManifest, MAX_DOCUMENT_BYTES, MediaKind, MediaType,
    Platform, Reference,
};
use serde::Deserialize;

use crate::auth::{Asker, Auth, Ticket};
use crate::challenge::Challenge;
use crate::document::{ACCEPTED, Document, Kind, RemoteImage, Resolved};
use crate::error::Error;
use crate::place::Place;
use crate::settings::Settings;

/// How often a request is answered with 401 before that is the answer.
const MOST_CHALLENGES: u32 = 2;
/// How often a mirror is asked before the next place is.
const MIRROR_TRIES: u32 = 2;
/// How many indexes may stand between a reference and its manifest.
const MOST_INDEXES: usize = 3;

/// Talks to registries. Clones share connections and tokens; used from any number of threads.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Client,
    settings: Settings,
    auth: Auth,
    /// Whether loopback hosts speak TLS, by authority, as found out.
    secure: Mutex<BTreeMap<String, bool>>,
}

/// One operation on one reference at one place.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    registry: &'a Registry,
    pub(crate) reference: &'a Reference,
    pub(crate) place: &'a Place,
    pub(crate) cancel: &'a Cancel,
}

impl Registry {
    /// Returns a client for registries; nothing is read or asked yet.
    pub fn new(http: Client, settings: Settings) -> Self {
        Self(Arc::new(Inner {
            http,
            settings,
            auth: Auth::default(),
            secure: Mutex::default(),
        }))
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
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

    /// Does `work` at the first place, from number `first` on, where it succeeds: mirrors, then the
    /// registry itself, whose error counts.
    pub(crate) fn at_places<T>(
        &self,
        reference: &Reference,
        first: usize,
        cancel: &Cancel,
        mut work: impl FnMut(Visit<'_>, usize) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let places = Place::all(&self.0.settings, reference)?;
        let (last, mirrors) = places.split_last().expect("the registry itself is a place");
        let visit = |place| Visit {
            registry: self,
            reference,
            place,
            cancel,
        };
        for (number, place) in mirrors.iter().enumerate().skip(first) {
            match work(visit(place), number) {
                Err(error) if !error.is_ours() => {
                    tracing::warn!(mirror = place.authority, %error, "the mirror is of no help");
                }
                result => return result,
            }
        }
        work(visit(last), mirrors.len())
    }
}

impl Error {
    /// Tells whether the failure has nothing to do with the place asked.
    fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::Cancelled(_) | Self::Sink { .. } | Self::Credentials(_)
        )
    }
}

impl Visit<'_> {
    fn inner(&self) -> &Inner {
        &self.registry.0
    }

    fn asker(&self) -> Asker<'_> {
        Asker {
            http: &self.inner().http,
            files: &self.inner().settings.credentials,
            reference: self.reference,
            place: self.place,
            cancel: self.cancel,
        }
    }

    fn name(&self) -> Box<Reference> {
        Box::new(self.reference.clone())
    }

    fn failed(&self, ticket: Option<&Ticket>, error: kiln_http::Error) -> Error {
        let user = ticket.and_then(|ticket| ticket.user.clone());
        Error::of(self.reference, user, error)
    }

    /// Returns the address of `rest` in the repository.
    fn url(&self, rest: &str) -> Result<Url, Error> {
        let secure = self.is_secure()?;
        Url::from_parts(secure, &self.place.authority, &self.place.path(rest))
            .map_err(|error| self.failed(None, kiln_http::Error::Url(error)))
    }

    /// Tells whether the place is asked over TLS: always, except where the settings say otherwise
    /// and on this machine, where it is tried out.
    fn is_secure(&self) -> Result<bool, Error> {
        let http = &self.inner().http;
        let authority = &self.place.authority;
        let url = |secure| {
            Url::from_parts(secure, authority, "/v2/")
                .map_err(|error| self.failed(None, kiln_http::Error::Url(error)))
        };
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
        let known = &self.inner().secure;
        let found = known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(authority)
            .copied();
        if let Some(secure) = found {
            return Ok(secure);
        }
        // Servers that want TLS answer 400 to plain words, or nothing that is HTTP.
        let secure = match http.fetch(
            &Request::get(plain).tries(1),
            MAX_DOCUMENT_BYTES,
            self.cancel,
        ) {
            Ok(response) => response.status == 400,
            Err(kiln_http::Error::Protocol { .. } | kiln_http::Error::Broken { .. }) => true,
            // The request itself will tell, with its tries.
            Err(kiln_http::Error::Server { .. } | kiln_http::Error::RateLimited { .. }) => false,
            Err(error) => return Err(self.failed(None, error)),
        };
        known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(authority.clone(), secure);
        Ok(secure)
    }

    /// Sends a request that `make` writes, with what the registry wants to know of who asks.
    fn ask(
        &self,
        rest: &str,
        make: impl Fn(Url) -> Request,
    ) -> Result<(Response, Option<Ticket>), Error> {
        let url = self.url(rest)?;
        let auth = &self.inner().auth;
        let mut ticket = auth.current(self.asker())?;
        let mut challenges = 0;
        loop {
            let request = self.authorised(make(url.clone()), ticket.as_ref());
            let response = self
                .inner()
                .http
                .fetch(&request, MAX_DOCUMENT_BYTES, self.cancel)
                .map_err(|error| self.failed(ticket.as_ref(), error))?;
            if response.status != 401 {
                return Ok((response, ticket));
            }
            challenges += 1;
            let user = || ticket.as_ref().and_then(|ticket| ticket.user.clone());
            let challenge =
                Challenge::choose(response.headers("www-authenticate")).map_err(|schemes| {
                    let wanted = format!("it wants to know who asks by: {}", schemes.join(", "));
                    let words = if schemes.is_empty() {
                        String::new()
                    } else {
                        wanted
                    };
                    self.asker().refused(user(), BodyText::of(words.as_bytes()))
                })?;
            if challenges > MOST_CHALLENGES || !response.url.same_origin(&url) {
                let said = said(&String::from_utf8_lossy(&response.body));
                return Err(self.asker().refused(user(), said));
            }
            ticket = auth.answer(self.asker(), ticket.as_ref(), Some(challenge))?;
        }
    }

    fn authorised(&self, request: Request, ticket: Option<&Ticket>) -> Request {
        let request = if self.place.is_mirror {
            request.tries(MIRROR_TRIES)
        } else {
            request
        };
        match ticket {
            Some(ticket) => request.authorization(ticket.authorization.clone()),
            None => request,
        }
    }

    fn resolve(&self, platform: &Platform) -> Result<Resolved, Error> {
        if self.reference.digest().is_none()
            && let Some((digest, kind)) = self.head()?
        {
            match kind {
                MediaKind::Manifest => {
                    return Ok(Resolved {
                        index: None,
                        manifest: digest,
                    });
                }
                MediaKind::Index => {
                    let root = self.document(&digest.to_string(), Some((digest, "its header")))?;
                    return Ok(self.descend(root, platform)?.1);
                }
                MediaKind::Config | MediaKind::Layer(_) | MediaKind::Other => {}
            }
        }
        let root = self.root()?;
        Ok(self.descend(root, platform)?.1)
    }

    /// Asks for the digest and type of what the tag names; `None` if the registry does not say.
    fn head(&self) -> Result<Option<(Digest, MediaKind)>, Error> {
        let Some(tag) = self.reference.tag() else {
            return Ok(None);
        };
        let rest = format!("manifests/{tag}");
        let (response, _) = self.ask(&rest, |url| Request::head(url).header("accept", ACCEPTED))?;
        // The reply to HEAD has no body to tell why: GET says it again, with words.
        if !response.is_success() {
            return Ok(None);
        }
        let digest = response
            .header("docker-content-digest")
            .and_then(|text| text.parse().ok());
        let kind = response
            .header("content-type")
            .map(|text| MediaType::parse(text).kind());
        Ok(digest.zip(kind))
    }

    /// Fetches what the reference names.
    fn root(&self) -> Result<(Document, Kind), Error> {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => {
                self.document(&digest.to_string(), Some((digest, "the reference")))
            }
            (None, tag) => self.document(tag.unwrap_or(kiln_oci::DEFAULT_TAG), None),
        }
    }

    /// Fetches a manifest or index by tag or digest and verifies it.
    fn document(
        &self,
        name: &str,
        expected: Option<(Digest, &'static str)>,
    ) -> Result<(Document, Kind), Error> {
        let rest = format!("manifests/{name}");
        let (response, ticket) =
            self.ask(&rest, |url| Request::get(url).header("accept", ACCEPTED))?;
        if response.status == 404 {
            return Err(self.missing(name, &response));
        }
        let response = self.successful(response, ticket.as_ref())?;
        let actual = Digest::of(&response.body);
        let announced = response
            .header("docker-content-digest")
            .and_then(|text| text.parse().ok())
            .map(|digest| (digest, "the registry's `Docker-Content-Digest` header"));
        for (expected, announced_by) in expected.into_iter().chain(announced) {
            if expected != actual {
                return Err(Error::WrongManifest {
                    reference: self.name(),
                    expected,
                    actual,
                    announced_by,
                });
            }
        }
        let content_type = response.header("content-type").map(str::to_owned);
        Ok(Document::new(
            content_type.as_deref(),
            actual,
            response.body,
        ))
    }

    /// Returns a reply that is a success.
    fn successful(&self, response: Response, ticket: Option<&Ticket>) -> Result<Response, Error> {
        if response.status == 403 {
            return Err(Error::Denied {
                reference: self.name(),
                user: ticket.and_then(|ticket| ticket.user.clone()),
                said: said(&String::from_utf8_lossy(&response.body)),
            });
        }
        response
            .success()
            .map_err(|error| self.failed(ticket, error))
    }

    /// Tells a repository that does not exist from a tag that does not.
    fn missing(&self, name: &str, response: &Response) -> Error {
        let reference = self.name();
        let unknown = |body: &[u8]| codes(body).iter().any(|code| code == "NAME_UNKNOWN");
        if unknown(&response.body) {
            return Error::RepositoryNotFound { reference };
        }
        // Many registries name the manifest even when the repository is missing; the list of tags
        // makes the difference. Whatever else it answers does not matter here.
        let tags = self.ask("tags/list?n=1", Request::get);
        if let Ok((tags, _)) = tags
            && tags.status == 404
            && unknown(&tags.body)
        {
            return Error::RepositoryNotFound { reference };
        }
        let what = if self.reference.tag() == Some(name) {
            format!("tag `{name}`")
        } else {
            format!("manifest `{name}`")
        };
        Error::ManifestNotFound { reference, what }
    }

    /// Goes from what the reference names to the manifest for `platform`.
    ///
    /// Returns the indexes on the way, their digests, and the manifest if it had to be fetched.
    #[expect(clippy::type_complexity, reason = "used twice, a few lines from here")]
    fn descend(
        &self,
        root: (Document, Kind),
        platform: &Platform,
    ) -> Result<((Vec<Document>, Option<Document>), Resolved), Error> {
        let reference = || self.name();
        let root_digest = root.0.digest;
        let mut indexes = Vec::new();
        let (mut document, mut kind) = root;
        loop {
            match kind {
                Kind::Manifest => {
                    let resolved = Resolved {
                        index: indexes.first().map(|_: &Document| root_digest),
                        manifest: document.digest,
                    };
                    return Ok(((indexes, Some(document)), resolved));
                }
                Kind::Index => {}
                Kind::Schema1 => {
                    return Err(Error::Schema1 {
                        reference: reference(),
                    });
                }
                Kind::Other(what) => {
                    return Err(Error::NotAnImage {
                        reference: reference(),
                        what,
                    });
                }
            }
            let index = ImageIndex::parse(&document.bytes).map_err(|source| Error::Document {
                reference: reference(),
                digest: document.digest,
                source,
            })?;
            let Some(chosen) = index.select(platform) else {
                return Err(Error::Platform {
                    reference: reference(),
                    wanted: Box::new(platform.clone()),
                    available: index.platforms(),
                });
            };
            indexes.push(document);
            if chosen.media_type.kind() == MediaKind::Manifest {
                let resolved = Resolved {
                    index: Some(root_digest),
                    manifest: chosen.digest,
                };
                return Ok(((indexes, None), resolved));
            }
            if indexes.len() == MOST_INDEXES {
                return Err(Error::TooDeep {
                    reference: reference(),
                });
            }
            let digest = chosen.digest;
            (document, kind) = self.document(&digest.to_string(), Some((digest, "its index")))?;
        }
    }

    fn fetch(&self, platform: &Platform, place: usize) -> Result<RemoteImage, Error> {
        let root = self.root()?;
        let ((indexes, manifest), resolved) = self.descend(root, platform)?;
        let reference = || self.name();
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => {
                let digest = resolved.manifest;
                match self.document(&digest.to_string(), Some((digest, "its index")))? {
                    (manifest, Kind::Manifest) => manifest,
                    (_, Kind::Schema1) => {
                        return Err(Error::Schema1 {
                            reference: reference(),
                        });
                    }
                    (other, Kind::Index | Kind::Other(_)) => {
                        return Err(Error::NotAnImage {
                            reference: reference(),
                            what: other.media_type.to_string(),
                        });
                    }
                }
            }
        };
        let unusable = |digest, source| Error::Document {
            reference: reference(),
            digest,
            source,
        };
        let image = ImageManifest::parse(&manifest.bytes)
            .map_err(|source| unusable(manifest.digest, source))?;
        if !image.is_image() {
            let what = image.artifact_type.clone();
            return Err(Error::NotAnImage {
                reference: reference(),
                what: what.unwrap_or_else(|| image.config.media_type.to_string()),
            });
        }
        let mut config_bytes = Vec::new();
        // A size that no config has is refused by the limit, before anything is fetched.
        if image.config.size_bytes <= MAX_DOCUMENT_BYTES {
            self.blob(
                image.config.digest,
                image.config.size_bytes,
                &mut config_bytes,
                &mut |_| {},
            )?;
        } else {
            config_bytes.resize(
                usize::try_from(MAX_DOCUMENT_BYTES).unwrap_or(usize::MAX) + 1,
                0,
            );
        }
        let config = ImageConfig::parse(&config_bytes)
            .map_err(|source| unusable(image.config.digest, source))?;
        if !platform.accepts(&config.platform) {
            return Err(Error::Platform {
                reference: reference(),
                wanted: Box::new(platform.clone()),
                available: vec![config.platform],
            });
        }
        Ok(RemoteImage {
            reference: self.reference.clone(),
            indexes,
            manifest,
            image,
            config_bytes,
            config,
            place,
        })
    }

    /// Downloads a blob into `sink` and verifies it.
    pub(crate) fn blob(
        &self,
        digest: Digest,
        size_bytes: u64,
        sink: &mut dyn kiln_http::Sink,
        progress: &mut dyn FnMut(kiln_http::Progress),
    ) -> Result<(), Error> {
        let rest = format!("blobs/{digest}");
        let url = self.url(&rest)?;
        let auth = &self.inner().auth;
        let mut ticket = auth.current(self.asker())?;
        let mut challenges = 0;
        loop {
            let download = Download {
                request: self.authorised(Request::get(url.clone()), ticket.as_ref()),
                digest: Some(digest),
                size_bytes: Some(size_bytes),
                limit_bytes: size_bytes,
            };
            let http = &self.inner().http;
            let (status, body) = match http.download(&download, sink, progress, self.cancel) {
                Ok(_) => return Ok(()),
                Err(kiln_http::Error::Status { status, body, .. })
                    if matches!(status, 401 | 403 | 404) =>
                {
                    (status, body)
                }
                Err(error) => return Err(self.failed(ticket.as_ref(), error)),
            };
            let reference = self.name();
            let user = ticket.as_ref().and_then(|ticket| ticket.user.clone());
            let said = said(body.text());
            match status {
                401 if challenges < MOST_CHALLENGES => {
                    challenges += 1;
                    // The challenge is the one that the manifest was answered with, or is asked for
                    // without the body.
                    ticket = match &ticket {
                        Some(_) => auth.answer(self.asker(), ticket.as_ref(), None)?,
                        None => self.ask(&rest, Request::head)?.1,
                    };
                }
                401 => return Err(self.asker().refused(user, said)),
                403 => {
                    return Err(Error::Denied {
                        reference,
                        user,
                        said,
                    });
                }
                _ => return Err(Error::BlobNotFound { reference, digest }),
            }
        }
    }
}

/// The errors that a registry reports (distribution specification, error codes).
#[derive(Deserialize, Default)]
#[serde(default)]
struct Errors {
    errors: Vec<Reported>,
    /// Token servers say it this way.
    details: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reported {
    code: String,
    message: Option<String>,
}

fn codes(body: &[u8]) -> Vec<String> {
    let errors: Errors = serde_json::from_slice(body).unwrap_or_default();
    errors.errors.into_iter().map(|error| error.code).collect()
}

/// Takes the sentence out of an error body; other bodies stay as they are.
pub(crate) fn said(body: &str) -> BodyText {
    let errors: Errors = serde_json::from_str(body).unwrap_or_default();
    let sentences: Vec<_> = errors
        .errors
        .into_iter()
        .take(5)
        .map(|error| {
            error
                .message
                .filter(|text| !text.is_empty())
                .unwrap_or(error.code)
        })
        .chain(errors.details)
        .collect();
    if sentences.is_empty() {
        BodyText::of(body.as_bytes())
    } else {
        BodyText::of(sentences.join("; ").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_taken_out_of_an_error() {
        let spec =
            r#"{"errors":[{"code":"DENIED","message":"no\u001b such"},{"code":"X","detail":{}}]}"#;
        assert_eq!(said(spec).text(), "no\\u{1b} such; X");
        assert_eq!(
            said(r#"{"details":"incorrect username"}"#).text(),
            "incorrect username"
        );
        assert_eq!(said("<h1>x</h1>").text(), "<h1>x</h1>");
        assert_eq!(said("").text(), "");
        assert_eq!(codes(spec.as_bytes()), ["DENIED", "X"]);
    }
}
