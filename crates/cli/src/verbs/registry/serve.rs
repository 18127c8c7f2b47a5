//! `kiln registry serve`: answers until it is told to stop.

use std::net::SocketAddr;

use kiln_registry::{Registry, Server};
use kiln_sys::signal::{Signal, is_ignored};

use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;

/// Serve a registry
///
/// Without settings it answers on 127.0.0.1:5000, to everybody on this machine.
/// Any other address needs TLS and accounts. Stops in good order at Ctrl-C or
/// SIGTERM; reads its certificate again at SIGHUP.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln registry serve
  kiln registry serve --config /etc/kiln/registry.toml
  kiln registry serve --listen 127.0.0.1:0 --data /tmp/registry")]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Address to answer on, instead of those of the settings; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<SocketAddr>,

    /// Refuse changes
    #[arg(long)]
    read_only: bool,

    /// Check the settings, and serve nothing
    #[arg(long)]
    check_config: bool,
}

/// Serves.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let mut config = args.place.config(settings)?;
    if !args.listen.is_empty() {
        config.listen.clone_from(&args.listen);
    }
    config.read_only |= args.read_only;
    config.check()?;
    let folder = args.place.folder(&config, settings)?;
    if args.check_config {
        printer.note(format!(
            "the settings are fine; {} would be served",
            folder.display()
        ));
        return Ok(());
    }
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let needs_login = config.needs_login();
    let mut server = Server::bind(Registry::open(&folder, config, Settings::clock())?)?;
    if is_ignored(Signal::INT).unwrap_or(false) {
        server.ignore_interrupts();
    }
    let addresses = server.addresses();
    server.run(Printer::log(), || {
        for address in addresses {
            let folder = folder.display();
            printer.note(format!("{folder} is served on {scheme}://{address}"));
        }
        if !needs_login {
            printer.note("everybody on this machine may read and change everything");
        }
    })?;
    Ok(())
}
