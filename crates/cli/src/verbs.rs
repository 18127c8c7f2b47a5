//! The verbs: one file each, with its arguments beside what it does.

mod build;
mod check;
mod completions;
mod df;
mod gc;
mod graph;
mod history;
mod images;
mod init;
mod inspect;
mod load;
mod log;
mod reference;
mod rmi;
mod run;
mod save;
mod schema;
mod version;

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// The form of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// What kiln can be asked to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Init(init::Args),
    Check(check::Args),
    Graph(graph::Args),
    Build(build::Args),
    Run(Box<run::Args>),
    Images(images::Args),
    Inspect(inspect::Args),
    History(history::Args),
    Save(save::Args),
    Load(load::Args),
    Rmi(rmi::Args),
    Log(log::Args),
    Df(df::Args),
    Gc(gc::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Reference(reference::Args),
    Version(version::Args),
}

impl Verb {
    /// Whether the exit code belongs to a container, so that kiln's own
    /// failures have 125 to 127.
    pub(crate) fn keeps_container_codes(&self) -> bool {
        matches!(self, Self::Run(_))
    }

    /// Does it.
    pub(crate) fn run(self, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
        match self {
            Self::Build(args) => return build::run(&args, settings, printer),
            Self::Run(args) => return run::run(&args, settings, printer),
            Self::Init(args) => init::run(&args, settings, printer),
            Self::Check(args) => check::run(&args, settings, printer),
            Self::Graph(args) => graph::run(&args, settings, printer),
            Self::Images(args) => images::run(&args, settings, printer),
            Self::Inspect(args) => inspect::run(&args, settings, printer),
            Self::History(args) => history::run(&args, settings, printer),
            Self::Save(args) => save::run(&args, settings, printer),
            Self::Load(args) => load::run(&args, settings, printer),
            Self::Rmi(args) => rmi::run(&args, settings, printer),
            Self::Log(args) => log::run(&args, settings, printer),
            Self::Df(args) => df::run(&args, settings, printer),
            Self::Gc(args) => gc::run(&args, settings, printer),
            Self::Schema(args) => schema::run(&args, printer),
            Self::Completions(args) => completions::run(&args, printer),
            Self::Reference(args) => reference::run(&args, printer),
            Self::Version(args) => version::run(&args, printer),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
