//! From a draft folder to a layer of the store.

use std::path::Path;

use kiln_layer::{CommitOptions, Committed, LowerStack, Ownership, TreePath, commit};
use kiln_oci::{DiffId, Digest};
use kiln_sandbox::Privileges;
use kiln_store::{LayerDraft, LayerRecord, Origin, Pool};

use crate::event::FailureKind;
use crate::executor::Failure;
use crate::problem::chain;
use crate::workspace::Workspace;

/// What a node made.
#[derive(Debug)]
pub(crate) struct Made {
    /// Its layers, lowest first; all are in the store.
    pub(crate) layers: Vec<DiffId>,
    /// Blobs that go with them; the first is the manifest of a base that is an image.
    pub(crate) blobs: Vec<Digest>,
}

impl Made {
    /// One layer and nothing else.
    pub(crate) fn layer(layer: DiffId) -> Self {
        Self {
            layers: vec![layer],
            blobs: Vec::new(),
        }
    }
}

/// Returns whether this user can give files to others.
pub(crate) fn ownership(workspace: &Workspace) -> Ownership {
    match workspace.privileges() {
        Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
        Privileges::Single { .. } => Ownership::Flatten,
    }
}

/// Makes a layer of what changed in the draft's folder over `below`, and puts it into the store.
///
/// `stubs` were made only to mount on.
pub(crate) fn commit_draft(
    workspace: &Workspace,
    draft: LayerDraft,
    below: &LowerStack,
    stubs: &[TreePath],
) -> Result<Made, Failure> {
    let pool = Pool::new(&workspace.session);
    let options = CommitOptions {
        epoch: workspace.inputs.epoch_seconds,
        stubs,
        ownership: ownership(workspace),
        pool: Some(&pool),
        sink: None,
    };
    let folder = open(&draft.fs())?;
    let committed = commit(std::os::fd::AsFd::as_fd(&folder), below, options).map_err(failure)?;
    publish(draft, &committed)
}

/// Puts a finished layer into the store.
pub(crate) fn publish(draft: LayerDraft, committed: &Committed) -> Result<Made, Failure> {
    let record = LayerRecord {
        diff_id: committed.diff_id,
        tar_size_bytes: committed.tar_size_bytes,
        origin: Origin::Built,
    };
    draft.publish(&record, &committed.index)?;
    Ok(Made::layer(committed.diff_id))
}

/// Opens a folder of the store for reading.
pub(crate) fn open(folder: &Path) -> Result<std::os::fd::OwnedFd, Failure> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty()).map_err(|error| {
        let message = format!("cannot open `{}`: {error}", folder.display());
        Failure::new(FailureKind::Environment, message)
    })
}

/// A step whose result cannot be a layer. Most often the disk is full.
pub(crate) fn failure(error: kiln_layer::CommitError) -> Failure {
    use kiln_layer::CommitError;
    let kind = match &error {
        CommitError::Path(_) | CommitError::WhiteoutName(_) | CommitError::AttributeName { .. } => {
            FailureKind::User
        }
        CommitError::Changing(_) | CommitError::Sink(_) | CommitError::File(_) => {
            FailureKind::Environment
        }
    };
    Failure::new(kind, chain(&error))
}
