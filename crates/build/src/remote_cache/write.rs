//! What a build made, into caches.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use kiln_client::Error as ClientError;
use kiln_graph::{BuildGraph, NodeName, StepId};
use kiln_image::{Image, ImageLayer};
use kiln_oci::{Compression, Descriptor, MediaKind, MediaType, Reference};
use kiln_store::{StackKey, StepKey};
use kiln_transfer::{Delivery, StoreSource, TransferError};

use super::entry::{self, EMPTY_CONFIG, Entry, EntryLayer, EntryRecord};
use super::{RemoteCache, is_of_registry, name};
use crate::executor::NodeOutput;
use crate::problem::chain;
use crate::store_executor::ownership;
use crate::workspace::Workspace;

/// How layers are compressed: as a push does where nothing else is asked for, so that the blobs are the
/// same.
const COMPRESSION: Compression = Compression::Gzip;

/// A finished node to be written.
#[derive(Clone, Debug)]
pub(crate) struct Finished {
    pub(crate) name: NodeName,
    pub(crate) key: StepKey,
    pub(crate) output: NodeOutput,
    /// The question about conflicts in what it saw, if there was one.
    pub(crate) checked: Option<StackKey>,
}

/// Writes to one cache.
pub(crate) struct Writer<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) cache: &'a RemoteCache<'a>,
    pub(crate) repository: &'a Reference,
    pub(crate) jobs: NonZeroUsize,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Steps that the cache has now and did not have before.
    pub(crate) steps: usize,
    /// Bytes of blobs that were sent.
    pub(crate) sent_bytes: u64,
    /// Steps that are missing in it, and why the first one is.
    pub(crate) failed: usize,
    pub(crate) reason: Option<String>,
}

/// How one step came to be in the cache.
enum Outcome {
    /// It was there, or cannot be written.
    Left,
    Sent(u64),
}

/// Gathers what `graph` has results of.
pub(crate) fn finished(
    graph: &BuildGraph,
    keys: &BTreeMap<StepId, StepKey>,
    outputs: impl Fn(StepId) -> Option<NodeOutput>,
    checked: impl Fn(StepId) -> Option<StackKey>,
) -> Vec<Finished> {
    let mut all = BTreeMap::new();
    for (id, node) in graph.nodes().iter() {
        if let (Some(key), Some(output)) = (keys.get(&id), outputs(id)) {
            all.entry(*key).or_insert_with(|| Finished {
                name: node.name.clone(),
                key: *key,
                output,
                checked: checked(id),
            });
        }
    }
    all.into_values().collect()
}

impl Writer<'_> {
    /// Writes those of `steps` that the cache lacks, several at once. Blocks.
    pub(crate) fn write(&self, steps: &[Finished]) -> Written {
        let queue = Mutex::new(steps.iter());
        let written = Mutex::new(Written::default());
        let source = StoreSource::new(&self.workspace.session, self.repository);
        let work = || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(step) = next else { return };
                let result = self.write_one(step, &source);
                let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
                match result {
                    Ok(Outcome::Left) => {}
                    Ok(Outcome::Sent(bytes)) => {
                        written.steps += 1;
                        written.sent_bytes += bytes;
                    }
                    Err(error) => {
                        written.failed += 1;
                        let is_out = is_of_registry(&error) || error.is_cancelled();
                        let reason = chain(&error);
                        written
                            .reason
                            .get_or_insert_with(|| format!("{}: {reason}", step.name));
                        if is_out {
                            // The others would end no better.
                            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                            written.failed += queue.by_ref().count();
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.jobs.get().min(steps.len()) {
                scope.spawn(work);
            }
            work();
        });
        written.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_one(
        &self,
        step: &Finished,
        source: &StoreSource<'_>,
    ) -> Result<Outcome, TransferError> {
        let is_from_here = self.cache.hit(&step.key).is_some_and(|hit| {
            let from = &self.cache.sources[hit.source].repository;
            name(from) == name(self.repository)
        });
        if is_from_here {
            return Ok(Outcome::Left);
        }
        let remote = &self.workspace.remote;
        let reference = entry::reference(self.repository, &step.key, ownership(self.workspace));
        let is_bad = self.cache.is_denied(self.repository, &step.key);
        if !is_bad
            && self
                .cache
                .registry
                .has_manifest(&reference, &remote.cancel)?
        {
            return Ok(Outcome::Left);
        }
        match self.send(step, &reference, source) {
            // An older kiln compressed otherwise, and its digests were remembered.
            Err(_) if source.forget_others()? => self.send(step, &reference, source),
            outcome => outcome,
        }
    }

    /// Sends the entry of a step with what it names.
    fn send(
        &self,
        step: &Finished,
        reference: &Reference,
        source: &StoreSource<'_>,
    ) -> Result<Outcome, TransferError> {
        let remote = &self.workspace.remote;
        let Some((entry, sent_bytes)) = self.entry(step, reference, source)? else {
            return Ok(Outcome::Left);
        };
        let manifest = entry.manifest();
        let push = || {
            self.cache
                .registry
                .push_artifact(reference, &manifest, source, &remote.cancel)
        };
        let pushed = match push() {
            // Some registries stumble over another writer who sends the same at the same time.
            Err(ClientError::Rejected { .. }) => push()?,
            pushed => pushed?,
        };
        for blob in &entry.blobs {
            source.arrived(&blob.digest)?;
        }
        Ok(Outcome::Sent(sent_bytes + pushed.sent_bytes))
    }

    /// Makes the entry of a step whose layers are here, and delivers their blobs; returns it with how many
    /// bytes were sent. `None` for one whose layers are not here, or may not be handed on.
    fn entry(
        &self,
        step: &Finished,
        reference: &Reference,
        source: &StoreSource<'_>,
    ) -> Result<Option<(Entry, u64)>, TransferError> {
        let session = &self.workspace.session;
        let store = session.store();
        let Some(record) = store.steps().get(session, &step.key)? else {
            return Ok(None);
        };
        let image = match record.blobs.first() {
            Some(manifest) => Some(self.base(*manifest)?),
            None => None,
        };
        let mut blobs = Vec::new();
        let mut layers = Vec::new();
        let mut sent_bytes = 0;
        for (number, diff_id) in step.output.layers.iter().enumerate() {
            let Some(of_store) = store.layers().get(session, diff_id)? else {
                return Ok(None);
            };
            let plain = MediaType::OciLayer(Compression::None);
            let descriptor = match &image {
                Some(image) => image.manifest.layers[number].clone(),
                None => Descriptor::new(plain, diff_id.0, of_store.tar_size_bytes),
            };
            if is_foreign(&descriptor) {
                return Ok(None);
            }
            let layer = ImageLayer {
                compression: entry::compression(&descriptor),
                descriptor,
                diff_id: *diff_id,
            };
            let delivery = Delivery {
                reference,
                compression: COMPRESSION,
                source,
                // Without an entry in the cache there is no reason to think so.
                likely: &BTreeSet::new(),
                compressing: &|_| {},
            };
            let delivered = self.cache.transfer().deliver(&layer, delivery)?;
            blobs.push(as_oci(delivered.blob));
            sent_bytes += delivered.sent_bytes;
            layers.push(EntryLayer {
                diff_id: *diff_id,
                tar_size_bytes: of_store.tar_size_bytes,
            });
        }
        store
            .blobs()
            .put_document(session, MediaType::OciEmpty, EMPTY_CONFIG)?;
        let documents = image.map(|image| {
            let plain =
                |it: &Descriptor| Descriptor::new(it.media_type.clone(), it.digest, it.size_bytes);
            vec![plain(&image.descriptor), plain(&image.manifest.config)]
        });
        let entry = Entry {
            record: EntryRecord {
                key: step.key,
                step: step.name.to_string(),
                layer_format: self.workspace.inputs.layer_format,
                layers,
                checked: step.checked,
            },
            blobs,
            documents: documents.unwrap_or_default(),
        };
        Ok(Some((entry, sent_bytes)))
    }

    fn base(&self, manifest: kiln_oci::Digest) -> Result<Image, TransferError> {
        let store = self.workspace.store();
        let size_bytes = store.blobs().size_bytes(&manifest)?.unwrap_or_default();
        let descriptor = Descriptor::new(MediaType::OciManifest, manifest, size_bytes);
        let platform = &self.workspace.platform;
        let mut image = Image::load(store, &descriptor, platform)?;
        if let Some(media_type) = image.manifest.media_type.clone() {
            image.descriptor.media_type = media_type;
        }
        Ok(image)
    }
}

fn is_foreign(layer: &Descriptor) -> bool {
    matches!(
        layer.media_type,
        MediaType::OciForeignLayer(_) | MediaType::DockerForeignLayer(_)
    )
}

/// Names the layer the OCI way; the bytes are the same.
fn as_oci(layer: Descriptor) -> Descriptor {
    let media_type = match layer.media_type.kind() {
        MediaKind::Layer(compression) => MediaType::OciLayer(compression),
        MediaKind::Manifest | MediaKind::Index | MediaKind::Config | MediaKind::Other => {
            layer.media_type
        }
    };
    Descriptor::new(media_type, layer.digest, layer.size_bytes)
}
