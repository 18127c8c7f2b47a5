//! Copy: from one registry to another, or within one, without a store.
//!
//! A push whose source is a pull: nothing is kept, so a blob that both sides break off at once is
//! fetched from where it broke.

use std::collections::BTreeSet;
use std::io::{self, Read};

use kiln_http::{Attempts, Body, Cancel, Failure, Request, Url};
use kiln_oci::{Descriptor, Digest, ImageIndex, Platform, Reference};

use crate::document::{Document, Documents, Kind};
use crate::error::{Doing, Error};
use crate::manifests::MOST_INDEXES;
use crate::place::Place;
use crate::push::{PushProgress, Pushed};
use crate::registry::Registry;
use crate::source::{BlobSource, SourceError};
use crate::visit::Visit;

impl Registry {
    /// Copies what `from` names to `to`, byte for byte: with all platforms, or the manifest of one
    /// `platform`. Blocks.
    ///
    /// Memory stays flat: each blob is passed on as it comes, unless the registry of `to` has it, or takes
    /// it from the repository of `from` by itself.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve) about `from`, those of [`push`](Self::push) about `to`.
    pub fn copy(
        &self,
        from: &Reference,
        to: &Reference,
        platform: Option<&Platform>,
        progress: &(dyn Fn(PushProgress) + Sync),
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let documents = self.fetch_documents(from, platform, cancel)?;
        self.copy_documents(&documents, from, to, progress, cancel)
    }

    /// Puts `documents` under the name `to`, with their blobs from the repository of `from`. Blocks.
    ///
    /// # Errors
    /// Those of [`push`](Self::push) about `to`; [`Error::BlobNotFound`] about `from`.
    pub fn copy_documents(
        &self,
        documents: &Documents,
        from: &Reference,
        to: &Reference,
        progress: &(dyn Fn(PushProgress) + Sync),
        cancel: &Cancel,
    ) -> Result<Pushed, Error> {
        let source = Remote {
            registry: self,
            reference: from,
            cancel,
        };
        self.push(to, documents, &source, progress, cancel)
    }

    /// Fetches and verifies the one document that `reference` names, a manifest or an index. Blocks.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve), but for platforms.
    pub fn fetch_root(&self, reference: &Reference, cancel: &Cancel) -> Result<Document, Error> {
        self.at_places(reference, 0, cancel, |visit, _| Ok(visit.root()?.0))
    }

    /// Fetches and verifies the documents that `reference` names: all of an index, or the manifest for
    /// one `platform` alone. Blocks.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve); [`Error::Document`], [`Error::TooDeep`].
    pub fn fetch_documents(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        cancel: &Cancel,
    ) -> Result<Documents, Error> {
        self.at_places(reference, 0, cancel, |visit, _| match platform {
            Some(platform) => visit.manifest_for(platform).map(Documents::single),
            None => visit.all_documents(),
        })
    }
}

impl Registry {
    /// Fetches and verifies a small blob of the repository of `reference`. Blocks.
    ///
    /// # Errors
    /// [`Error::BlobNotFound`]; [`Error::Http`], also for wrong bytes.
    pub fn fetch_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        cancel: &Cancel,
    ) -> Result<Vec<u8>, Error> {
        self.at_places(reference, 0, cancel, |visit, _| {
            let mut bytes = Vec::new();
            visit.blob(blob.digest, blob.size_bytes, &mut bytes, &mut |_| {})?;
            Ok(bytes)
        })
    }

    /// Starts counting tries at a blob.
    fn blob_attempts(&self, reference: &Reference, digest: Digest) -> Result<Attempts<'_>, Error> {
        let place = Place::upstream(reference);
        let url = Url::from_parts(
            true,
            &place.authority,
            &place.path(&format!("blobs/{digest}")),
        )
        .map_err(|error| Error::of(reference, Doing::Pull, None, kiln_http::Error::Url(error)))?;
        Ok(self.inner().http.attempts(&Request::get(url)))
    }
}

impl Visit<'_> {
    fn all_documents(&self) -> Result<Documents, Error> {
        let (root, kind) = self.root()?;
        let mut parts = Vec::new();
        let mut seen = BTreeSet::new();
        self.collect(&root, &kind, 0, &mut seen, &mut parts)?;
        Ok(Documents { root, parts })
    }

    /// Fetches what an index names, each before what names it.
    fn collect(
        &self,
        document: &Document,
        kind: &Kind,
        depth: usize,
        seen: &mut BTreeSet<Digest>,
        parts: &mut Vec<Document>,
    ) -> Result<(), Error> {
        match kind {
            Kind::Index => {}
            Kind::Manifest => return Ok(()),
            Kind::Schema1 => {
                return Err(Error::Schema1 {
                    reference: self.name(),
                });
            }
            Kind::Other(what) => {
                return Err(Error::NotAnImage {
                    reference: self.name(),
                    what: what.clone(),
                });
            }
        }
        if depth == MOST_INDEXES {
            return Err(Error::TooDeep {
                reference: self.name(),
            });
        }
        let index = ImageIndex::parse(&document.bytes).map_err(|source| Error::Document {
            reference: self.name(),
            digest: document.digest,
            source,
        })?;
        for entry in index.manifests {
            if !seen.insert(entry.digest) {
                continue;
            }
            let name = entry.digest.to_string();
            let (part, kind) = self.document(&name, Some((entry.digest, "its index")))?;
            self.collect(&part, &kind, depth + 1, seen, parts)?;
            parts.push(part);
        }
        Ok(())
    }
}

/// The blobs of a repository, as they come.
struct Remote<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    cancel: &'a Cancel,
}

impl BlobSource for Remote<'_> {
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SourceError> {
        let attempts = self.registry.blob_attempts(self.reference, blob.digest)?;
        let mut reader = Arriving {
            remote: self,
            blob: blob.clone(),
            position: from_byte,
            body: None,
            mirror: None,
            attempts,
        };
        // A blob that is not there is known before anything is sent.
        reader.open()?;
        Ok(Box::new(reader))
    }

    fn known_in(&self, _blob: &Descriptor) -> Vec<Reference> {
        vec![self.reference.clone()]
    }
}

/// A blob that arrives, from as many connections as it takes.
struct Arriving<'a> {
    remote: &'a Remote<'a>,
    blob: Descriptor,
    position: u64,
    body: Option<Body>,
    /// The mirror that the body is from, if it is from one.
    mirror: Option<String>,
    attempts: Attempts<'a>,
}

impl Arriving<'_> {
    fn open(&mut self) -> Result<&mut Body, Error> {
        let Remote {
            registry,
            reference,
            cancel,
        } = *self.remote;
        let (body, mirror) = registry.at_places(reference, 0, cancel, |visit, _| {
            let place = visit.place;
            let body = visit.open_blob(self.blob.digest, self.position)?;
            Ok((body, place.is_mirror.then(|| place.authority.clone())))
        })?;
        self.mirror = mirror;
        Ok(self.body.insert(body))
    }

    /// Waits after a failure; the next read opens the blob again.
    fn broken(&mut self, failure: Failure) -> io::Result<()> {
        self.body = None;
        // The next place goes on at once where a mirror fell silent.
        if let Some(mirror) = self.mirror.take()
            && matches!(*failure.error, kiln_http::Error::Timeout { .. })
        {
            self.remote.registry.silent().insert(mirror);
        }
        self.attempts
            .wait(failure, self.remote.cancel)
            .map_err(io::Error::other)
    }
}

impl Read for Arriving<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.position < self.blob.size_bytes {
            let body = match &mut self.body {
                Some(body) => body,
                None => self.open().map_err(io::Error::other)?,
            };
            let failure = match body.read(buffer) {
                Ok(0) => Failure::later(kiln_http::Error::WrongSize {
                    url: body.url().shown(),
                    status: body.status(),
                    expected: self.blob.size_bytes,
                    actual: self.position,
                    body: kiln_http::BodyText::default(),
                }),
                Ok(read) => {
                    self.position += read as u64;
                    self.attempts.reset();
                    return Ok(read);
                }
                Err(error) => match body.failure() {
                    Some(failure) => failure,
                    None => return Err(error),
                },
            };
            self.broken(failure)?;
        }
        Ok(0)
    }
}
