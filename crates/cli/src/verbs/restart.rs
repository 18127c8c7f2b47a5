//! `kiln restart`: stops containers and starts them again.

use crate::containers::{each, find};
use crate::errors::Outcome;
use crate::local;
use crate::monitors;
use crate::networking::{self, Reach};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::start::start;
use crate::verbs::stop::Asking;

/// Stop containers and start them again
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln restart web
  kiln restart -t 1 web db")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,

    #[command(flatten)]
    asking: Asking,
}

/// Restarts them, one after the other.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    // Those that are not there are told one by one.
    let reach = networking::reach_of(&store, &args.containers).unwrap_or(Reach::None);
    let (host, _outside) = networking::enter(&store, reach)?;
    each(&args.containers, printer, |name, printer| {
        let container = find(&store, name)?;
        args.asking.stop(&store, &container)?;
        // As it is now.
        let container = find(&store, container.id().as_str())?;
        start(&store, &host, &container, settings, printer)?;
        let shown = container.display_name();
        monitors::tell(&store, &container.config, &shown, "restart", &[])
    })
}
