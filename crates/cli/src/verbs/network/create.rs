//! `kiln network create`.

use std::net::IpAddr;

use clap::ValueEnum;
use kiln_network::NewNetwork;

use super::{Entered, label};
use crate::errors::Outcome;
use crate::printer::Printer;

/// Make a network
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln network create backend
  kiln network create --subnet 10.5.0.0/24 --gateway 10.5.0.254 backend
  kiln network create --internal --ipv6 backend")]
pub(crate) struct Args {
    /// What to call it
    name: String,

    /// Use these addresses; once for IPv4 and once for IPv6
    #[arg(long, value_name = "ADDRESS/BITS")]
    subnet: Vec<ipnet::IpNet>,

    /// Give this machine this address in the subnet [default: the first one]
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,

    /// Give containers addresses from this part of the subnet
    #[arg(long, value_name = "ADDRESS/BITS")]
    ip_range: Vec<ipnet::IpNet>,

    /// Give containers addresses of IPv6 too
    #[arg(long)]
    ipv6: bool,

    /// Give it no way out
    #[arg(long)]
    internal: bool,

    /// Note something about it
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    label: Vec<(String, String)>,

    /// Set an option: `mtu=BYTES`
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = option)]
    opt: Vec<u32>,

    /// Choose how it is made; there is one way
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: Driver,
}

/// How a network is made.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    /// As a bridge of this machine
    Bridge,
}

/// The only option there is, also as docker calls it. The kernel takes no fewer bytes for IPv6.
fn option(text: &str) -> Result<u32, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if !matches!(name, "mtu" | "com.docker.network.driver.mtu") {
        return Err("the only option is `mtu=BYTES`".to_owned());
    }
    match value.parse() {
        Ok(bytes) if (1280..=65535).contains(&bytes) => Ok(bytes),
        _ => Err("the mtu is a number of bytes from 1280 to 65535".to_owned()),
    }
}

/// Makes it, and prints its id.
pub(super) fn run(args: &Args, entered: &Entered, printer: &mut Printer) -> Outcome {
    let Driver::Bridge = args.driver;
    let new = NewNetwork {
        name: args.name.clone(),
        subnets: args.subnet.clone(),
        gateways: args.gateway.clone(),
        ranges: args.ip_range.clone(),
        ipv6: args.ipv6,
        internal: args.internal,
        mtu: args.opt.last().copied(),
        labels: args.label.iter().cloned().collect(),
    };
    let record = entered.networks.create(&new, entered.now)?;
    printer.line(record.id)
}
