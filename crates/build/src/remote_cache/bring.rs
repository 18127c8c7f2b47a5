//! Layers from caches into the store, when something needs them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use kiln_client::Progress;
use kiln_image::ImageLayer;
use kiln_oci::DiffId;
use kiln_store::{Pin, StepKey};

use super::{Hit, Reach, RemoteCache, entry, is_of_registry, name};
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::chain;
use crate::store_executor::unpack_settings;

/// How many layers are brought at once.
const JOBS: usize = 6;

/// Who hears how it goes.
pub(crate) trait Listener: Sync {
    /// `step` is the one whose layer it is.
    fn progress(&self, step: &kiln_graph::NodeName, progress: Progress);
    /// Something is wrong with the result of `step` in a cache.
    fn warn(&self, step: &kiln_graph::NodeName, message: String);
}

impl Listener for Task<'_> {
    fn progress(&self, _step: &kiln_graph::NodeName, progress: Progress) {
        let what = progress.digest.to_string();
        Task::progress(self, &what, progress.done_bytes, Some(progress.total_bytes));
    }

    fn warn(&self, step: &kiln_graph::NodeName, message: String) {
        Task::warn(self, format!("the result of {step} is not used: {message}"));
    }
}

impl RemoteCache<'_> {
    /// Returns those of `layers` that are not in the store; the others are pinned. None without a cache.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) fn missing(&self, layers: &[DiffId]) -> Result<Vec<DiffId>, Failure> {
        if self.sources.is_empty() {
            return Ok(Vec::new());
        }
        let pins: Vec<Pin> = layers.iter().copied().map(Pin::Layer).collect();
        let missing = self.workspace.session.pin(&pins)?;
        let layers = missing.into_iter().filter_map(|pin| match pin {
            Pin::Layer(layer) => Some(layer),
            Pin::Blob(_) | Pin::Download(_) | Pin::Source(_) | Pin::Stack(_) | Pin::Step(_) => None,
        });
        Ok(layers.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Brings what of `layers` is not in the store, several at once. Blocks.
    ///
    /// # Errors
    /// [`Failure::lost`] if one cannot be had: the hits that promised it are denied then; that the build
    /// was cancelled, and what the store says.
    pub(crate) fn bring(&self, layers: &[DiffId], listener: &dyn Listener) -> Result<(), Failure> {
        let missing = self.missing(layers)?;
        if self.reach == Reach::LookOnly && !missing.is_empty() {
            let message = "that takes layers which only a cache has";
            return Err(Failure::new(FailureKind::Environment, message.to_owned()));
        }
        let queue = std::sync::Mutex::new(missing.iter());
        let failed = std::sync::Mutex::new(None);
        let work = || {
            loop {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(layer) = next else { return };
                if let Err(failure) = self.bring_one(*layer, listener) {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.get_or_insert(failure);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..JOBS.min(missing.len()) {
                scope.spawn(work);
            }
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    fn bring_one(&self, layer: DiffId, listener: &dyn Listener) -> Result<(), Failure> {
        let turn = Arc::clone(
            self.fetching
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(layer)
                .or_default(),
        );
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let promised = self.promised(layer);
        // Others may have found out that a hit is worth nothing.
        if promised.is_empty() && !self.state().is_lost {
            let message = format!("the layer `{layer}` is neither in the store nor in a cache");
            return Err(Failure::new(FailureKind::Environment, message));
        }
        let mut reasons = Vec::new();
        for (_, hit) in &promised {
            match self.fetch(layer, hit, listener)? {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push((hit, reason)),
            }
        }
        for (key, hit) in &promised {
            let mut state = self.state();
            if state.hits.remove(key).is_some() {
                state.denied.insert((hit.source, *key));
            }
            state.is_lost = true;
        }
        if let Some((hit, Some(reason))) = reasons.first() {
            listener.warn(&hit.step, reason.clone());
        }
        Err(Failure::lost())
    }

    /// Returns the hits that have `layer`.
    fn promised(&self, layer: DiffId) -> Vec<(StepKey, Hit)> {
        let state = self.state();
        let hits = state.hits.iter();
        hits.filter(|(_, hit)| {
            let layers = &hit.entry.record.layers;
            layers.iter().any(|it| it.diff_id == layer)
        })
        .map(|(key, hit)| (*key, hit.clone()))
        .collect()
    }

    /// Fetches a layer that `hit` promised; the inner error says why it cannot be had, if that was not
    /// told already.
    fn fetch(
        &self,
        layer: DiffId,
        hit: &Hit,
        listener: &dyn Listener,
    ) -> Result<Result<(), Option<String>>, Failure> {
        let source = &self.sources[hit.source];
        if source.is_out.load(Ordering::Relaxed) {
            return Ok(Err(None));
        }
        let Some(wanted) = hit.entry.layers().find(|it| it.diff_id == layer) else {
            return Ok(Err(None));
        };
        let key = &hit.entry.record.key;
        let reference = entry::reference(&source.repository, key, self.ownership());
        let progress = |progress| listener.progress(&hit.step, progress);
        let settings = unpack_settings(self.workspace);
        let pulled = self
            .transfer()
            .pull_layer(&reference, &wanted, &settings, &progress);
        match pulled {
            Ok(_) => {
                self.remember(&wanted)?;
                Ok(Ok(()))
            }
            Err(error) if error.is_cancelled() || self.workspace.cancel.is_cancelled() => {
                Err(Failure::cancelled())
            }
            Err(error) if is_of_registry(&error) => {
                let is_news = !source.is_out.swap(true, Ordering::Relaxed);
                let cache = name(&source.repository);
                let reason = || format!("the cache `{cache}` is out: {}", chain(&error));
                Ok(Err(is_news.then(reason)))
            }
            Err(error) => Ok(Err(Some(chain(&error)))),
        }
    }

    /// Notes that the blob is what the layer becomes on its way out.
    fn remember(&self, layer: &ImageLayer) -> Result<(), Failure> {
        let Some(compression) = layer.compression else {
            return Ok(());
        };
        let layers = self.workspace.store().layers();
        layers.set_exported(
            &self.workspace.session,
            &layer.diff_id,
            compression,
            &layer.descriptor,
        )?;
        Ok(())
    }
}
