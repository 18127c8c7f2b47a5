//! From what a reference names to the manifest of one platform.

use kiln_http::{Request, Response};
use kiln_oci::{
    Digest, ImageConfig, ImageIndex, ImageManifest, MAX_DOCUMENT_BYTES, MediaKind, MediaType,
    Platform,
};

use crate::auth::Ticket;
use crate::document::{ACCEPTED, Document, Kind, RemoteImage, Resolved};
use crate::error::Error;
use crate::report::{codes, said};
use crate::visit::Visit;

/// How many indexes may stand between a reference and its manifest.
pub(crate) const MOST_INDEXES: usize = 3;

impl Visit<'_> {
    pub(crate) fn resolve(&self, platform: &Platform) -> Result<Resolved, Error> {
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
    pub(crate) fn root(&self) -> Result<(Document, Kind), Error> {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => {
                self.document(&digest.to_string(), Some((digest, "the reference")))
            }
            (None, tag) => self.document(tag.unwrap_or(kiln_oci::DEFAULT_TAG), None),
        }
    }

    /// Fetches a manifest or index by tag or digest and verifies it.
    pub(crate) fn document(
        &self,
        name: &str,
        expected: Option<(Digest, &'static str)>,
    ) -> Result<(Document, Kind), Error> {
        let (response, ticket) = self.ask_for_document(name)?;
        if response.status == 404 {
            return Err(self.missing(name, &response));
        }
        self.verified(response, ticket.as_ref(), expected)
    }

    /// Fetches what the reference names; `None`, without further questions, if there is nothing.
    pub(crate) fn find_root(&self) -> Result<Option<(Document, Kind)>, Error> {
        let digest = self.reference.digest();
        let name = match (digest, self.reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or(kiln_oci::DEFAULT_TAG).to_owned(),
        };
        let (response, ticket) = self.ask_for_document(&name)?;
        if response.status == 404 {
            return Ok(None);
        }
        let expected = digest.map(|digest| (digest, "the reference"));
        self.verified(response, ticket.as_ref(), expected).map(Some)
    }

    fn ask_for_document(&self, name: &str) -> Result<(Response, Option<Ticket>), Error> {
        let rest = format!("manifests/{name}");
        self.ask(&rest, |url| Request::get(url).header("accept", ACCEPTED))
    }

    /// Takes the document out of a reply, if it is the one expected.
    fn verified(
        &self,
        response: Response,
        ticket: Option<&Ticket>,
        expected: Option<(Digest, &'static str)>,
    ) -> Result<(Document, Kind), Error> {
        let response = self.successful(response, ticket)?;
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
    pub(crate) fn successful(
        &self,
        response: Response,
        ticket: Option<&Ticket>,
    ) -> Result<Response, Error> {
        self.allowed(response, ticket)?
            .success()
            .map_err(|error| self.failed(ticket, error))
    }

    /// Returns a reply that is no denial.
    pub(crate) fn allowed(
        &self,
        response: Response,
        ticket: Option<&Ticket>,
    ) -> Result<Response, Error> {
        if response.status == 403 {
            return Err(Error::Denied {
                reference: self.name(),
                user: ticket.and_then(|ticket| ticket.user.clone()),
                said: said(&String::from_utf8_lossy(&response.body)),
            });
        }
        Ok(response)
    }

    /// Tells a repository that does not exist from a tag that does not.
    pub(crate) fn missing(&self, name: &str, response: &Response) -> Error {
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

    /// Fetches the manifest for `platform`, and what names it.
    fn manifest(&self, platform: &Platform) -> Result<(Vec<Document>, Document), Error> {
        let root = self.root()?;
        let ((indexes, manifest), resolved) = self.descend(root, platform)?;
        if let Some(manifest) = manifest {
            return Ok((indexes, manifest));
        }
        let digest = resolved.manifest;
        match self.document(&digest.to_string(), Some((digest, "its index")))? {
            (manifest, Kind::Manifest) => Ok((indexes, manifest)),
            (_, Kind::Schema1) => Err(Error::Schema1 {
                reference: self.name(),
            }),
            (other, Kind::Index | Kind::Other(_)) => Err(Error::NotAnImage {
                reference: self.name(),
                what: other.media_type.to_string(),
            }),
        }
    }

    /// Fetches the manifest for `platform` alone.
    pub(crate) fn manifest_for(&self, platform: &Platform) -> Result<Document, Error> {
        Ok(self.manifest(platform)?.1)
    }

    pub(crate) fn fetch(&self, platform: &Platform, place: usize) -> Result<RemoteImage, Error> {
        let (indexes, manifest) = self.manifest(platform)?;
        let reference = || self.name();
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
}
