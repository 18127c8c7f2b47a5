//! `kiln pause` and `kiln unpause`: containers that stand still.

use kiln_runtime::Status;
use kiln_sandbox::{Group, SandboxError};

use crate::containers::{each, find, not_running};
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::monitors;
use crate::printer::Printer;
use crate::settings::Settings;

/// Make containers stand still, with all that they have in memory
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln pause web
  kiln unpause web")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Let containers that stand still go on
#[derive(clap::Args, Debug)]
pub(crate) struct UnpauseArgs {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

/// Makes them stand still.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    set(&args.containers, Status::Running, settings, printer)
}

/// Lets them go on.
pub(crate) fn unpause(args: &UnpauseArgs, settings: &Settings, printer: &mut Printer) -> Outcome {
    set(&args.containers, Status::Paused, settings, printer)
}

/// Changes those that are in state `from`.
fn set(names: &[String], from: Status, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    each(names, printer, |name, _| {
        let container = find(&store, name)?;
        if container.status != from {
            if !matches!(container.status, Status::Running | Status::Paused) {
                return Err(not_running(&container));
            }
            let what = container.status.as_str();
            let message = format!("container {name} is {what} already");
            return Err(Failure::message(Class::User, message, None));
        }
        let group = Group::new(container.state.groups.clone());
        let (done, action) = if from == Status::Running {
            (group.freeze(), "pause")
        } else {
            (group.thaw(), "unpause")
        };
        done.map_err(SandboxError::from)?;
        let shown = container.display_name();
        monitors::tell(&store, &container.config, &shown, action, &[])
    })
}
