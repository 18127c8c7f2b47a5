//! Who writes to which upload, within this process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};

use super::UploadId;

#[derive(Debug)]
struct Session<T> {
    state: Arc<tokio::sync::Mutex<Option<T>>>,
    /// Counts the requests; the one that is not the last has to stop.
    turns: watch::Sender<u64>,
}

/// Uploads that requests are about, and what is kept of each between requests.
#[derive(Debug)]
pub(super) struct Sessions<T>(Mutex<BTreeMap<UploadId, Arc<Session<T>>>>);

impl<T> Default for Sessions<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Sessions<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<UploadId, Arc<Session<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps something of an upload that has just begun.
    pub(super) fn insert(&self, id: UploadId, state: T) {
        self.lock().insert(id, Arc::new(Session::new(Some(state))));
    }

    /// Waits for the turn; whoever has it is told to stop.
    pub(super) async fn enter(
        &self,
        id: &UploadId,
    ) -> (OwnedMutexGuard<Option<T>>, watch::Receiver<u64>) {
        let session = Arc::clone(
            self.lock()
                .entry(id.clone())
                .or_insert_with(|| Arc::new(Session::new(None))),
        );
        session.turns.send_modify(|turns| *turns += 1);
        let turns = session.turns.subscribe();
        let state = Arc::clone(&session.state).lock_owned().await;
        (state, turns)
    }

    /// Forgets an upload.
    pub(super) fn forget(&self, id: &UploadId) {
        self.lock().remove(id);
    }

    /// Whether somebody is writing, however slowly.
    pub(super) fn is_busy(&self, id: &UploadId) -> bool {
        let session = self.lock().get(id).cloned();
        session.is_some_and(|session| session.state.try_lock().is_err())
    }

    /// Uploads that requests have been about.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }
}

impl<T> Session<T> {
    fn new(state: Option<T>) -> Self {
        Self {
            state: Arc::new(tokio::sync::Mutex::new(state)),
            turns: watch::Sender::new(0),
        }
    }
}
