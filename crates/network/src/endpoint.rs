//! A container's place in a network.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::netlink::links::Mac;
use crate::port::Mapping;

/// What a container has in a network, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The container, by id.
    pub container: String,
    /// The container, by name.
    pub name: String,
    /// The end of its cable that is on the bridge.
    pub device: String,
    /// The device in the container.
    pub inside: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses, with the length of the network's prefix.
    pub addresses: Vec<IpNet>,
    /// Other names it has in this network.
    pub aliases: Vec<String>,
    /// Ports that this machine leads to it through this network.
    pub ports: Vec<Mapping>,
}

impl Endpoint {
    /// The address that a name stands for, of one family.
    pub(crate) fn address(&self, six: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        addresses.find(|address| address.is_ipv6() == six)
    }

    /// Where published ports lead.
    pub(crate) fn target(&self) -> Option<IpAddr> {
        self.address(false).or_else(|| self.address(true))
    }

    /// Whether `name` means this container here. Names do not tell large letters from small ones.
    pub(crate) fn is_called(&self, name: &str) -> bool {
        let mut names = [&self.name, &self.container].into_iter();
        names.any(|own| own.eq_ignore_ascii_case(name))
            || self.container.get(..SHORT_ID) == Some(name)
            || self
                .aliases
                .iter()
                .any(|own| own.eq_ignore_ascii_case(name))
    }

    /// The address that its device has on the link alone: made from the hardware address (RFC 4291, appendix A).
    pub(crate) fn link_local(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.mac;
        let octets = [
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ];
        Ipv6Addr::from(octets)
    }
}

/// Digits of an id that people use; docker's.
pub(crate) const SHORT_ID: usize = 12;
