//! An image of a registry as a base: pinned by digest, pulled once.

use kiln_client::{Error as ClientError, Progress};
use kiln_manifest::Spanned;
use kiln_oci::{Digest, Reference};
use kiln_transfer::{Transfer, TransferError};

use super::super::layers::Made;
use super::{made, unpack_settings};
use crate::executor::{Failure, Task};
use crate::problem::{Problem, chain};
use crate::workspace::Workspace;

/// Returns the manifest that `reference` means: from the lock, else what the registry says now.
///
/// What is not pinned yet for this platform is taken from the index that is pinned for others, as long as
/// the registry has it: platforms of one build are of one version.
pub(crate) fn manifest(
    workspace: &Workspace,
    task: &Task<'_>,
    reference: &Spanned<Reference>,
) -> Result<Digest, Failure> {
    let (name, platform) = (reference.value.to_string(), task.platform().to_string());
    if let Some((_, manifest)) = workspace.lock.image(&name, &platform)? {
        return Ok(manifest);
    }
    let remote = &workspace.remote;
    let resolve = |reference: &Reference| {
        let registry = &remote.registry;
        registry.resolve(reference, task.platform(), &remote.cancel)
    };
    let pinned = workspace.lock.pinned_index(&name, &platform);
    let pinned = pinned.map(|digest| reference.value.clone().with_digest(digest));
    let resolved = match pinned.as_ref().map(resolve) {
        Some(Ok(resolved)) => Ok(resolved),
        // It may be gone, or may have been the manifest of the one platform there was.
        Some(Err(error)) if !error.is_cancelled() => resolve(&reference.value),
        Some(Err(error)) => Err(error),
        None => resolve(&reference.value),
    };
    let resolved = resolved.map_err(|error| failure(workspace, reference, &error))?;
    let digest = resolved.index.unwrap_or(resolved.manifest);
    workspace
        .lock
        .pin_image(&name, &platform, digest, resolved.manifest);
    Ok(resolved.manifest)
}

/// Pulls the image with `manifest` and unpacks what of it is not in the store.
pub(crate) fn pull(
    workspace: &Workspace,
    task: &Task<'_>,
    reference: &Spanned<Reference>,
    manifest: Digest,
) -> Result<Made, Failure> {
    let progress = |progress: Progress| {
        let what = progress.digest.to_string();
        task.progress(&what, progress.done_bytes, Some(progress.total_bytes));
    };
    let transfer = Transfer {
        session: &workspace.session,
        registry: &workspace.remote.registry,
        cancel: &workspace.remote.cancel,
    };
    let pinned = reference.value.clone().with_digest(manifest);
    let image = transfer
        .pull(
            &pinned,
            task.platform(),
            &unpack_settings(workspace),
            &progress,
        )
        .map_err(|error| match error {
            TransferError::Client(error) => failure(workspace, reference, &error),
            TransferError::Image(_)
            | TransferError::Store(_)
            | TransferError::TooMuch { .. }
            | TransferError::NoList { .. } => {
                Problem::new(workspace, reference.span, chain(&error)).environment()
            }
        })?;
    Ok(made(&image))
}

/// Says whose fault a failed pull is.
fn failure(workspace: &Workspace, at: &Spanned<Reference>, error: &ClientError) -> Failure {
    let problem = Problem::new(workspace, at.span, chain(error)).label("needed from here");
    if error.is_cancelled() {
        Failure::cancelled()
    } else if error.is_askers() {
        problem.user()
    } else {
        problem.environment()
    }
}
