//! Referrers: what else is in a repository about an image, such as signatures and lists of parts.
//!
//! A registry of the distribution specification 1.1 lists them by itself. For an older one the list is
//! an index under a tag made from the image's digest, which each client that adds a referrer keeps up
//! to date; two that do so at once may overtake each other, so what was written is looked at again.

use kiln_http::{Cancel, Request, Response};
use kiln_oci::{Descriptor, Digest, ImageIndex, ImageManifest, MediaKind, MediaType, Reference};

use crate::access::Access;
use crate::document::{Document, Kind};
use crate::error::Error;
use crate::locations::next_page;
use crate::place::Place;
use crate::registry::Registry;
use crate::visit::Visit;

/// The most pages of one list that are read.
const MOST_PAGES: usize = 1_000;
/// How often a list under a tag is written until the own entry stays in it.
const MOST_WRITES: u32 = 5;

impl Registry {
    /// Lists what refers to `subject` in the repository of `reference`; with `artifact_type`, only what
    /// is of that type. Blocks.
    ///
    /// A subject that nothing refers to, or that does not exist, has an empty list.
    ///
    /// # Errors
    /// [`Error::Unauthorised`], [`Error::Denied`], [`Error::Document`] for a list that is none,
    /// [`Error::Http`].
    pub fn referrers(
        &self,
        reference: &Reference,
        subject: Digest,
        artifact_type: Option<&str>,
        cancel: &Cancel,
    ) -> Result<Vec<Descriptor>, Error> {
        let place = Place::upstream(reference);
        let visit = self.visit(reference, &place, &Access::Pull, cancel);
        let mut found = match visit.listed_referrers(subject, artifact_type)? {
            Some(found) => found,
            None => visit
                .tagged_referrers(subject)?
                .map_or_else(Vec::new, |index| index.manifests),
        };
        // Whether a registry filters is its own choice.
        if let Some(wanted) = artifact_type {
            found.retain(|entry| entry.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }
}

/// Returns the tag of the list for registries that keep none.
fn fallback_tag(subject: Digest) -> String {
    subject.to_string().replace(':', "-")
}

/// What a pushed document says it is about, and how a list of referrers names it.
pub(crate) fn referring(document: &Document) -> Option<(Digest, Descriptor)> {
    let (subject, artifact_type, annotations) = match document.media_type.kind() {
        MediaKind::Manifest => {
            let manifest = ImageManifest::parse(&document.bytes).ok()?;
            let config = manifest.config.media_type.as_str().to_owned();
            (
                manifest.subject?,
                manifest.artifact_type.or(Some(config)),
                manifest.annotations,
            )
        }
        MediaKind::Index => {
            let index = ImageIndex::parse(&document.bytes).ok()?;
            (index.subject?, index.artifact_type, index.annotations)
        }
        MediaKind::Config | MediaKind::Layer(_) | MediaKind::Other => return None,
    };
    let mut entry = document.descriptor();
    entry.artifact_type = artifact_type;
    entry.annotations = annotations;
    Some((subject.digest, entry))
}

impl Visit<'_> {
    /// Asks the registry's own list; `None` if it keeps none.
    fn listed_referrers(
        &self,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let filter = artifact_type.map(|wanted| ("artifactType", wanted));
        let mut url = self
            .url(&format!("referrers/{subject}"))?
            .with_query(filter);
        let mut found = Vec::new();
        for _ in 0..MOST_PAGES {
            let (response, ticket) = self.ask_at(url, Request::get)?;
            if matches!(response.status, 404 | 405) {
                return Ok(None);
            }
            let response = self.successful(response, ticket.as_ref())?;
            found.extend(self.index(&response)?.manifests);
            match next_page(&response) {
                None => return Ok(Some(found)),
                Some(next) => url = next,
            }
        }
        let reason = format!("its list has more than {MOST_PAGES} pages");
        let url = url.shown();
        Err(self.failed(None, kiln_http::Error::Protocol { url, reason }))
    }

    fn index(&self, response: &Response) -> Result<ImageIndex, Error> {
        ImageIndex::parse(&response.body).map_err(|source| Error::Document {
            reference: self.name(),
            digest: Digest::of(&response.body),
            source,
        })
    }

    /// Fetches the list under the tag; `None` if there is none yet.
    fn tagged_referrers(&self, subject: Digest) -> Result<Option<ImageIndex>, Error> {
        match self.document(&fallback_tag(subject), None) {
            Ok((document, Kind::Index)) => {
                ImageIndex::parse(&document.bytes)
                    .map(Some)
                    .map_err(|source| Error::Document {
                        reference: self.name(),
                        digest: document.digest,
                        source,
                    })
            }
            Ok((_, Kind::Manifest | Kind::Schema1 | Kind::Other(_))) => Ok(None),
            Err(Error::ManifestNotFound { .. } | Error::RepositoryNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sees to it that a document just put is in the list of what it is about.
    ///
    /// # Errors
    /// [`Error::ReferrersList`] when others overwrite the list again and again.
    pub(crate) fn list_referrer(
        &self,
        document: &Document,
        response: &Response,
    ) -> Result<(), Error> {
        let Some((subject, entry)) = referring(document) else {
            return Ok(());
        };
        if response.header("oci-subject").is_some() {
            return Ok(());
        }
        let tag = fallback_tag(subject);
        for _ in 0..MOST_WRITES {
            let mut index = self
                .tagged_referrers(subject)?
                .unwrap_or_else(|| ImageIndex::new(Vec::new()));
            if index
                .manifests
                .iter()
                .any(|known| known.digest == entry.digest)
            {
                return Ok(());
            }
            index.manifests.push(entry.clone());
            let list = Document::of(MediaType::OciIndex, index.to_bytes());
            let response = self.put_manifest(&list, &tag)?;
            self.accepted(&list, &response)?;
        }
        Err(Error::ReferrersList {
            reference: self.name(),
            tag,
        })
    }
}
