//! A tar of the project as a base.
//!
//! It is made into a layer of kiln's own: what decides the layer is what is in the tar, not how and
//! when the tar was written.

use kiln_layer::{Decoder, EndMark, LowerStack, UnpackError, UnpackOptions, unpack};
use kiln_manifest::Spanned;
use kiln_manifest::value::ProjectPath;

use super::super::layers::{Made, commit_draft, open};
use super::unpack_settings;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::{Problem, chain};
use crate::workspace::Workspace;

/// Unpacks the tar at `path` and makes a layer of it.
pub(crate) fn make(
    workspace: &Workspace,
    task: &Task<'_>,
    path: &Spanned<ProjectPath>,
) -> Result<Made, Failure> {
    let file = workspace
        .project
        .open_file(path.value.as_str().as_bytes())?;
    let problem = |message: String| {
        let message = format!("cannot unpack `{}`: {message}", path.value);
        Problem::new(workspace, path.span, message)
    };
    let draft = workspace.store().layers().draft(&workspace.session)?;
    let folder = open(&draft.fs())?;
    let reader = Decoder::new(file).map_err(|error| problem(error.to_string()).environment())?;
    let settings = unpack_settings(workspace);
    let options = UnpackOptions {
        limits: settings.limits,
        ownership: settings.ownership,
        devices: settings.devices,
        end_mark: EndMark::Required,
        epoch: None,
        pool: None,
    };
    unpack(reader, std::os::fd::AsFd::as_fd(&folder), &options).map_err(|error| {
        let problem = problem(chain(&error));
        if let UnpackError::File(_) | UnpackError::LeftBehind { .. } = error {
            problem.environment()
        } else {
            problem.user()
        }
    })?;
    task.check_cancelled()?;
    let nothing = LowerStack::new(&[] as &[std::os::fd::OwnedFd])
        .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
    commit_draft(workspace, draft, &nothing, &[])
}
