//! `kiln network inspect`.

use std::net::IpAddr;

use kiln_network::{Endpoint, Network};
use serde_json::{Map, Value, json};

use super::Entered;
use crate::errors::Outcome;
use crate::form::DocumentForm;
use crate::printer::Printer;

/// Show everything about networks, as JSON
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln network inspect backend
  kiln network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' backend
  kiln network inspect backend | jq -r '.[].IPAM.Config[].Subnet'")]
pub(crate) struct Args {
    /// Networks by name or by the beginning of their id
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,

    /// Show only this, by a template of docker's, such as '{{.Driver}}'
    #[arg(short, long, value_name = "TEMPLATE", default_value = "json", value_parser = DocumentForm::parse)]
    format: DocumentForm,
}

/// Prints a list of documents.
pub(super) fn run(args: &Args, entered: &Entered, printer: &mut Printer) -> Outcome {
    let found = documents(&args.networks, entered)?;
    args.format.print(found, printer)
}

/// What is known about networks, by name or id.
pub(super) fn documents(names: &[String], entered: &Entered) -> Outcome<Value> {
    let found = names.iter().map(|name| {
        let network = entered.networks.find(name, entered.now);
        let network = network.map_err(|error| entered.explained(error))?;
        Ok(document(&network))
    });
    found.collect()
}

/// With docker's keys, since there are scripts that know them.
pub(super) fn document(network: &Network) -> Value {
    let record = &network.record;
    let subnets = record.subnets.iter().map(|subnet| {
        let mut config = Map::new();
        config.insert("Subnet".to_owned(), json!(subnet.subnet));
        config.insert("Gateway".to_owned(), json!(subnet.gateway));
        if let Some(range) = subnet.range {
            config.insert("IPRange".to_owned(), json!(range));
        }
        Value::Object(config)
    });
    let containers = network.endpoints.values();
    let containers: Map<String, Value> = containers
        .map(|endpoint| (endpoint.container.clone(), container(endpoint)))
        .collect();
    let mut options = Map::new();
    if let Some(mtu) = record.mtu {
        options.insert("mtu".to_owned(), json!(mtu.to_string()));
    }
    let created = i64::try_from(record.created.seconds()).ok();
    let created = created.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    json!({
        "Name": record.name,
        "Id": record.id,
        "Created": created.map(|time| time.to_string()),
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": record.has_ipv6(),
        "IPAM": { "Driver": "default", "Config": subnets.collect::<Vec<_>>() },
        "Internal": record.internal,
        "Containers": containers,
        "Options": options,
        "Labels": record.labels,
    })
}

fn container(endpoint: &Endpoint) -> Value {
    let address = |six: bool| {
        let mut addresses = endpoint.addresses.iter();
        let found = addresses.find(|one| matches!(one.addr(), IpAddr::V6(_)) == six);
        found.map(ToString::to_string).unwrap_or_default()
    };
    let mac = endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
    let ports: Vec<String> = endpoint.ports.iter().map(ToString::to_string).collect();
    json!({
        "Name": endpoint.name,
        "MacAddress": mac,
        "IPv4Address": address(false),
        "IPv6Address": address(true),
        "Aliases": endpoint.aliases,
        "Ports": ports,
    })
}
