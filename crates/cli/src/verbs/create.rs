//! `kiln create`: makes a container without starting it.

use crate::container::ContainerArgs;
use crate::errors::Outcome;
use crate::launch::{Life, Pulling, Ready};
use crate::life::LifeArgs;
use crate::networking::Reach;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::build::BuildArgs;
use crate::verbs::run::{split_words, unknown_flag};

/// Build what changed and make a container, without starting it
#[derive(clap::Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  kiln create --name db -v data:/var/lib/data postgres:17
  kiln start db"
)]
pub(crate) struct Args {
    /// An image or service of the manifest, or an image of the store or a registry; behind it
    /// a command and its arguments, instead of the image's own
    #[arg(
        value_name = "TARGET [COMMAND]",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    words: Vec<String>,

    /// When to pull an image of a registry
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pulling,

    #[command(flatten)]
    life: LifeArgs,

    #[command(flatten)]
    container: ContainerArgs,

    #[command(flatten)]
    how: BuildArgs,
}

/// Makes it and prints its id.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let (target, command) =
        split_words(&args.words).map_err(|flag| unknown_flag("create", flag))?;
    let overrides = args.container.overrides(command, settings)?;
    let ready = Ready::make(
        target,
        args.pull,
        Some(Reach::None),
        &args.how,
        settings,
        printer,
    )?;
    let terminal = ready.wants_terminal(args.container.wants_terminal());
    let life = Life::new(
        &args.life,
        ready.config(),
        terminal.unwrap_or(false),
        args.container.keeps_input_open(),
    )?;
    let kept = ready.keep(&overrides, &life, args.life.name.as_deref())?;
    printer.line(kept.config.id.as_str())
}
