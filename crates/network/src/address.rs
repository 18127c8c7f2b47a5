//! Which addresses a container gets.

use std::net::IpAddr;

use ipnet::{IpAddrRange, IpNet, Ipv4AddrRange, Ipv6AddrRange};
use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::netlink::links::Mac;
use crate::network::Subnet;
use crate::networks::Network;

/// The most addresses that are looked at for a free one: a network has no more devices than a bridge has ports.
const LOOKED_AT: usize = 4096;

/// Addresses that a container asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Asked {
    /// Of IPv4.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// Of IPv6.
    pub ipv6: Option<std::net::Ipv6Addr>,
}

/// Chooses one address of each subnet that nobody has, and nobody had lately, as long as there are others.
pub(crate) fn choose(
    network: &Network,
    asked: Asked,
    lately: &[IpAddr],
) -> Result<Vec<IpNet>, NetworkError> {
    let four = asked.ipv4.map(IpAddr::from);
    let six = asked.ipv6.map(IpAddr::from);
    for address in [four, six].into_iter().flatten() {
        check(network, address)?;
    }
    let chosen = network.record.subnets.iter().map(|subnet| {
        let asked = [four, six].into_iter().flatten();
        let mut asked = asked.filter(|address| subnet.subnet.contains(address));
        let address = asked
            .next()
            .or_else(|| free(network, subnet, lately))
            .or_else(|| free(network, subnet, &[]));
        let full = || NetworkError::Full {
            network: network.record.name.to_string(),
            subnet: subnet.range.unwrap_or(subnet.subnet),
        };
        let address = address.ok_or_else(full)?;
        Ok(IpNet::new(address, subnet.subnet.prefix_len()).unwrap_or(subnet.subnet))
    });
    chosen.collect()
}

fn check(network: &Network, address: IpAddr) -> Result<(), NetworkError> {
    let refuse = |reason: String| NetworkError::Address {
        address,
        network: network.record.name.to_string(),
        reason,
    };
    let subnets = &network.record.subnets;
    let Some(subnet) = subnets.iter().find(|one| one.subnet.contains(&address)) else {
        let all: Vec<String> = subnets.iter().map(|one| one.subnet.to_string()).collect();
        return Err(refuse(format!("it is not in {}", all.join(" or "))));
    };
    if is_reserved(subnet, address) {
        return Err(refuse("it is not one for containers".to_owned()));
    }
    match holder(network, address) {
        Some(holder) => Err(refuse(format!("`{}` has it", holder.name))),
        None => Ok(()),
    }
}

/// The network's own, the gateway's and the broadcast address.
fn is_reserved(subnet: &Subnet, address: IpAddr) -> bool {
    address == subnet.gateway
        || address == subnet.subnet.network()
        || (address.is_ipv4() && address == subnet.subnet.broadcast())
}

fn holder(network: &Network, address: IpAddr) -> Option<&Endpoint> {
    let mut endpoints = network.endpoints.values();
    endpoints.find(|one| one.addresses.iter().any(|own| own.addr() == address))
}

fn free(network: &Network, subnet: &Subnet, lately: &[IpAddr]) -> Option<IpAddr> {
    let range = subnet.range.unwrap_or(subnet.subnet);
    all(range).take(LOOKED_AT).find(|address| {
        !is_reserved(subnet, *address)
            && !lately.contains(address)
            && holder(network, *address).is_none()
    })
}

/// Every address, unlike [`IpNet::hosts`]: the first one of a range within a subnet is as good as the others.
fn all(range: IpNet) -> IpAddrRange {
    match range {
        IpNet::V4(range) => Ipv4AddrRange::new(range.network(), range.broadcast()).into(),
        IpNet::V6(range) => Ipv6AddrRange::new(range.network(), range.broadcast()).into(),
    }
}

/// A hardware address that goes with the address, so that neighbours who remember it are right when another
/// container has it.
pub(crate) fn mac(addresses: &[IpNet], random: [u8; 8]) -> Mac {
    let [a, b, c, d, e, ..] = random;
    // Bit 1 of the first byte: given by whoever runs the network.
    match addresses.first().map(IpNet::addr) {
        Some(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            [0x02, 0x6b, a, b, c, d]
        }
        Some(IpAddr::V6(_)) | None => [0x06, a, b, c, d, e],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kiln_store::{Name, Timestamp};

    use super::*;
    use crate::network::NetworkRecord;

    fn network(range: Option<&str>) -> Network {
        let subnet = |subnet: &str, gateway: &str, range: Option<&str>| Subnet {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            range: range.map(|range| range.parse().unwrap()),
        };
        Network {
            record: NetworkRecord {
                id: "00".to_owned(),
                name: Name::new("n").unwrap(),
                created: Timestamp::from_seconds(0),
                subnets: vec![
                    subnet("10.1.0.0/29", "10.1.0.1", range),
                    subnet("fd00::/64", "fd00::1", None),
                ],
                internal: false,
                mtu: None,
                labels: BTreeMap::new(),
            },
            endpoints: BTreeMap::new(),
        }
    }

    fn add(network: &mut Network, asked: Asked) -> Result<Vec<String>, String> {
        let addresses = choose(network, asked, &[]).map_err(|error| error.to_string())?;
        let shown = addresses.iter().map(ToString::to_string).collect();
        let name = format!("c{}", network.endpoints.len());
        let endpoint = Endpoint {
            container: name.clone(),
            name: name.clone(),
            device: String::new(),
            inside: String::new(),
            mac: mac(&addresses, [0; 8]),
            addresses,
            aliases: Vec::new(),
            ports: Vec::new(),
        };
        network.endpoints.insert(name, endpoint);
        Ok(shown)
    }

    #[test]
    fn free_addresses_are_given_until_there_are_none() {
        let mut all = network(None);
        let first = add(&mut all, Asked::default()).unwrap();
        assert_eq!(first, ["10.1.0.2/29", "fd00::2/64"]);
        for _ in 3..7 {
            add(&mut all, Asked::default()).unwrap();
        }
        let error = add(&mut all, Asked::default()).unwrap_err();
        assert!(error.contains("no free address in 10.1.0.0/29"), "{error}");
        let mut ranged = network(Some("10.1.0.4/30"));
        let first = add(&mut ranged, Asked::default()).unwrap();
        assert_eq!(first[0], "10.1.0.4/29");
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_or_refused_with_a_reason() {
        let mut all = network(None);
        let ask = |address: &str| Asked {
            ipv4: Some(address.parse().unwrap()),
            ipv6: None,
        };
        assert_eq!(add(&mut all, ask("10.1.0.5")).unwrap()[0], "10.1.0.5/29");
        for (address, reason) in [
            ("10.1.0.5", "`c0` has it"),
            ("10.1.0.1", "not one for containers"),
            ("10.1.0.7", "not one for containers"),
            ("10.2.0.1", "not in 10.1.0.0/29 or fd00::/64"),
        ] {
            let error = add(&mut all, ask(address)).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
