//! A Debian root file system as a base.

use kiln_graph::BaseInputs;
use kiln_manifest::model::DebianBase;

use super::super::layers::Made;
use super::super::packages::PackagePlan;
use super::BaseMaterials;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::workspace::Workspace;

pub(crate) fn describe(
    _workspace: &Workspace,
    _task: &Task<'_>,
    _debian: &DebianBase,
) -> Result<(BaseInputs, BaseMaterials), Failure> {
    Err(Failure::new(FailureKind::Bug, "WIP".to_owned()))
}

pub(crate) fn make(
    _workspace: &Workspace,
    _task: &Task<'_>,
    _debian: &DebianBase,
    _plan: PackagePlan,
    _log: &mut Option<kiln_store::Name>,
) -> Result<Made, Failure> {
    Err(Failure::new(FailureKind::Bug, "WIP".to_owned()))
}
