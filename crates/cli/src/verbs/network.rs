//! `kiln network`: networks that containers share.

mod connect;
mod create;
mod hold;
mod inspect;
mod list;
mod remove;

use clap::Subcommand;
use kiln_network::{NetworkError, Networks};
use kiln_sandbox::Host;
use kiln_store::Timestamp;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::networking::{self, Reach};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::suggest;

/// Make, list and remove networks that containers share
#[derive(clap::Args, Debug)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  kiln network create backend
  kiln run --network backend --network-alias db app
  kiln network rm backend"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(create::Args),
    #[command(visible_alias = "list")]
    Ls(list::Args),
    Inspect(inspect::Args),
    #[command(visible_alias = "remove")]
    Rm(remove::Args),
    Prune(remove::PruneArgs),
    Connect(connect::Args),
    Disconnect(connect::DisconnectArgs),
    Hold(hold::Args),
}

/// The networks of the store, from where they can be changed.
struct Entered {
    networks: Networks,
    now: Timestamp,
    _host: Host,
}

impl Entered {
    fn new(settings: &Settings) -> Outcome<Self> {
        let store = local::open(settings)?;
        let (host, outside) = networking::enter(&store, Reach::Existing)?;
        Ok(Self {
            networks: Networks::open(&store, outside)?,
            now: Timestamp::from_seconds(settings.now_seconds()),
            _host: host,
        })
    }

    /// A network that is not there, for a verb that does nothing to one that is not.
    fn explained(&self, error: NetworkError) -> Failure {
        let NetworkError::Missing(name) = error else {
            return error.into();
        };
        let known = self.networks.list(self.now).unwrap_or_default();
        let known = known
            .into_iter()
            .map(|network| network.record.name.to_string());
        let help = suggest::help(&name, known, || {
            "these networks are there: kiln network ls".to_owned()
        });
        let message = format!("there is no network `{name}`");
        Failure::message(Class::User, message, Some(help))
    }
}

/// Does what the second word says.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    if let Verb::Hold(_) = &args.verb {
        return hold::run(settings);
    }
    let entered = Entered::new(settings)?;
    match &args.verb {
        Verb::Hold(_) => Ok(()),
        Verb::Create(args) => create::run(args, &entered, printer),
        Verb::Ls(args) => list::run(args, &entered, settings, printer),
        Verb::Inspect(args) => inspect::run(args, &entered, printer),
        Verb::Rm(args) => remove::run(args, &entered, printer),
        Verb::Prune(args) => remove::prune(args, &entered, printer),
        Verb::Connect(args) => connect::run(args, &entered, printer),
        Verb::Disconnect(args) => connect::disconnect(args, &entered, printer),
    }
}

/// What is known about networks.
///
/// # Errors
/// One is not there.
pub(crate) fn inspection(names: &[String], settings: &Settings) -> Outcome<serde_json::Value> {
    inspect::documents(names, &Entered::new(settings)?)
}

/// Whether there is a network of that name or with an id that begins so.
///
/// # Errors
/// The networks cannot be read, or several ids begin so.
pub(crate) fn is_there(name: &str, settings: &Settings) -> Outcome<bool> {
    let entered = Entered::new(settings)?;
    match entered.networks.find(name, entered.now) {
        Ok(_) => Ok(true),
        Err(NetworkError::Missing(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `KEY=VALUE`, or a key alone.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("say KEY=VALUE".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}
