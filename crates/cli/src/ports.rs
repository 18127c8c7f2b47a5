//! What containers have of networks, as listings show it: ports in docker's forms.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kiln_network::{Endpoint, Mapping, NetworkRecord, Networks, Outside, Protocol, Publish};
use kiln_runtime::{PlannedNetwork, StoredContainer};
use kiln_store::Store;
use serde_json::{Map, Value, json};

use crate::errors::Outcome;
use crate::listing;

/// What containers that run have in their networks.
#[derive(Debug, Default)]
pub(crate) struct Places(BTreeMap<String, Vec<(NetworkRecord, Endpoint)>>);

impl Places {
    /// Looks at all containers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn read(store: &Store) -> Outcome<Self> {
        Ok(Self(Networks::open(store, Outside::Nowhere)?.places()?))
    }

    fn of(&self, container: &StoredContainer) -> &[(NetworkRecord, Endpoint)] {
        let own = self.0.get(container.id().as_str());
        own.map_or(&[], Vec::as_slice)
    }

    /// Ports of this machine that lead to a container, in the order of its own.
    pub(crate) fn mappings(&self, container: &StoredContainer) -> Vec<Mapping> {
        let places = self.of(container).iter();
        let mut mappings: Vec<Mapping> = places
            .flat_map(|(_, endpoint)| endpoint.ports.iter().cloned())
            .collect();
        mappings.sort_by_key(|one| (one.container, one.protocol, one.host));
        mappings
    }

    /// Docker's `PORTS` of a container; nothing if it does not run.
    pub(crate) fn column(&self, container: &StoredContainer) -> String {
        if !listing::is_alive(container) {
            return String::new();
        }
        column(&exposed(container), &self.mappings(container))
    }

    /// Docker's `NetworkSettings` of a container.
    pub(crate) fn settings(&self, container: &StoredContainer) -> Value {
        let mut ports: Map<String, Value> = Map::new();
        if listing::is_alive(container) {
            let exposed = exposed(container).into_iter();
            ports.extend(exposed.map(|port| (named(port), Value::Null)));
        }
        for mapping in self.mappings(container) {
            let name = named((mapping.container, mapping.protocol));
            let places = mapping
                .places()
                .into_iter()
                .map(|place| json!({ "HostIp": place.ip(), "HostPort": place.port().to_string() }));
            match ports.get_mut(&name) {
                Some(Value::Array(known)) => known.extend(places),
                _ => {
                    ports.insert(name, Value::Array(places.collect()));
                }
            }
        }
        let mut networks: Map<String, Value> = Map::new();
        match &container.config.plan.network {
            PlannedNetwork::None => {
                networks.insert("none".to_owned(), json!({}));
            }
            PlannedNetwork::Host => {
                networks.insert("host".to_owned(), json!({}));
            }
            PlannedNetwork::Bridges(_) | PlannedNetwork::Container(_) => {}
        }
        let places = self.of(container).iter();
        networks.extend(
            places.map(|(record, endpoint)| (record.name.to_string(), place(record, endpoint))),
        );
        json!({ "Ports": ports, "Networks": networks })
    }
}

/// Docker's description of a container's place in a network.
fn place(record: &NetworkRecord, endpoint: &Endpoint) -> Value {
    let find = |six: bool| {
        let mut addresses = endpoint.addresses.iter();
        addresses.find(|one| one.addr().is_ipv6() == six)
    };
    let address = |six: bool| find(six).map(|one| one.addr().to_string());
    let length = |six: bool| find(six).map_or(0, |one| one.prefix_len());
    let gateway = |six: bool| {
        let mut gateways = record.subnets.iter().map(|subnet| subnet.gateway);
        let found = gateways.find(|gateway| gateway.is_ipv6() == six);
        found.as_ref().map(IpAddr::to_string).unwrap_or_default()
    };
    json!({
        "NetworkID": record.id,
        "IPAddress": address(false).unwrap_or_default(),
        "IPPrefixLen": length(false),
        "Gateway": gateway(false),
        "GlobalIPv6Address": address(true).unwrap_or_default(),
        "GlobalIPv6PrefixLen": length(true),
        "IPv6Gateway": gateway(true),
        "MacAddress": endpoint.mac.map(|byte| format!("{byte:02x}")).join(":"),
        "Aliases": endpoint.aliases,
    })
}

/// Docker's `PortBindings`: what was asked for.
pub(crate) fn bindings(ports: &[Publish]) -> Value {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let address = |publish: &Publish| {
        let address = publish.address.as_ref();
        address.map(IpAddr::to_string).unwrap_or_default()
    };
    for publish in ports {
        for (container, hosts) in publish.wanted() {
            let host = match hosts.as_slice() {
                [] => String::new(),
                [only] => only.to_string(),
                [first, .., last] => format!("{first}-{last}"),
            };
            let binding = json!({ "HostIp": address(publish), "HostPort": host });
            let name = named((container, publish.protocol));
            bindings.entry(name).or_default().push(binding);
        }
    }
    json!(bindings)
}

/// Reads `80`, `80/tcp` or `53/udp`.
pub(crate) fn port(text: &str) -> Result<(u16, Protocol), String> {
    let wrong = || format!("`{text}` is no port; write PORT or PORT/PROTOCOL, such as 53/udp");
    let (number, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((number, "udp")) => (number, Protocol::Udp),
        Some(_) => return Err(wrong()),
    };
    let number: u16 = number.parse().map_err(|_not_a_number| wrong())?;
    if number == 0 {
        return Err(wrong());
    }
    Ok((number, protocol))
}

/// `80/tcp`.
pub(crate) fn named((port, protocol): (u16, Protocol)) -> String {
    format!("{port}/{protocol}")
}

/// Ports that the image says it listens on; an image may also say nonsense.
fn exposed(container: &StoredContainer) -> Vec<(u16, Protocol)> {
    let exposed = container.config.exposed.iter();
    exposed.filter_map(|text| port(text).ok()).collect()
}

/// As docker writes it: neighbours that lead to the same number are one range; what is only exposed stands alone.
fn column(exposed: &[(u16, Protocol)], mappings: &[Mapping]) -> String {
    let mut ranges: Vec<(Option<IpAddr>, Protocol, u16, u16)> = Vec::new();
    let mut add = |address: Option<IpAddr>, protocol: Protocol, port: u16| {
        let before = port.checked_sub(1);
        let neighbour = ranges.iter_mut().find(|(at, spoken, _, last)| {
            *at == address && *spoken == protocol && Some(*last) == before
        });
        match neighbour {
            Some((.., last)) => *last = port,
            None => ranges.push((address, protocol, port, port)),
        }
    };
    let mut others = Vec::new();
    let is_published = |port: &(u16, Protocol)| {
        let mut mappings = mappings.iter();
        mappings.any(|one| (one.container, one.protocol) == *port)
    };
    let mut alone: Vec<_> = exposed.iter().filter(|one| !is_published(one)).collect();
    alone.sort_unstable();
    for (port, protocol) in alone {
        add(None, *protocol, *port);
    }
    for mapping in mappings {
        for place in mapping.places() {
            if place.port() == mapping.container {
                add(Some(place.ip()), mapping.protocol, mapping.container);
            } else {
                let to = named((mapping.container, mapping.protocol));
                others.push(format!("{place}->{to}"));
            }
        }
    }
    let range = |(address, protocol, first, last): (Option<IpAddr>, Protocol, u16, u16)| {
        let ports = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        match address {
            Some(IpAddr::V4(address)) => format!("{address}:{ports}->{ports}/{protocol}"),
            Some(IpAddr::V6(address)) => format!("[{address}]:{ports}->{ports}/{protocol}"),
            None => format!("{ports}/{protocol}"),
        }
    };
    let ranges = ranges.into_iter().map(range);
    ranges.chain(others).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host: &str, container: u16, protocol: Protocol) -> Mapping {
        Mapping {
            host: host.parse().unwrap(),
            container,
            protocol,
        }
    }

    #[test]
    fn columns_are_dockers() {
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(column(&[], &[]), "");
        assert_eq!(
            column(&[(443, tcp), (80, tcp)], &[mapping("[::]:8080", 80, tcp)]),
            "443/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        let range = [80, 81, 82].map(|port| mapping(&format!("127.0.0.1:{port}"), port, tcp));
        assert_eq!(column(&[], &range), "127.0.0.1:80-82->80-82/tcp");
        assert_eq!(
            column(&[(53, udp), (53, tcp)], &[mapping("[::1]:53", 53, udp)]),
            "53/tcp, [::1]:53->53/udp"
        );
    }

    #[test]
    fn ports_are_named_with_or_without_their_protocol() {
        assert_eq!(port("80"), Ok((80, Protocol::Tcp)));
        assert_eq!(port("80/tcp"), Ok((80, Protocol::Tcp)));
        assert_eq!(port("53/udp"), Ok((53, Protocol::Udp)));
        for text in ["", "0", "x", "80/", "80/sctp", "80-81", "65536"] {
            assert!(port(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bindings_are_what_was_asked_for() {
        let ports =
            ["127.0.0.1:8080:80", "7-8:1", "9/udp"].map(|text| Publish::parse(text).unwrap());
        let expected = json!({
            "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "8080" }],
            "1/tcp": [{ "HostIp": "", "HostPort": "7-8" }],
            "9/udp": [{ "HostIp": "", "HostPort": "" }],
        });
        assert_eq!(bindings(&ports), expected);
    }
}
