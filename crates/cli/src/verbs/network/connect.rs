//! `kiln network connect` and `kiln network disconnect`.

use std::net::{Ipv4Addr, Ipv6Addr};

use kiln_network::{Asked, Membership};

use super::Entered;
use crate::errors::Outcome;
use crate::printer::Printer;

/// Connect a running container to one more network
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln network connect --alias db backend 3f2a91")]
pub(crate) struct Args {
    /// The network, by name or by the beginning of its id
    network: String,

    /// The container, by name or by the beginning of its id
    container: String,

    /// Give it another name in the network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,

    /// Give it this IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// Give it this IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
}

/// Connects it.
pub(super) fn run(args: &Args, entered: &Entered, printer: &mut Printer) -> Outcome {
    let membership = Membership {
        network: args.network.clone(),
        aliases: args.alias.clone(),
        asked: Asked {
            ipv4: args.ip,
            ipv6: args.ip6,
        },
    };
    let networks = &entered.networks;
    for warning in networks.connect(&args.container, &membership, entered.now)? {
        printer.warning(warning);
    }
    Ok(())
}

/// Take a running container out of a network
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln network disconnect backend 3f2a91")]
pub(crate) struct DisconnectArgs {
    /// The network, by name or by the beginning of its id
    network: String,

    /// The container, by name or by the beginning of its id
    container: String,
}

/// Takes it out.
pub(super) fn disconnect(
    args: &DisconnectArgs,
    entered: &Entered,
    _printer: &mut Printer,
) -> Outcome {
    let networks = &entered.networks;
    Ok(networks.disconnect(&args.network, &args.container, entered.now)?)
}
