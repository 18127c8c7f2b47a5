//! The verbs: one file each, with its arguments beside what it does.

mod attach;
pub(crate) mod build;
mod check;
mod commit;
mod completions;
mod container;
mod copy;
mod cp;
mod create;
mod df;
pub(crate) mod diff;
mod events;
mod exec;
mod explain;
mod gc;
mod generate_key;
mod graph;
mod history;
mod images;
mod init;
mod inspect;
mod kill;
pub(crate) mod load;
mod lock;
mod log;
mod login;
mod logout;
pub(crate) mod logs;
mod network;
pub(crate) mod oci_runtime;
mod pause;
mod port;
mod ps;
mod pull;
mod push;
mod reference;
mod referrers;
mod registry;
mod rename;
mod restart;
mod rm;
mod rmi;
pub(crate) mod run;
mod save;
mod sbom;
mod schema;
mod shell;
pub(crate) mod start;
mod stats;
mod stop;
mod tag;
mod tags;
mod top;
mod update;
mod verify;
mod verify_signature;
mod version;
pub(crate) mod volume;
mod wait;

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
///
/// Each verb's flags are described when it is called, not whenever kiln starts.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    Init(init::Args),
    Check(check::Args),
    Build(build::Args),
    Run(Box<run::Args>),
    Shell(Box<shell::Args>),
    Create(Box<create::Args>),
    Start(start::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Kill(kill::Args),
    Pause(pause::Args),
    Unpause(pause::UnpauseArgs),
    Rm(rm::Args),
    Ps(ps::Args),
    Port(port::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    Wait(wait::Args),
    Rename(rename::Args),
    Top(top::Args),
    Stats(stats::Args),
    Update(update::Args),
    Events(events::Args),
    Diff(diff::Args),
    Cp(cp::Args),
    Commit(commit::Args),
    Container(container::Args),
    Volume(volume::Args),
    Graph(graph::Args),
    Explain(explain::Args),
    Lock(lock::Args),
    Verify(verify::Args),
    Log(log::Args),
    Images(images::Args),
    Inspect(inspect::Args),
    History(history::Args),
    Save(save::Args),
    Load(load::Args),
    Pull(pull::Args),
    Push(push::Args),
    Referrers(referrers::Args),
    VerifySignature(verify_signature::Args),
    GenerateKey(generate_key::Args),
    Sbom(sbom::Args),
    Tag(tag::Args),
    Rmi(rmi::Args),
    Login(login::Args),
    Logout(logout::Args),
    Tags(tags::Args),
    Copy(Box<copy::Args>),
    Network(network::Args),
    OciRuntime(Box<oci_runtime::Args>),
    Gc(gc::Args),
    Df(df::Args),
    Registry(registry::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Reference(reference::Args),
    Version(version::Args),
}

/// Whether the exit code of the verb called `name` belongs to a container, so
/// that kiln's own failures, wrong usage among them, have 125 to 127.
pub(crate) fn keeps_container_codes(name: &str) -> bool {
    matches!(name, "run" | "shell" | "exec")
}

impl Verb {
    /// Does it.
    pub(crate) fn run(self, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
        match self {
            Self::Init(args) => init::run(&args, settings, printer),
            Self::Check(args) => check::run(&args, settings, printer),
            Self::Build(args) => return build::run(&args, settings, printer),
            Self::Run(args) => return run::run(&args, settings, printer),
            Self::Shell(args) => return shell::run(&args, settings, printer),
            Self::Create(args) => create::run(&args, settings, printer),
            Self::Start(args) => return start::run(&args, settings, printer),
            Self::Stop(args) => stop::run(&args, settings, printer),
            Self::Restart(args) => restart::run(&args, settings, printer),
            Self::Kill(args) => kill::run(&args, settings, printer),
            Self::Pause(args) => pause::run(&args, settings, printer),
            Self::Unpause(args) => pause::unpause(&args, settings, printer),
            Self::Rm(args) => rm::run(&args, settings, printer),
            Self::Ps(args) => ps::run(&args, settings, printer),
            Self::Port(args) => port::run(&args, settings, printer),
            Self::Logs(args) => logs::run(&args, settings, printer),
            Self::Exec(args) => exec::run(&args, settings, printer),
            Self::Attach(args) => return attach::run(&args, settings, printer),
            Self::Wait(args) => wait::run(&args, settings, printer),
            Self::Rename(args) => rename::run(&args, settings, printer),
            Self::Top(args) => top::run(&args, settings, printer),
            Self::Stats(args) => stats::run(&args, settings, printer),
            Self::Update(args) => update::run(&args, settings, printer),
            Self::Events(args) => events::run(&args, settings, printer),
            Self::Diff(args) => diff::run(&args, settings, printer),
            Self::Cp(args) => cp::run(&args, settings, printer),
            Self::Commit(args) => commit::run(&args, settings, printer),
            Self::Container(args) => container::run(&args, settings, printer),
            Self::Volume(args) => volume::run(&args, settings, printer),
            Self::Graph(args) => graph::run(&args, settings, printer),
            Self::Explain(args) => return explain::run(&args, settings, printer),
            Self::Lock(args) => return lock::run(&args, settings, printer),
            Self::Verify(args) => return verify::run(&args, settings, printer),
            Self::Log(args) => log::run(&args, settings, printer),
            Self::Images(args) => images::run(&args, settings, printer),
            Self::Inspect(args) => inspect::run(&args, settings, printer),
            Self::History(args) => history::run(&args, settings, printer),
            Self::Save(args) => save::run(&args, settings, printer),
            Self::Load(args) => load::run(&args, settings, printer),
            Self::Pull(args) => pull::run(&args, settings, printer),
            Self::Push(args) => push::run(&args, settings, printer),
            Self::Referrers(args) => referrers::run(&args, settings, printer),
            Self::VerifySignature(args) => verify_signature::run(&args, settings, printer),
            Self::GenerateKey(args) => generate_key::run(&args, settings, printer),
            Self::Sbom(args) => sbom::run(&args, settings, printer),
            Self::Tag(args) => tag::run(&args, settings, printer),
            Self::Rmi(args) => rmi::run(&args, settings, printer),
            Self::Login(args) => login::run(&args, settings, printer),
            Self::Logout(args) => logout::run(&args, settings, printer),
            Self::Tags(args) => tags::run(&args, settings, printer),
            Self::Copy(args) => copy::run(&args, settings, printer),
            Self::Network(args) => network::run(&args, settings, printer),
            // Done before there are settings.
            Self::OciRuntime(_) => Ok(()),
            Self::Gc(args) => gc::run(&args, settings, printer),
            Self::Df(args) => df::run(&args, settings, printer),
            Self::Registry(args) => return registry::run(args, settings, printer),
            Self::Schema(args) => schema::run(&args, printer),
            Self::Completions(args) => completions::run(&args, printer),
            Self::Reference(args) => reference::run(&args, printer),
            Self::Version(args) => version::run(&args, printer),
        }
        .map(|()| ExitCode::SUCCESS)
    }
}
