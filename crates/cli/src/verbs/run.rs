//! `kiln run`: builds what changed and starts a container.

use std::process::ExitCode;

use crate::app;
use crate::container::ContainerArgs;
use crate::errors::{Class, Failure, Outcome};
use crate::launch::{Pulling, Ready};
use crate::networking::Reach;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::suggest;
use crate::verbs::build::BuildArgs;

/// Build what changed and run a container in the foreground
///
/// The exit code is that of the container. As with docker, 125 says that kiln
/// could not start it (or was called wrongly), 126 that the program cannot be
/// executed, 127 that it is not there. The container's writable layer is gone when it ends, volumes stay.
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
            return Err(unknown_flag(word));
        }
        Some((target, command)) => (Some(target.as_str()), command),
        None => (None, [].as_slice()),
    };
    let overrides =
        args.container
            .overrides(command, &settings.directory, &settings.environment)?;
    let reach = Reach::of(args.container.needs_a_bridge());
    Ready::make(target, args.pull, reach, &args.how, settings, printer)?.start(
        &overrides,
        args.container.wants_terminal(),
        printer,
    )
}

/// Says which flag was meant.
fn unknown_flag(word: &str) -> Failure {
    let command = app::command();
    let flags = command.find_subcommand("run").into_iter();
    let flags = flags
        .chain([&command])
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    let (name, _) = word.split_once('=').unwrap_or((word, ""));
    let help = suggest::help(name, flags, || "see its flags: kiln run --help".to_owned());
    let message = format!("`{name}` is not a flag of kiln run");
    Failure::message(Class::User, message, Some(help))
}
