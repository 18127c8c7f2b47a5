//! What is said about an image: attached to it in its registry, listed and read.
//!
//! Everything is a referrer of the image. Signatures and signed statements are also under the tags where
//! cosign looks for them; both places are read, as older tools write only the tags.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use kiln_attest::{
    Artifact, ENVELOPE_TYPE, SIGNATURE_ANNOTATION, SIGNATURE_ARTIFACT_TYPE, SIGNATURE_LAYER_TYPE,
    Signature, attestation_tag, signature_tag,
};
use kiln_client::{BlobSource, Document, Documents, Error, SourceError};
use kiln_oci::{Descriptor, Digest, ImageManifest, MediaType, Reference};

use crate::Transfer;
use crate::error::TransferError;

/// The most manifests, and the most layers of one, that are looked at.
const MOST_ENTRIES: usize = 1_000;
/// The largest payload of a signature, in bytes.
const MOST_SIGNATURE_BYTES: u64 = 64 << 10;
/// The largest signed statement, in bytes: lists of parts are long.
const MOST_STATEMENT_BYTES: u64 = 64 << 20;
/// How often a list under a tag is written until the own entry stays in it.
const MOST_WRITES: u32 = 5;

impl Transfer<'_> {
    /// Attaches `artifact` to its subject, in the repository of `reference`. Blocks.
    ///
    /// What is there already is not attached a second time. The subject stays what it is.
    ///
    /// # Errors
    /// [`TransferError::Client`] for what the registry says, [`TransferError::NoList`] where cosign's tag
    /// names something else. The same call sends what is missing.
    pub fn attach(&self, reference: &Reference, artifact: &Artifact) -> Result<(), TransferError> {
        let bytes = artifact.manifest.to_bytes();
        let document = Document::of(MediaType::OciManifest, bytes);
        let by_digest = at_digest(reference, document.digest);
        self.push_artifact(&by_digest, document, artifact)?;
        let subject = artifact.manifest.subject.as_ref().map(|it| it.digest);
        let tag = match (subject, artifact.manifest.artifact_type.as_deref()) {
            (Some(subject), Some(SIGNATURE_ARTIFACT_TYPE)) => signature_tag(subject),
            (Some(subject), Some(ENVELOPE_TYPE)) => attestation_tag(subject),
            (Some(_) | None, _) => return Ok(()),
        };
        let list = at_tag(reference, &tag);
        // Others may write the list at the same time, so that what was written is looked at again.
        for _ in 0..MOST_WRITES {
            let before = self.list(&list)?;
            let Some(after) = artifact.listed_after(before.as_ref()) else {
                return Ok(());
            };
            let document = Document::of(MediaType::OciManifest, after.to_bytes());
            self.push_artifact(&list, document, artifact)?;
        }
        Err(TransferError::Client(Error::ReferrersList {
            reference: Box::new(list),
            tag,
        }))
    }

    fn push_artifact(
        &self,
        reference: &Reference,
        root: Document,
        artifact: &Artifact,
    ) -> Result<(), TransferError> {
        let documents = Documents::single(root);
        let source = Blobs(&artifact.blobs);
        self.registry
            .push(reference, &documents, &source, &|_| {}, self.cancel)?;
        Ok(())
    }

    /// Finds the signatures of `digest`, by whomever; none is verified. Blocks.
    ///
    /// # Errors
    /// [`TransferError::Client`], [`TransferError::TooMuch`], [`TransferError::NoList`].
    pub fn signatures(
        &self,
        reference: &Reference,
        digest: Digest,
    ) -> Result<Vec<Signature>, TransferError> {
        let mut found = Vec::new();
        let tag = signature_tag(digest);
        for layer in self.layers(reference, digest, SIGNATURE_ARTIFACT_TYPE, &tag)? {
            let is_signature = layer.media_type.as_str() == SIGNATURE_LAYER_TYPE;
            let Some(base64) = layer.annotations.get(SIGNATURE_ANNOTATION) else {
                continue;
            };
            if !is_signature {
                continue;
            }
            let signature = Signature {
                payload: self.small_blob(reference, &layer, MOST_SIGNATURE_BYTES)?,
                base64: base64.clone(),
            };
            if !found.contains(&signature) {
                found.push(signature);
            }
        }
        Ok(found)
    }

    /// Finds the signed statements about `digest`, by whomever, as envelopes; none is verified. Blocks.
    ///
    /// # Errors
    /// [`TransferError::Client`], [`TransferError::TooMuch`], [`TransferError::NoList`].
    pub fn envelopes(
        &self,
        reference: &Reference,
        digest: Digest,
    ) -> Result<Vec<Vec<u8>>, TransferError> {
        let mut found = BTreeMap::new();
        let tag = attestation_tag(digest);
        for layer in self.layers(reference, digest, ENVELOPE_TYPE, &tag)? {
            if layer.media_type.as_str() == ENVELOPE_TYPE && !found.contains_key(&layer.digest) {
                let bytes = self.small_blob(reference, &layer, MOST_STATEMENT_BYTES)?;
                found.insert(layer.digest, bytes);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Lists the layers of all referrers of a type, then those that the tag names.
    fn layers(
        &self,
        reference: &Reference,
        digest: Digest,
        artifact_type: &str,
        tag: &str,
    ) -> Result<Vec<Descriptor>, TransferError> {
        let Self {
            registry, cancel, ..
        } = self;
        let referrers = registry.referrers(reference, digest, Some(artifact_type), cancel)?;
        bounded(reference, "referrers of one type", referrers.len())?;
        let mut layers = Vec::new();
        for entry in referrers {
            let referrer = at_digest(reference, entry.digest);
            layers.extend(self.list(&referrer)?.into_iter().flat_map(|it| it.layers));
        }
        let list = self.list(&at_tag(reference, tag))?;
        layers.extend(list.into_iter().flat_map(|list| list.layers));
        bounded(reference, "signatures or statements", layers.len())?;
        Ok(layers)
    }

    /// Fetches the manifest of an artifact; `None` if there is none.
    fn list(&self, reference: &Reference) -> Result<Option<ImageManifest>, TransferError> {
        let documents = match self.registry.fetch_documents(reference, None, self.cancel) {
            Err(Error::ManifestNotFound { .. } | Error::RepositoryNotFound { .. }) => {
                return Ok(None);
            }
            documents => documents?,
        };
        match ImageManifest::parse(&documents.root.bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) => Err(TransferError::NoList {
                reference: Box::new(reference.clone()),
                reason: error.to_string(),
            }),
        }
    }

    fn small_blob(
        &self,
        reference: &Reference,
        blob: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>, TransferError> {
        if blob.size_bytes > limit {
            return Err(TransferError::TooMuch {
                reference: Box::new(reference.clone()),
                what: format!(
                    "an attached `{}` of {} bytes",
                    blob.media_type, blob.size_bytes
                ),
                limit,
            });
        }
        Ok(self.registry.fetch_blob(reference, blob, self.cancel)?)
    }
}

pub(crate) fn bounded(
    reference: &Reference,
    what: &str,
    count: usize,
) -> Result<(), TransferError> {
    if count > MOST_ENTRIES {
        return Err(TransferError::TooMuch {
            reference: Box::new(reference.clone()),
            what: format!("{count} {what}"),
            limit: MOST_ENTRIES as u64,
        });
    }
    Ok(())
}

pub(crate) fn at_digest(reference: &Reference, digest: Digest) -> Reference {
    let (registry, repository) = (reference.registry(), reference.repository());
    Reference::new(registry, repository, None, Some(digest)).expect("its parts are of a reference")
}

pub(crate) fn at_tag(reference: &Reference, tag: &str) -> Reference {
    let (registry, repository) = (reference.registry(), reference.repository());
    Reference::new(registry, repository, Some(tag), None).expect("the tag is of hex digits")
}

/// Blobs that are at hand.
struct Blobs<'a>(&'a BTreeMap<Digest, Vec<u8>>);

impl BlobSource for Blobs<'_> {
    fn open(&self, blob: &Descriptor, from_byte: u64) -> Result<Box<dyn Read + '_>, SourceError> {
        let Some(bytes) = self.0.get(&blob.digest) else {
            return Err(format!("`{}` was in the registry and is gone", blob.digest).into());
        };
        let mut reader = Cursor::new(bytes);
        reader.set_position(from_byte);
        Ok(Box::new(reader))
    }
}
