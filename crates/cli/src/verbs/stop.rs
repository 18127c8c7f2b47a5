//! `kiln stop`: asks containers to end.

use std::time::Duration;

use kiln_runtime::StoredContainer;
use kiln_store::Store;

use crate::containers::{each_at_once, find, stop};
use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Ask containers to end, and kill those that do not
///
/// Each gets its stop signal (TERM unless the image says otherwise) and some
/// time, 10 s unless said otherwise. It is not started again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln stop web db
  kiln stop -t 1 web")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,

    #[command(flatten)]
    asking: Asking,
}

/// How a container is asked to end.
#[derive(clap::Args, Debug)]
pub(super) struct Asking {
    /// Kill it after so many seconds
    #[arg(short = 't', long = "timeout", alias = "time", value_name = "SECONDS")]
    seconds: Option<u64>,

    /// Ask it with this signal
    #[arg(short, long, value_name = "SIGNAL", value_parser = crate::container::signal)]
    signal: Option<i32>,
}

impl Asking {
    /// Stops a container so.
    pub(super) fn stop(&self, store: &Store, container: &StoredContainer) -> Outcome {
        let timeout = self.seconds.map(Duration::from_secs);
        stop(store, container, self.signal, timeout)
    }
}

/// Stops them, many at once.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    each_at_once(&args.containers, printer, |name| {
        args.asking.stop(&store, &find(&store, name)?)
    })
}
