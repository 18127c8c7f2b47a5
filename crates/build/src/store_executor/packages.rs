//! `packages`: what the lock pins, installed over what is there.

use kiln_graph::PackagePin;
use kiln_oci::DiffId;

use super::layers::Made;
use super::resolve::Materials;
use super::stack::Stack;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::workspace::Workspace;

/// What is to be installed.
#[derive(Debug)]
pub(crate) struct PackagePlan;

impl PackagePlan {
    pub(crate) fn pins(&self) -> Vec<PackagePin> {
        Vec::new()
    }
}

pub(crate) fn plan(
    _workspace: &Workspace,
    _task: &Task<'_>,
    _layers: &[DiffId],
    _names: &[String],
) -> Result<PackagePlan, Failure> {
    Err(Failure::new(FailureKind::Bug, "WIP".to_owned()))
}

pub(crate) fn make(
    _workspace: &Workspace,
    _task: &Task<'_>,
    _stack: &Stack,
    _materials: Materials,
    _log: &mut Option<kiln_store::Name>,
) -> Result<Made, Failure> {
    Err(Failure::new(FailureKind::Bug, "WIP".to_owned()))
}
