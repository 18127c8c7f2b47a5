//! `kiln network hold`: kiln itself, as the keeper of the network that an ordinary user's containers share.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::settings::Settings;

/// Keep the network that containers of this user share, until none is left
#[derive(clap::Args, Debug)]
#[command(hide = true)]
pub(super) struct Args {}

/// Keeps it.
pub(super) fn run(settings: &Settings) -> Outcome {
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    // Whoever reads it waits for its end, so it may be open only once.
    let report = std::io::stdout().as_fd().try_clone_to_owned();
    let report: File = report.map_err(Failure::output)?.into();
    let nothing = OpenOptions::new().write(true).open("/dev/null");
    let nothing = nothing.map_err(|error| Failure::from_error(Class::Environment, error))?;
    rustix::stdio::dup2_stdout(&nothing)
        .map_err(|errno| Failure::from_error(Class::Environment, errno))?;
    Ok(kiln_network::hold(&store, report)?)
}
