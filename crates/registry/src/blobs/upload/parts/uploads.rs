//! All uploads to an object store: begun, gone on with, given up.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::memory::Memory;
use super::super::sessions::Sessions;
use super::super::state::State;
use super::super::{UploadError, UploadId};
use super::Turn;
use crate::blobs::bucket::{Bucket, data};
use crate::digest::Algorithm;
use crate::index::{Claim, IndexError, Seconds};
use crate::registry::Registry;

/// All uploads.
#[derive(Debug, Default)]
pub(in crate::blobs::upload) struct Uploads {
    sessions: Arc<Sessions<()>>,
    memory: Memory,
}

/// Makes the row of an upload that begins.
pub(in crate::blobs::upload) async fn begin(
    registry: &Registry,
    id: &UploadId,
    algorithm: Algorithm,
) -> Result<(), UploadError> {
    let state = State::new(algorithm).text();
    Ok(registry
        .index
        .new_upload(id.as_str(), state, registry.now())
        .await?)
}

impl Uploads {
    /// Begins one that needs no row as long as all of it fits into memory.
    pub(in crate::blobs::upload) async fn begin_at_once(
        &self,
        registry: &Arc<Registry>,
        id: UploadId,
        algorithm: Algorithm,
    ) -> Turn {
        let state = State::new(algorithm);
        self.turn(registry, id, state, None).await
    }

    /// Waits for the turn to write; `None` if there is no such upload.
    pub(in crate::blobs::upload) async fn take(
        &self,
        registry: &Arc<Registry>,
        id: &UploadId,
    ) -> Result<Option<Turn>, UploadError> {
        // Whoever writes here is told to stop, and then the row says how far that was.
        let mut turn = self
            .turn(registry, id.clone(), State::new(Algorithm::Sha256), None)
            .await;
        let Some(row) = registry.index.upload(id.as_str()).await? else {
            self.forget(id);
            return Ok(None);
        };
        let state = parsed(&row.state)?;
        if state.dead {
            self.forget(id);
            return Ok(None);
        }
        turn.version = Some(row.version);
        turn.hasher = state.hasher();
        turn.before = state.clone();
        turn.state = state;
        Ok(Some(turn))
    }

    async fn turn(
        &self,
        registry: &Arc<Registry>,
        id: UploadId,
        state: State,
        version: Option<i64>,
    ) -> Turn {
        let (guard, turns) = self.sessions.enter(&id).await;
        Turn {
            id,
            turns,
            _guard: guard,
            registry: Arc::clone(registry),
            memory: self.memory.clone(),
            before: state.clone(),
            hasher: state.hasher(),
            state,
            version,
            loose: None,
            pending: VecDeque::new(),
            number: None,
            stale: Vec::new(),
            whole: None,
        }
    }

    /// Forgets one that is a blob now, or nothing.
    pub(in crate::blobs::upload) fn forget(&self, id: &UploadId) {
        self.sessions.forget(id);
    }

    /// Uploads that requests have been about since the start.
    pub(in crate::blobs::upload) fn count(&self) -> usize {
        self.sessions.count()
    }

    /// Removes uploads that nothing happened to since a time; returns how many and their bytes.
    pub(in crate::blobs::upload) async fn expire(
        &self,
        registry: &Registry,
        bucket: &Bucket,
        before: Seconds,
    ) -> Result<(u64, u64), UploadError> {
        let (mut count, mut bytes) = (0, 0);
        loop {
            let before_page = count;
            for (text, row) in registry.index.stale_uploads(before).await? {
                let id = UploadId(text.as_str().into());
                if self.sessions.is_busy(&id) {
                    continue;
                }
                let mut state = parsed(&row.state)?;
                let claim = Claim {
                    id: text,
                    version: row.version,
                };
                state.dead = true;
                if remove(registry, bucket, claim, &state, before).await? {
                    self.forget(&id);
                    count += 1;
                    bytes += state.bytes();
                }
            }
            if count == before_page {
                return Ok((count, bytes));
            }
        }
    }
}

/// Ends an upload for good; `false` if somebody goes on with it.
pub(super) async fn remove(
    registry: &Registry,
    bucket: &Bucket,
    claim: Claim,
    dead: &State,
    now: Seconds,
) -> Result<bool, UploadError> {
    // First nobody can make a blob of it, then its bytes go: in between it is found dead, and removed the next time.
    if !registry
        .index
        .advance_upload(&claim, dead.text(), now)
        .await?
    {
        return Ok(false);
    }
    if let Some(assembly) = &dead.assembly {
        let object = data(&assembly.name);
        bucket
            .objects
            .abort_parts(&object, &assembly.upload)
            .await?;
        bucket.objects.delete(&object).await?;
    }
    if let Some(tail) = &dead.tail {
        bucket.objects.delete(&data(&tail.name)).await?;
    }
    let claim = Claim {
        version: claim.version + 1,
        ..claim
    };
    registry.index.drop_upload(&claim).await?;
    Ok(true)
}

fn parsed(text: &str) -> Result<State, IndexError> {
    serde_json::from_str(text).map_err(|error| IndexError::Row(format!("an upload: {error}")))
}
