//! `kiln run`: builds what changed and starts a container.

use std::process::ExitCode;

use crate::container::ContainerArgs;
use crate::errors::{Class, Failure, Outcome};
use crate::launch::{Pulling, Ready};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::build::BuildArgs;

/// Build what changed and run a container in the foreground
///
/// The exit code is that of the container; 125 to 127 are kiln's own, as with
/// docker. The container's writable layer is gone when it ends, volumes stay.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln run                                   what `default` in [project] names
  kiln run app ls -l /srv                    another command in the image
  kiln run --network none --rm app true      as docker has it
  kiln run -v ./data:/data:ro -e A=1 app     one-off changes
  kiln run localhost/notes/app               an image of the store, from anywhere
  kiln run registry.example.com/team/notes   an image of a registry")]
pub(crate) struct Args {
    /// An image or service of the manifest, or an image of the store or a registry; behind it
    /// a command and its arguments, instead of the image's own
    #[arg(
        value_name = "TARGET [COMMAND]",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,

    /// Remove the container when it ends, which every container of this version is
    #[arg(long)]
    rm: bool,

    /// When to pull an image of a registry
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pulling,

    #[command(flatten)]
    container: ContainerArgs,

    #[command(flatten)]
    how: BuildArgs,
}

/// Builds, runs, and returns the container's own exit code.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let (target, command) = match args.words.split_first() {
        // Everything behind the target is the container's; before it, a flag was misspelt.
        Some((word, _)) if word.starts_with('-') => {
            return Err(Failure::message(
                Class::User,
                format!("`{word}` is not a flag of kiln run"),
                Some("see its flags: kiln run --help".to_owned()),
            ));
        }
        Some((target, command)) => (Some(target.as_str()), command),
        None => (None, [].as_slice()),
    };
    let overrides =
        args.container
            .overrides(command, &settings.directory, &settings.environment)?;
    Ready::make(target, args.pull, &args.how, settings, printer)?.start(
        &overrides,
        args.container.wants_terminal(),
        printer,
    )
}
