//! Artifacts that are no images: one manifest under a tag, and its blobs one by one.
//!
//! What uses these expects most tags to be missing: asking for one is a single request, and nothing
//! is asked twice to find better words for the answer.

use std::collections::BTreeMap;

use kiln_http::Cancel;
use kiln_oci::{Descriptor, Reference};

use crate::access::Access;
use crate::document::{Document, Documents, Kind};
use crate::error::Error;
use crate::place::Place;
use crate::pull::Progress;
use crate::push::{Push, Pushed};
use crate::registry::Registry;
use crate::sink::BlobSink;
use crate::source::BlobSource;

impl Registry {
    /// Fetches and verifies the manifest that `reference` names, whatever it is of; `None` if there is
    /// none. Blocks.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] for a document that is no manifest; those of
    /// [`resolve`](Self::resolve) about registry and network.
    pub fn find_manifest(
        &self,
        reference: &Reference,
        cancel: &Cancel,
    ) -> Result<Option<Document>, Error> {
        let found = self.at_places(reference, 0, cancel, |visit, _| {
            visit.find_root()?.ok_or_else(|| {
                let reference = visit.name();
                let what = "such manifest".to_owned();
                Error::ManifestNotFound { reference, what }
            })
        });
        match found {
            Ok((manifest, Kind::Manifest)) => Ok(Some(manifest)),
            Ok((other, Kind::Index | Kind::Schema1 | Kind::Other(_))) => Err(Error::NotAnImage {
                reference: Box::new(reference.clone()),
                what: other.media_type.to_string(),
            }),
            Err(Error::ManifestNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks whether the registry has something under the tag of `reference`. Blocks; mirrors are not
    /// asked.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve) about registry and network.
    pub fn has_manifest(&self, reference: &Reference, cancel: &Cancel) -> Result<bool, Error> {
        let place = Place::upstream(reference);
        let visit = self.visit(reference, &place, &Access::Push, cancel);
        let tag = reference.tag().unwrap_or(kiln_oci::DEFAULT_TAG);
        Ok(visit.standing_digest(tag)?.is_some())
    }

    /// Pulls one blob of the repository of `reference` into `sink`, and returns how many bytes were
    /// missing. Blocks.
    ///
    /// # Errors
    /// [`Error::BlobNotFound`]; [`Error::Sink`]; [`Error::Http`] for the network and for wrong bytes,
    /// of which nothing is kept.
    pub fn pull_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        sink: &dyn BlobSink,
        progress: &(dyn Fn(Progress) + Sync),
        cancel: &Cancel,
    ) -> Result<u64, Error> {
        self.pull_blob_from(reference, 0, blob, sink, progress, cancel)
    }

    /// Pushes `manifest` with its blobs under the tag of `reference`, whatever stands there: one that
    /// has lost a blob gets it back. Blocks.
    ///
    /// # Errors
    /// Those of [`push`](Self::push).
    pub fn push_artifact(
        &self,
        reference: &Reference,
        manifest: &Document,
        source: &dyn BlobSource,
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let place = Place::upstream(reference);
        let documents = Documents::single(manifest.clone());
        let push = Push {
            visit: self.visit(reference, &place, &Access::Push, cancel),
            documents: &documents,
            source,
            progress: &|_| {},
        };
        let mut pushed = Pushed {
            digest: manifest.digest,
            changed: true,
            blobs: BTreeMap::new(),
            sent_bytes: 0,
        };
        push.send(&[], &mut pushed)?;
        Ok(pushed)
    }
}
