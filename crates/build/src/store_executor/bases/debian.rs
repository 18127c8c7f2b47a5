//! A Debian root file system as a base: made from packages, without any tool of the host.

use std::os::unix::fs::PermissionsExt;

use kiln_debian::{bootstrap, scrub};
use kiln_graph::BaseInputs;
use kiln_layer::LowerStack;
use kiln_manifest::model::DebianBase;
use kiln_store::Scratch;

use super::super::layers::{Made, commit_draft};
use super::super::outside::{Doors, PackageTools};
use super::super::packages::{PackagePlan, choose, install_failure};
use super::super::process;
use super::BaseMaterials;
use crate::emulation;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::chain;
use crate::workspace::Workspace;

/// Chooses the packages of the base.
pub(crate) fn describe(
    workspace: &Workspace,
    task: &Task<'_>,
    base: &DebianBase,
) -> Result<(BaseInputs, BaseMaterials), Failure> {
    let words = |list: &[kiln_manifest::Spanned<String>]| -> Vec<String> {
        list.iter().map(|word| word.value.clone()).collect()
    };
    let packages = words(&base.packages);
    let plan = choose(workspace, task, base, &packages, None)?;
    let inputs = BaseInputs::Debian {
        suite: base.suite.value.clone(),
        packages,
        components: words(&base.components),
        pins: plan.pins(),
    };
    Ok((inputs, BaseMaterials::Debian(Box::new(plan))))
}

/// Makes the root file system.
pub(crate) fn make(
    workspace: &Workspace,
    task: &Task<'_>,
    plan: &PackagePlan,
    log: &mut Option<kiln_store::Name>,
) -> Result<Made, Failure> {
    let environment =
        |error: &dyn std::error::Error| Failure::new(FailureKind::Environment, chain(error));
    emulation::check(workspace, task)?;
    let draft = workspace.store().layers().draft(&workspace.session)?;
    let scratch = Scratch::new(&workspace.session, "debian")?;
    let doors = Doors::open(workspace, task, log)?;
    let root = draft.fs();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755))
        .map_err(|error| environment(&error))?;
    let folder = process::folder(&scratch, "install")?;
    let options = plan.options(workspace, &folder, &doors);
    let lowers = process::lowers(&[], &scratch)?;
    let mut tools = PackageTools::new(workspace, lowers, root.clone(), &scratch);
    let done = plan.with_files(workspace, &doors, |files| {
        bootstrap(files, &root, &options, &mut tools)
    })?;
    done.map_err(|error| install_failure(workspace, &error))?;
    scrub(&root, workspace.inputs.epoch_seconds).map_err(|error| environment(&error))?;
    let nothing =
        LowerStack::new(&[] as &[std::os::fd::OwnedFd]).map_err(|error| environment(&error))?;
    commit_draft(workspace, draft, &nothing, &[])
}
