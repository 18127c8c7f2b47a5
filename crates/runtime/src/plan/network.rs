//! What a container can reach, and what leads to it.

use std::net::IpAddr;

use kiln_manifest::model::{self, Service};
use kiln_network::{DEFAULT_NETWORK, Membership, Protocol, Publish};
use kiln_store::ContainerId;
use serde::{Deserialize, Serialize};

use super::{Overrides, PlanError};

/// What a container can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedNetwork {
    /// Nothing but itself.
    #[default]
    None,
    /// What the host can.
    Host,
    /// Who else is in these networks, and what they lead to.
    Bridges(Vec<Membership>),
    /// What another container can, in whose network it is.
    Container(ContainerId),
}

impl PlannedNetwork {
    /// What kind it is, as it is typed.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Bridges(_) => DEFAULT_NETWORK,
            Self::Container(_) => "container",
        }
    }
}

/// What a name in `/etc/hosts` stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostAddress {
    /// This.
    Address(IpAddr),
    /// The machine that the container runs on.
    Gateway,
}

/// What was asked for, else what the service says. Ports that nobody named a network for are of the default one.
pub(super) fn network(
    service: Option<(&str, &Service)>,
    overrides: &Overrides,
    ports: &[Publish],
) -> Result<PlannedNetwork, PlanError> {
    let bridge = |name: String| Membership {
        network: name,
        ..Membership::default()
    };
    let of_service = service.map(|(project, service)| (service.network, project, service));
    let network = match (&overrides.network, of_service) {
        (Some(network), _) => network.clone(),
        (None, Some((Some(model::Network::Host), ..))) => PlannedNetwork::Host,
        (None, Some((Some(model::Network::None), ..))) => PlannedNetwork::None,
        (None, Some((None, project, service))) if !service.networks.is_empty() => {
            let names = service.networks.iter();
            let bridges = names.map(|name| bridge(network_name(project, &name.value)));
            PlannedNetwork::Bridges(bridges.collect())
        }
        (None, Some((None, ..)) | None) if ports.is_empty() => PlannedNetwork::None,
        (None, Some((Some(model::Network::Bridge) | None, ..)) | None) => {
            PlannedNetwork::Bridges(vec![bridge(DEFAULT_NETWORK.to_owned())])
        }
    };
    let takes_ports = matches!(network, PlannedNetwork::Bridges(_));
    if takes_ports || ports.is_empty() {
        Ok(network)
    } else {
        Err(PlanError::Ports(network.word()))
    }
}

/// What a network of a manifest is called in the store: two projects may declare networks of the same name and mean
/// different ones.
#[must_use]
pub fn network_name(project: &str, name: &kiln_manifest::value::Name) -> String {
    format!("{project}.{name}")
}

/// The service's ports, but those of the container that the command line publishes otherwise.
pub(super) fn ports(service: Option<&Service>, overrides: &Overrides) -> Vec<Publish> {
    let of_service = service.iter().flat_map(|service| &service.ports);
    let of_service = of_service.map(|port| Publish {
        address: port.address,
        host: port.host,
        container: port.container,
        protocol: match port.transport {
            model::Transport::Tcp => Protocol::Tcp,
            model::Transport::Udp => Protocol::Udp,
        },
    });
    let is_replaced = |port: &Publish| {
        let mut others = overrides.ports.iter();
        others.any(|other| {
            other.protocol == port.protocol
                && (other.container.0..=other.container.1).contains(&port.container.0)
        })
    };
    let kept = of_service.filter(|port| !is_replaced(port));
    kept.chain(overrides.ports.clone()).collect()
}
