//! `kiln run`: builds what changed and starts a container.

use std::process::ExitCode;

use kiln_runtime::{Attachment, Proxy, Request};
use kiln_sandbox::{PassedOn, Stdio};

use crate::app;
use crate::container::ContainerArgs;
use crate::errors::{Class, Failure, Outcome};
use crate::launch::{Kept, Life, Pulling, Ready, stdio};
use crate::life::{DetachArgs, LifeArgs};
use crate::monitors;
use crate::printer::Printer;
use crate::rights;
use crate::settings::Settings;
use crate::suggest;
use crate::verbs::build::BuildArgs;

/// Build what changed and run a container
///
/// The exit code is that of the container. As with docker, 125 says that kiln
/// could not start it (or was called wrongly), 126 that the program cannot be
/// executed, 127 that it is not there. The container stays, stopped, when it
/// has ended, with what it changed and wrote: `kiln ps -a` lists it, and
/// `--rm` removes it at once. Volumes stay in any case.
#[derive(clap::Args, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  kiln run                                   what `default` in [project] names
  kiln run --rm app ls -l /srv               another command in the image
  kiln run --rm --network none app true      as docker has it
  kiln run -d --name web --restart always app
  kiln run -v ./data:/data:ro -e A=1 app     one-off changes
  kiln run localhost/notes/app               an image of the store, from anywhere
  kiln run registry.example.com/team/notes   an image of a registry"
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

    /// Let it run in the background, and print its id
    #[arg(short, long)]
    detach: bool,

    /// When to pull an image of a registry
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pulling,

    #[command(flatten)]
    keys: DetachArgs,

    #[command(flatten)]
    life: LifeArgs,

    #[command(flatten)]
    container: ContainerArgs,

    #[command(flatten)]
    how: BuildArgs,
}

/// Builds, runs, and returns the container's own exit code.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let (target, command) = split_words(&args.words).map_err(|flag| unknown_flag("run", flag))?;
    let overrides = args.container.overrides(command, settings)?;
    let reach = args.container.reach();
    let ready = Ready::make(target, args.pull, reach, &args.how, settings, printer)?;
    let name = args.life.name.as_deref();
    let wanted = ready.wants_terminal(args.container.wants_terminal());
    let terminal = if args.detach {
        wanted == Some(true)
    } else {
        matches!(stdio(wanted)?, Stdio::Terminal(_))
    };
    let keeps_open = args.container.keeps_input_open() && args.detach;
    let life = Life::new(&args.life, ready.config(), terminal, keeps_open)?;
    if life.auto_remove && !args.detach && !terminal && life.health.is_none() {
        return ready.foreground(&overrides, life, Some(false), name, printer);
    }
    let kept = ready.keep(&overrides, &life, name)?;
    if args.detach {
        return detach(kept, printer);
    }
    let attachment = Attachment {
        terminal,
        input: true,
        keys: args.keys.keys(settings),
        proxy: Proxy::Owner,
    };
    let signals = PassedOn::take_over()?;
    let Kept {
        store,
        config,
        secrets,
        outside: _outside,
    } = kept;
    let monitored = monitors::start(&store, &config, secrets, &attachment.request())?;
    monitors::follow_own(&attachment, monitored, &signals, printer)
}

fn detach(kept: Kept, printer: &mut Printer) -> Outcome<ExitCode> {
    let Kept {
        store,
        config,
        secrets,
        outside: _outside,
    } = kept;
    let monitored = monitors::start(&store, &config, secrets, &Request::Start)?;
    monitors::wait_until_started(monitored, printer)?;
    printer.line(config.id.as_str())?;
    Ok(ExitCode::SUCCESS)
}

/// Splits the target from the command behind it; a flag in front of the target is a misspelt one.
pub(crate) fn split_words(words: &[String]) -> Result<(Option<&str>, &[String]), &str> {
    match words.split_first() {
        // Everything behind the target is the container's.
        Some((word, _)) if word.starts_with('-') => Err(word),
        Some((target, command)) => Ok((Some(target.as_str()), command)),
        None => Ok((None, &[])),
    }
}

/// Says which flag was meant.
pub(crate) fn unknown_flag(verb: &str, word: &str) -> Failure {
    let command = app::command();
    let flags = command.find_subcommand(verb).into_iter();
    let flags = flags
        .chain([&command])
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    let (name, _) = word.split_once('=').unwrap_or((word, ""));
    let help = match rights::instead_of(name) {
        Some(advice) => advice.to_owned(),
        None => suggest::help(name, flags, || format!("see its flags: kiln {verb} --help")),
    };
    let message = format!("`{name}` is not a flag of kiln {verb}");
    Failure::message(Class::User, message, Some(help))
}
