//! What a network is: names, subnets, labels.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kiln_store::{Name, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// The network that is used where a port is published and no network is named.
pub const DEFAULT_NETWORK: &str = "bridge";

/// Names that are not those of networks with a record.
pub(crate) const BUILT_IN: [&str; 2] = ["none", "host"];

/// A network, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// 16 hex digits that no other network has.
    pub id: String,
    /// Its name.
    pub name: Name,
    /// When it was made.
    pub created: Timestamp,
    /// At least one, at most one of each family, IPv4 first.
    pub subnets: Vec<Subnet>,
    /// Whether it has no way out.
    pub internal: bool,
    /// The most bytes of a packet; that of the way out if not given.
    pub mtu: Option<u32>,
    /// Free notes, such as the project it belongs to.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// The addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// All of them.
    pub subnet: IpNet,
    /// This machine's.
    pub gateway: IpAddr,
    /// Where containers get theirs from, unless they ask; anywhere if not given.
    pub range: Option<IpNet>,
}

/// How a network is to be made.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// What to call it.
    pub name: String,
    /// Subnets with, for each, the gateway and the range of addresses, if they are to be special ones.
    pub subnets: Vec<IpNet>,
    /// This machine's addresses; each belongs to the subnet it is in.
    pub gateways: Vec<IpAddr>,
    /// Where containers get addresses from; each belongs to the subnet it is in.
    pub ranges: Vec<IpNet>,
    /// Whether containers get addresses of IPv6 too.
    pub ipv6: bool,
    /// Whether it has no way out.
    pub internal: bool,
    /// The most bytes of a packet.
    pub mtu: Option<u32>,
    /// Free notes.
    pub labels: BTreeMap<String, String>,
}

impl NetworkRecord {
    /// The device that all its containers are plugged into.
    pub(crate) fn bridge(&self) -> String {
        format!("kiln-{}", self.id.get(..8).unwrap_or(&self.id))
    }

    /// This machine's addresses in it.
    pub(crate) fn gateways(&self) -> Vec<IpNet> {
        let with_prefix = |subnet: &Subnet| IpNet::new(subnet.gateway, subnet.subnet.prefix_len());
        let gateways = self.subnets.iter().filter_map(|one| with_prefix(one).ok());
        gateways.collect()
    }

    /// Whether it has addresses of IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        let mut subnets = self.subnets.iter();
        subnets.any(|subnet| matches!(subnet.subnet, IpNet::V6(_)))
    }
}

impl NewNetwork {
    /// Gives each named subnet its gateway and range.
    ///
    /// # Errors
    /// [`NetworkError::Subnet`].
    pub(crate) fn named_subnets(&self) -> Result<Vec<Subnet>, NetworkError> {
        let wrong = |reason: String| Err(NetworkError::Subnet(reason));
        let mut subnets: Vec<Subnet> = Vec::new();
        for subnet in &self.subnets {
            let subnet = subnet.trunc();
            if subnets
                .iter()
                .any(|other| same_family(other.subnet, subnet))
            {
                return wrong(format!(
                    "`--subnet {subnet}` is the second one of its family; a network has one of each"
                ));
            }
            // Room for the network itself, the gateway, a container and the broadcast address.
            if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
                return wrong(format!("the subnet {subnet} has no room for containers"));
            }
            let gateways = self.gateways.iter().filter(|one| subnet.contains(*one));
            let ranges = self.ranges.iter().filter(|one| subnet.contains(*one));
            subnets.push(Subnet {
                subnet,
                gateway: gateways
                    .copied()
                    .next()
                    .unwrap_or_else(|| first_host(subnet)),
                range: ranges.map(IpNet::trunc).next(),
            });
        }
        let is_in_one = |address: &IpAddr| subnets.iter().any(|one| one.subnet.contains(address));
        if let Some(gateway) = self.gateways.iter().find(|gateway| !is_in_one(gateway)) {
            return wrong(format!("the gateway {gateway} is in no `--subnet`"));
        }
        if let Some(range) = self.ranges.iter().find(|range| {
            let mut subnets = subnets.iter();
            !subnets.any(|one| one.subnet.contains(*range))
        }) {
            return wrong(format!("the range {range} is in no `--subnet`"));
        }
        subnets.sort_by_key(|one| matches!(one.subnet, IpNet::V6(_)));
        Ok(subnets)
    }
}

const fn same_family(one: IpNet, other: IpNet) -> bool {
    matches!(
        (one, other),
        (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_))
    )
}

/// The address behind that of the network itself.
pub(crate) fn first_host(subnet: IpNet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    }
}

/// Whether two of the same family have an address in common.
pub(crate) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(subnets: &[&str], gateways: &[&str], ranges: &[&str]) -> Result<Vec<Subnet>, String> {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let network = NewNetwork {
            subnets: nets(subnets),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ranges: nets(ranges),
            ..NewNetwork::default()
        };
        network.named_subnets().map_err(|error| error.to_string())
    }

    #[test]
    fn gateways_and_ranges_belong_to_the_subnet_they_are_in() {
        let subnets = new(
            &["fd00:1::/64", "10.1.2.3/24"],
            &["10.1.2.254"],
            &["10.1.2.128/25"],
        );
        let [four, six] = subnets.unwrap().try_into().unwrap();
        assert_eq!(four.subnet.to_string(), "10.1.2.0/24");
        assert_eq!(four.gateway.to_string(), "10.1.2.254");
        assert_eq!(four.range.unwrap().to_string(), "10.1.2.128/25");
        assert_eq!(
            (six.gateway.to_string(), six.range),
            ("fd00:1::1".to_owned(), None)
        );
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        for (subnets, gateways, ranges, word) in [
            (
                &["10.1.0.0/24", "10.2.0.0/24"][..],
                &[][..],
                &[][..],
                "second",
            ),
            (&["10.1.0.0/31"], &[], &[], "no room"),
            (&["10.1.0.0/24"], &["10.2.0.1"], &[], "gateway"),
            (&["10.1.0.0/24"], &[], &["10.2.0.0/25"], "range"),
            (&[], &["10.2.0.1"], &[], "gateway"),
        ] {
            let error = new(subnets, gateways, ranges).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
