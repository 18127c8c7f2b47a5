//! `kiln port`: where a container's ports are reached.

use kiln_network::Protocol;
use serde_json::json;

use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::ports::{self, Places};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::Format;

/// List the ports of this machine that lead to a container
///
/// With a port of the container, only where that one is reached.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln port web
  kiln port web 80
  kiln port dns 53/udp
  curl http://$(kiln port web 80 | head -n1)/")]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// A port of the container
    #[arg(value_name = "PORT[/PROTOCOL]", value_parser = ports::port)]
    port: Option<(u16, Protocol)>,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let container = find(&store, &args.container)?;
    let mut mappings = Places::read(&store)?.mappings(&container);
    if let Some(port) = args.port {
        mappings.retain(|one| (one.container, one.protocol) == port);
        if mappings.is_empty() {
            let (name, port) = (container.display_name(), ports::named(port));
            let message = format!("no port of this machine leads to {port} of {name}");
            let help = format!("see which do: kiln port {name}");
            return Err(Failure::message(Class::User, message, Some(help)));
        }
    }
    if args.format == Format::Json {
        let rows = mappings.iter().flat_map(|one| {
            one.places().into_iter().map(|place| {
                json!({
                    "container": one.container,
                    "protocol": one.protocol,
                    "address": place.ip(),
                    "port": place.port(),
                })
            })
        });
        return printer.json(&rows.collect());
    }
    let lines = mappings.iter().flat_map(|one| {
        let port = ports::named((one.container, one.protocol));
        let places = one.places().into_iter();
        let lines = places.map(|place| match args.port {
            Some(_) => format!("{place}\n"),
            None => format!("{port} -> {place}\n"),
        });
        lines.collect::<Vec<_>>()
    });
    printer.data(lines.collect::<String>())
}
