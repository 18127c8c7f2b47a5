//! An image of a registry as a base: pinned by digest, pulled once.

use kiln_client::{Error as ClientError, Progress};
use kiln_image::{for_each_layer, unpack_layer};
use kiln_manifest::Spanned;
use kiln_oci::{Digest, Reference};

use super::super::layers::Made;
use super::{load_image, made, unpack_settings};
use crate::executor::{Failure, Task};
use crate::problem::{Problem, chain};
use crate::store_sink::StoreSink;
use crate::workspace::Workspace;

/// Returns the manifest that `reference` means: from the lock, else what the registry says now.
pub(crate) fn manifest(
    workspace: &Workspace,
    reference: &Spanned<Reference>,
) -> Result<Digest, Failure> {
    let (name, platform) = (reference.value.to_string(), workspace.platform_name());
    if let Some((_, manifest)) = workspace.lock.image(&name, &platform)? {
        return Ok(manifest);
    }
    let remote = &workspace.remote;
    let resolved = remote
        .registry
        .resolve(&reference.value, &workspace.inputs.platform, &remote.cancel)
        .map_err(|error| failure(workspace, reference, &error))?;
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
    let remote = &workspace.remote;
    let sink = StoreSink::new(workspace.store(), &workspace.session, &remote.cancel);
    let progress = |progress: Progress| {
        let what = progress.digest.to_string();
        task.progress(&what, progress.done_bytes, Some(progress.total_bytes));
    };
    let pinned = reference.value.clone().with_digest(manifest);
    remote
        .registry
        .pull(
            &pinned,
            &workspace.inputs.platform,
            &sink,
            &progress,
            &remote.cancel,
        )
        .map_err(|error| failure(workspace, reference, &error))?;
    let image = load_image(workspace, manifest)?;
    let settings = unpack_settings(workspace);
    for_each_layer(&image, |layer| {
        unpack_layer(&workspace.session, layer, &settings).map(drop)
    })
    .map_err(|error| Problem::new(workspace, reference.span, chain(&error)).environment())?;
    Ok(made(&image))
}

/// Says whose fault a failed pull is.
fn failure(workspace: &Workspace, at: &Spanned<Reference>, error: &ClientError) -> Failure {
    let problem = Problem::new(workspace, at.span, chain(error)).label("needed from here");
    match error {
        ClientError::Cancelled(_) => Failure::cancelled(),
        ClientError::Http { source, .. } if matches!(**source, kiln_http::Error::Cancelled(_)) => {
            Failure::cancelled()
        }
        ClientError::RepositoryNotFound { .. }
        | ClientError::ManifestNotFound { .. }
        | ClientError::Platform { .. }
        | ClientError::Unauthorised { .. }
        | ClientError::Denied { .. }
        | ClientError::Rejected { .. }
        | ClientError::TagDeletion { .. }
        | ClientError::NotAnImage { .. }
        | ClientError::Schema1 { .. }
        | ClientError::Mirror { .. }
        | ClientError::Credentials(_) => problem.user(),
        ClientError::BlobNotFound { .. }
        | ClientError::RateLimited { .. }
        | ClientError::Document { .. }
        | ClientError::TooDeep { .. }
        | ClientError::WrongManifest { .. }
        | ClientError::Sink { .. }
        | ClientError::Source { .. }
        | ClientError::Mangled { .. }
        | ClientError::Http { .. } => problem.environment(),
    }
}
