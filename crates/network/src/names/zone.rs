//! Who has which name, in the networks of one container.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::endpoint::Endpoint;
use crate::networks::{Network, Networks};

/// The names that one container sees.
#[derive(Debug)]
pub(crate) struct Zone {
    networks: Networks,
    container: String,
}

/// Those names at one moment.
#[derive(Debug, Default)]
pub(crate) struct View {
    endpoints: Vec<Endpoint>,
    subnets: Vec<IpNet>,
    /// Whether anything but these names may be asked about.
    pub(crate) asks_outside: bool,
}

impl Zone {
    pub(crate) const fn new(networks: Networks, container: String) -> Self {
        Self {
            networks,
            container,
        }
    }

    /// What is known now. It changes when containers come and go.
    pub(crate) fn view(&self) -> View {
        match self.networks.of(&self.container) {
            Ok(networks) => View::of(networks),
            Err(error) => {
                tracing::warn!("who is in the networks of `{}`: {error}", self.container);
                View::default()
            }
        }
    }
}

impl View {
    fn of(networks: Vec<Network>) -> Self {
        Self {
            asks_outside: networks.iter().any(|network| !network.record.internal),
            subnets: networks
                .iter()
                .flat_map(|network| network.record.subnets.iter().map(|one| one.subnet))
                .collect(),
            endpoints: networks
                .into_iter()
                .flat_map(|network| network.endpoints.into_values())
                .collect(),
        }
    }

    /// The addresses of a name; `None` if nobody has it.
    pub(crate) fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let called = self.endpoints.iter().filter(|one| one.is_called(name));
        let addresses: Vec<Vec<IpNet>> = called.map(|one| one.addresses.clone()).collect();
        let addresses = (!addresses.is_empty()).then_some(addresses)?;
        Some(
            addresses
                .into_iter()
                .flatten()
                .map(|one| one.addr())
                .collect(),
        )
    }

    /// The name of an address; `None` if nobody has it.
    pub(crate) fn name(&self, address: IpAddr) -> Option<&str> {
        let has_it = |one: &&Endpoint| one.addresses.iter().any(|own| own.addr() == address);
        Some(&self.endpoints.iter().find(has_it)?.name)
    }

    /// Whether nobody else can know the name of an address.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }
}

#[cfg(test)]
impl View {
    pub(crate) fn new(endpoints: Vec<Endpoint>, subnets: &[&str], asks_outside: bool) -> Self {
        Self {
            endpoints,
            subnets: subnets.iter().map(|text| text.parse().unwrap()).collect(),
            asks_outside,
        }
    }
}

#[cfg(any(test, feature = "fuzz"))]
impl View {
    /// One container that has a name and an address of each family.
    pub(crate) fn example(asks_outside: bool) -> Self {
        let addresses = ["10.90.0.2/24", "fd00::2/64"].map(|text| text.parse());
        Self {
            endpoints: vec![Endpoint {
                container: "0123456789abcdef".to_owned(),
                name: "db".to_owned(),
                device: "kv0".to_owned(),
                inside: "eth0".to_owned(),
                mac: [0; 6],
                addresses: addresses.into_iter().flatten().collect(),
                aliases: vec!["data.base".to_owned()],
                ports: Vec::new(),
            }],
            subnets: "10.90.0.0/24".parse().into_iter().collect(),
            asks_outside,
        }
    }
}
