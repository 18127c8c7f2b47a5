//! Which addresses a new network has.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Networks;
use crate::error::NetworkError;
use crate::netlink::links::Links;
use crate::network::{NetworkRecord, NewNetwork, Subnet, first_host, overlap};

impl Networks {
    pub(super) fn choose_subnets(
        &self,
        new: &NewNetwork,
        random: [u8; 8],
    ) -> Result<Vec<Subnet>, NetworkError> {
        let records = self.records()?;
        let of_record = |record: &NetworkRecord| {
            let whose = format!("of the network `{}`", record.name);
            let subnets = record.subnets.clone().into_iter();
            subnets.map(move |one| (one.subnet, whose.clone()))
        };
        let mut taken: Vec<_> = records.iter().flat_map(of_record).collect();
        // The machine's, also where the bridges are somewhere else: containers are to reach it.
        let here = Links::open()?.subnets()?;
        taken.extend(here.into_iter().map(|subnet| {
            let whose = "to which this machine has a route".to_owned();
            (subnet, whose)
        }));
        let is_free = |subnet: &IpNet| !taken.iter().any(|(other, _)| overlap(subnet, other));

        let mut subnets = new.named_subnets()?;
        for one in &subnets {
            if let Some((other, what)) = taken.iter().find(|(other, _)| overlap(&one.subnet, other))
            {
                return Err(NetworkError::Overlap {
                    subnet: one.subnet,
                    other: *other,
                    what: what.clone(),
                });
            }
        }
        let has = |subnets: &[Subnet], six: bool| {
            let mut subnets = subnets.iter();
            subnets.any(|one| one.subnet.addr().is_ipv6() == six)
        };
        let chosen = |subnet: IpNet| Subnet {
            subnet,
            gateway: first_host(subnet),
            range: None,
        };
        // Only addresses of IPv6 are what somebody asked for who named only those.
        if subnets.is_empty() {
            let free = pool().find(is_free).ok_or(NetworkError::NoSubnet)?;
            subnets.push(chosen(free));
        }
        if new.ipv6 && !has(&subnets, true) {
            subnets.push(chosen(local_subnet(random)));
        }
        Ok(subnets)
    }
}

/// What kiln chooses from for IPv4: private addresses that few others choose.
fn pool() -> impl Iterator<Item = IpNet> {
    let subnet = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let address = std::net::Ipv4Addr::new(10, 90 + high, low, 0);
        IpNet::V4(Ipv4Net::new_assert(address, 24))
    };
    (0..0x400).map(subnet)
}

/// A subnet of IPv6 that nobody else has: local addresses with 40 random bits (RFC 4193).
fn local_subnet(random: [u8; 8]) -> IpNet {
    let [a, b, c, d, e, ..] = random;
    let octets = [0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    IpNet::V6(Ipv6Net::new_assert(octets.into(), 64))
}
