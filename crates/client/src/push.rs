//! Push: what a registry lacks of an image, several blobs at once, and then what names them.

use std::collections::{BTreeMap, BTreeSet};

use kiln_http::{Cancel, Request, Response};
use kiln_oci::{Descriptor, Digest, ImageManifest, MediaKind, MediaType, Reference};

use crate::access::Access;
use crate::document::{ACCEPTED, Document, Documents};
use crate::error::Error;
use crate::parallel;
use crate::place::Place;
use crate::referrers::referring;
use crate::registry::Registry;
use crate::report::{coded, codes};
use crate::source::BlobSource;
use crate::upload::BlobUpload;
use crate::visit::Visit;

/// How a blob or manifest came to be in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was sent.
    Pushed,
    /// The registry took it from this other repository.
    Mounted(String),
    /// It was there.
    There,
}

/// How far one blob is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushProgress {
    /// Which blob.
    pub digest: Digest,
    /// How much of it has left; falls when an upload has to start over.
    pub sent_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
    /// Set once, with the last report on a blob.
    pub outcome: Option<Outcome>,
}

/// A pushed image: the registry has it whole, under the name it was pushed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// What the reference names now.
    pub digest: Digest,
    /// Whether the name stood for something else, or nothing, before.
    pub changed: bool,
    /// How each blob came there; empty when the registry had the manifest already.
    pub blobs: BTreeMap<Digest, Outcome>,
    /// The number of bytes of blobs that were sent, those sent twice counted twice.
    pub sent_bytes: u64,
}

impl Registry {
    /// Pushes an image, and gives it the tag of `reference`, or no tag where that has none. Blocks.
    ///
    /// A document with a subject also comes into that one's list of referrers, which older registries
    /// do not keep by themselves.
    ///
    /// What the registry has is not sent: nothing but one `HEAD` goes out when the name stands for the
    /// image already. Blobs go several at once, then manifests, then indexes: a document is never
    /// there before what it names. Mirrors are not asked. `progress` is called from several threads.
    ///
    /// # Errors
    /// [`Error::Unauthorised`] and [`Error::Denied`]; [`Error::Rejected`] with what the registry says;
    /// [`Error::Source`]; [`Error::Mangled`]; [`Error::Document`] for a manifest that is none;
    /// [`Error::WrongManifest`] for a reference with another digest; [`Error::ReferrersList`];
    /// [`Error::Http`] for the network.
    /// The name stands for what it stood for before, and the same call sends what is missing.
    pub fn push(
        &self,
        reference: &Reference,
        documents: &Documents,
        source: &dyn BlobSource,
        progress: &(dyn Fn(PushProgress) + Sync),
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let place = Place::upstream(reference);
        let push = Push {
            visit: self.visit(reference, &place, &Access::Push, cancel),
            documents,
            source,
            progress,
        };
        push.run()
    }
}

/// One push.
pub(crate) struct Push<'a> {
    pub(crate) visit: Visit<'a>,
    pub(crate) documents: &'a Documents,
    pub(crate) source: &'a dyn BlobSource,
    pub(crate) progress: &'a (dyn Fn(PushProgress) + Sync),
}

impl Push<'_> {
    fn run(&self) -> Result<Pushed, Error> {
        let (visit, root) = (&self.visit, &self.documents.root);
        let mut pushed = Pushed {
            digest: root.digest,
            changed: true,
            blobs: BTreeMap::new(),
            sent_bytes: 0,
        };
        if let Some(expected) = visit.reference.digest()
            && expected != root.digest
        {
            return Err(Error::WrongManifest {
                reference: visit.name(),
                expected,
                actual: root.digest,
                announced_by: "the reference",
            });
        }
        let tag = visit.reference.tag();
        let named = root.digest.to_string();
        if let Some(tag) = tag
            && visit.standing_digest(tag)? == Some(root.digest)
        {
            pushed.changed = false;
            return Ok(pushed);
        }
        // A list of referrers may still lack a document that is there.
        if referring(root).is_none() && visit.standing_digest(&named)? == Some(root.digest) {
            let Some(tag) = tag else {
                pushed.changed = false;
                return Ok(pushed);
            };
            let response = visit.put_manifest(root, tag)?;
            // The registry may have lost what the manifest names.
            if !is_incomplete(&response) {
                visit.accepted(root, &response)?;
                return Ok(pushed);
            }
        }
        let absent = self.absent_parts()?;
        self.send(&absent, &mut pushed)?;
        Ok(pushed)
    }

    /// Brings blobs, then `parts`, then the root to the registry.
    pub(crate) fn send(&self, parts: &[&Document], pushed: &mut Pushed) -> Result<(), Error> {
        let (visit, root) = (&self.visit, &self.documents.root);
        self.push_blobs(parts, pushed)?;
        self.push_parts(parts)?;
        let named = root.digest.to_string();
        let response = visit.put_manifest(root, visit.reference.tag().unwrap_or(&named))?;
        visit.accepted(root, &response)?;
        visit.list_referrer(root, &response)
    }

    fn jobs(&self) -> std::num::NonZeroUsize {
        self.visit.registry.settings().jobs
    }

    /// Returns those of an index's parts that the registry does not have.
    fn absent_parts(&self) -> Result<Vec<&Document>, Error> {
        let visit = &self.visit;
        let numbered = self.documents.parts.iter().enumerate();
        let mut absent = parallel::for_each(self.jobs(), numbered, visit.cancel, |part, stop| {
            let visit = Visit {
                cancel: stop,
                ..*visit
            };
            let there = visit.standing_digest(&part.1.digest.to_string())?;
            Ok::<_, Error>((there != Some(part.1.digest)).then_some(part))
        })?;
        absent.sort_by_key(|part| part.map(|(number, _)| number));
        Ok(absent.into_iter().flatten().map(|(_, part)| part).collect())
    }

    /// Brings the blobs of the root and of `parts` to the registry.
    fn push_blobs(&self, parts: &[&Document], pushed: &mut Pushed) -> Result<(), Error> {
        let visit = &self.visit;
        let (mut layers, mut configs) = (Vec::new(), Vec::new());
        let mut seen = BTreeSet::new();
        for document in parts.iter().copied().chain([&self.documents.root]) {
            if document.media_type.kind() == MediaKind::Index {
                continue;
            }
            let manifest =
                ImageManifest::parse(&document.bytes).map_err(|source| Error::Document {
                    reference: visit.name(),
                    digest: document.digest,
                    source,
                })?;
            let new = manifest
                .layers
                .into_iter()
                .filter(|layer| !is_foreign(layer) && seen.insert(layer.digest));
            layers.extend(new);
            if seen.insert(manifest.config.digest) {
                configs.push(manifest.config);
            }
        }
        // The longest first, so that none is left alone at the end.
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size_bytes));
        layers.extend(configs);
        let done = parallel::for_each(self.jobs(), &layers, visit.cancel, |blob, stop| {
            let visit = Visit {
                cancel: stop,
                ..*visit
            };
            self.push_blob(visit, blob)
        })?;
        for (digest, outcome, sent) in done {
            pushed.blobs.insert(digest, outcome);
            pushed.sent_bytes += sent;
        }
        Ok(())
    }

    fn push_blob(
        &self,
        visit: Visit<'_>,
        blob: &Descriptor,
    ) -> Result<(Digest, Outcome, u64), Error> {
        visit.cancel.check()?;
        let report = |sent_bytes, outcome| {
            (self.progress)(PushProgress {
                digest: blob.digest,
                sent_bytes,
                total_bytes: blob.size_bytes,
                outcome,
            });
        };
        let upload = BlobUpload {
            visit,
            blob,
            source: self.source,
            report: &|sent| report(sent, None),
        };
        let (outcome, sent) = upload.run()?;
        report(blob.size_bytes, Some(outcome.clone()));
        Ok((blob.digest, outcome, sent))
    }

    /// Puts the parts in their places: manifests at once, then indexes in their order.
    fn push_parts(&self, parts: &[&Document]) -> Result<(), Error> {
        let visit = &self.visit;
        let is_index = |part: &&Document| part.media_type.kind() == MediaKind::Index;
        let put = |part: &Document, cancel: &Cancel| {
            let visit = Visit { cancel, ..*visit };
            let response = visit.put_manifest(part, &part.digest.to_string())?;
            visit.accepted(part, &response)?;
            visit.list_referrer(part, &response)
        };
        let manifests = parts.iter().copied().filter(|part| !is_index(part));
        parallel::for_each(self.jobs(), manifests, visit.cancel, put)?;
        parts
            .iter()
            .copied()
            .filter(is_index)
            .try_for_each(|index| put(index, visit.cancel))
    }
}

/// Tells whether a layer may not be handed on, by its type.
fn is_foreign(layer: &Descriptor) -> bool {
    matches!(
        layer.media_type,
        MediaType::OciForeignLayer(_) | MediaType::DockerForeignLayer(_)
    )
}

/// Tells whether the registry refused a manifest because of what it names.
fn is_incomplete(response: &Response) -> bool {
    !response.is_success()
        && codes(&response.body)
            .iter()
            .any(|code| matches!(code.as_str(), "MANIFEST_BLOB_UNKNOWN" | "BLOB_UNKNOWN"))
}

impl Visit<'_> {
    /// Asks what a tag or digest stands for now; `None` for nothing, or if the registry does not say.
    pub(crate) fn standing_digest(&self, name: &str) -> Result<Option<Digest>, Error> {
        let rest = format!("manifests/{name}");
        let (response, _) = self.ask(&rest, |url| Request::head(url).header("accept", ACCEPTED))?;
        if !response.is_success() {
            return Ok(None);
        }
        let announced = response.header("docker-content-digest");
        Ok(announced.and_then(|text| text.parse().ok()))
    }

    /// Puts a document under a tag or its digest.
    pub(crate) fn put_manifest(&self, document: &Document, name: &str) -> Result<Response, Error> {
        let rest = format!("manifests/{name}");
        let (response, ticket) = self.ask(&rest, |url| {
            Request::put(url, document.media_type.as_str(), document.bytes.clone())
        })?;
        self.allowed(response, ticket.as_ref())
    }

    /// Checks the answer to a document that was put.
    pub(crate) fn accepted(&self, document: &Document, response: &Response) -> Result<(), Error> {
        let what = || format!("the manifest `{}`", document.digest);
        if !response.is_success() {
            return Err(self.rejected(what(), response));
        }
        match response.header("docker-content-digest") {
            Some(actual) if actual != document.digest.to_string() => Err(Error::Mangled {
                reference: self.name(),
                what: what(),
                expected: document.digest,
                actual: actual.chars().take(200).collect(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn rejected(&self, what: String, response: &Response) -> Error {
        Error::Rejected {
            reference: self.name(),
            doing: self.access.doing(),
            what,
            status: response.status,
            said: coded(&response.body),
        }
    }
}
