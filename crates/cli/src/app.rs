//! From the command line to a verb, and from its outcome to an exit code.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::docker;
use crate::errors::Outcome;
use crate::notices;
use crate::printer::Printer;
use crate::settings::{Environment, Settings};
use crate::verbs::{Verb, keeps_container_codes};

/// Build container images from a committed `kiln.toml`, and run them
#[derive(Debug, Parser)]
#[command(
    name = "kiln",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "`kiln init` writes a first kiln.toml, `kiln run` builds and starts it.\n\
                  `kiln <verb> --help` has examples."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct GlobalArgs {
    /// Take the project in this folder instead of the nearest kiln.toml upwards
    #[arg(short = 'C', long = "directory", value_name = "DIR", global = true)]
    pub(crate) directory: Option<std::path::PathBuf>,

    /// Apply a `[profile.NAME]` of the manifest; the last one wins
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) profile: Vec<String>,

    /// Set an argument that `[args]` declares
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_assignment, global = true)]
    pub(crate) set: Vec<(String, String)>,

    /// Choose how progress is shown
    #[arg(long, value_name = "FORM", default_value = "auto", global = true)]
    pub(crate) progress: ProgressForm,

    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Say more about what is done and why
    #[arg(long, global = true)]
    pub(crate) verbose: bool,
}

/// What kiln is called where a program wants a runtime by path alone.
pub(crate) const RUNTIME_NAME: &str = "kiln-oci-runtime";

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressForm {
    /// Live on a terminal, plain lines elsewhere
    #[default]
    Auto,
    /// One line per event and per line of output
    Plain,
    /// One JSON object per line
    Json,
    /// Live, even where standard error is no terminal
    Tty,
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("say NAME=VALUE".to_owned()),
    }
}

/// Runs the command line of this process.
pub(crate) fn run() -> ExitCode {
    let environment = Environment::read();
    let arguments = arguments();
    let (cli, own_codes) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let error = docker::advised(error, &arguments);
            return Printer::plain().usage(&error, is_of_a_container(&arguments));
        }
    };
    // Before anything of this process changes that a container would inherit, and without a home or a store.
    if let Verb::OciRuntime(args) = &cli.verb {
        return crate::verbs::oci_runtime::run(args, &environment);
    }
    crate::open_files::raise_limit();
    let settings = match Settings::resolve(&cli.global, environment) {
        Ok(settings) => settings,
        Err(failure) => return Printer::plain().failure(&failure, own_codes),
    };
    notices::listen(settings.listening, Box::new(Printer::teller(&settings)));
    let mut printer = Printer::new(&settings);
    match run_verb(cli, &settings, &mut printer) {
        Ok(code) => code,
        Err(failure) => printer.failure(&failure, own_codes),
    }
}

/// The command line; called by the name of the runtime, as a link to kiln is, it is that verb's.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments
        .first()
        .and_then(|name| Path::new(name).file_name());
    if name == Some(OsStr::new(RUNTIME_NAME)) {
        arguments.insert(1, OsString::from("oci-runtime"));
    }
    arguments
}

fn run_verb(cli: Cli, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    cli.verb.run(settings, printer)
}

/// Reads the command line, and says whether the verb's exit codes belong to a container.
///
/// Only the verb that is called is described to clap; where something is wrong, or help is wanted, all
/// is read again by a description of every verb.
fn parse(arguments: &[OsString]) -> Result<(Cli, bool), clap::Error> {
    let read = |command: clap::Command| {
        let found = command.try_get_matches_from(arguments)?;
        let own_codes = found.subcommand_name().is_some_and(keeps_container_codes);
        Cli::from_arg_matches(&found).map(|cli| (cli, own_codes))
    };
    read(named_verb_alone(arguments)).or_else(|error| {
        if error.kind() == ErrorKind::DisplayVersion {
            return Err(error);
        }
        read(command())
    })
}

/// The command line with one verb, the first that a word of `arguments` names.
///
/// Every flag for all verbs is copied for each verb that clap knows of, which takes longer than all else that it does.
/// What this reads has the same meaning in the whole; if the word was not meant as a verb, this does not read it.
fn named_verb_alone(arguments: &[OsString]) -> clap::Command {
    let whole = Cli::command();
    let mut words = arguments.iter().skip(1);
    let verb = words.find_map(|word| whole.find_subcommand(word));
    let alone = clap::Command::new("kiln").version(env!("CARGO_PKG_VERSION"));
    GlobalArgs::augment_args(alone)
        .subcommand_required(true)
        .subcommands(verb.cloned())
}

/// Whether the exit codes of the verb belong to a container, as far as a wrong command line tells.
fn is_of_a_container(arguments: &[OsString]) -> bool {
    command()
        .ignore_errors(true)
        .try_get_matches_from(arguments)
        .is_ok_and(|found| found.subcommand_name().is_some_and(keeps_container_codes))
}

/// The whole command line as clap sees it, each verb with its description and flags.
pub(crate) fn command() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_verb_alone_is_read_as_in_the_whole() {
        for line in [
            "kiln ps --all",
            "kiln -C run ps",
            "kiln --set a=run --quiet run --rm image ps",
            "kiln run --progress plain -C ps image",
            "kiln volume ls --profile run",
            "kiln exec -i run build",
            "kiln images --progress json",
            "kiln oci-runtime --root /run/here state one",
        ] {
            let arguments = words(line);
            let of_whole = command().try_get_matches_from(&arguments).unwrap();
            let of_whole = Cli::from_arg_matches(&of_whole).unwrap();
            let (read, own_codes) = parse(&arguments).unwrap();
            assert_eq!(format!("{read:?}"), format!("{of_whole:?}"), "{line}");
            let is_run = matches!(read.verb, Verb::Run(_) | Verb::Exec(_));
            assert_eq!(own_codes, is_run, "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_by_the_whole() {
        for (line, kind) in [
            ("kiln", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("kiln --version", ErrorKind::DisplayVersion),
            ("kiln --help", ErrorKind::DisplayHelp),
            ("kiln rnu", ErrorKind::InvalidSubcommand),
            ("kiln rnu run", ErrorKind::InvalidSubcommand),
            ("kiln ps --nosuch", ErrorKind::UnknownArgument),
            ("kiln --nosuch run", ErrorKind::UnknownArgument),
            ("kiln volume sl", ErrorKind::InvalidSubcommand),
        ] {
            let error = parse(&words(line)).unwrap_err();
            let of_whole = command().try_get_matches_from(words(line)).unwrap_err();
            assert_eq!(error.kind(), kind, "{line}");
            assert_eq!(error.to_string(), of_whole.to_string(), "{line}");
        }
    }
}
