//! `kiln shell`: look around in an image, a step or a service.

use std::process::ExitCode;

use crate::container::ContainerArgs;
use crate::errors::Outcome;
use crate::launch::{Life, Pulling, Ready};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::build::BuildArgs;

/// The best shell there is.
const BEST_SHELL: &str = "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi";

/// Open a shell in an image, a step or a service
///
/// It is built first. What is changed in there is gone when the shell ends,
/// except in volumes. In a step (image.step) one sees what the step made and
/// what it needs. For a step that fails, see kiln build --on-failure shell.
#[derive(clap::Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  kiln shell                  in what `default` in [project] names
  kiln shell app.compile      after that step
  kiln shell -u root app
  echo 'ls /' | kiln shell app"
)]
pub(crate) struct Args {
    /// An image, step (image.step) or service of the manifest, or an image of the store
    target: Option<String>,

    /// Start this program instead of a shell
    #[arg(long, value_name = "PROGRAM")]
    shell: Option<String>,

    #[command(flatten)]
    container: ContainerArgs,

    #[command(flatten)]
    how: BuildArgs,
}

/// Opens it, and returns the shell's exit code.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let mut overrides = args.container.overrides(&[], settings)?;
    overrides.entrypoint = Some(match &args.shell {
        Some(program) => vec![program.clone()],
        None => ["/bin/sh", "-c", BEST_SHELL].map(String::from).to_vec(),
    });
    let target = args.target.as_deref();
    let reach = args.container.reach();
    let ready = Ready::make(
        target,
        Pulling::Missing,
        reach,
        &args.how,
        settings,
        printer,
    )?;
    let wants_terminal = args.container.wants_terminal();
    ready.foreground(&overrides, Life::passing(), wants_terminal, None, printer)
}
