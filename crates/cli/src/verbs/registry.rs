//! `kiln registry`: serves images to other machines, and looks after them.

mod backup;
mod check;
mod export;
mod gc;
mod import;
mod place;
mod read_only;
mod rebuild;
mod restore;
mod scrub;
mod serve;
mod token;
mod undelete;
mod user;

use std::process::ExitCode;

use clap::Subcommand;

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// Serve images to other machines, and look after them
///
/// Everything is in one folder, which one process owns: the other verbs speak
/// to the registry that runs there, or do their work themselves if none does.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

/// What a registry can be asked to do.
#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Args),
    User(user::Args),
    Token(token::Args),
    Gc(gc::Args),
    Undelete(undelete::Args),
    ReadOnly(read_only::Args),
    Check(check::Args),
    Scrub(scrub::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Rebuild(rebuild::Args),
    Export(export::Args),
    Import(import::Args),
}

/// Does it.
pub(crate) fn run(args: Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    match args.verb {
        Verb::Serve(args) => serve::run(&args, settings, printer),
        Verb::User(args) => user::run(args, settings, printer),
        Verb::Token(args) => token::run(args, settings, printer),
        Verb::Gc(args) => gc::run(&args, settings, printer),
        Verb::Undelete(args) => undelete::run(&args, settings, printer),
        Verb::ReadOnly(args) => read_only::run(&args, settings, printer),
        Verb::Check(args) => return check::run(&args, settings, printer),
        Verb::Scrub(args) => return scrub::run(&args, settings, printer),
        Verb::Backup(args) => backup::run(&args, settings, printer),
        Verb::Restore(args) => restore::run(&args, settings, printer),
        Verb::Rebuild(args) => rebuild::run(&args, settings, printer),
        Verb::Export(args) => export::run(&args, settings, printer),
        Verb::Import(args) => import::run(&args, settings, printer),
    }
    .map(|()| ExitCode::SUCCESS)
}
