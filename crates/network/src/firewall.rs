//! What of a container's traffic is let through, and where published ports lead.
//!
//! One table of nf_tables for each store, made with its first bridge and removed with its last:
//!
//! ```text
//! set bridges    devices of networks                set internal   those of networks without a way out
//! set within     device . same device               map ports…     protocol . port → address . port
//!
//! prerouting     from outside to a published port of this machine: to the container
//! forward        answers; within a network; outside to a published port; nothing else into a network
//! input          nothing from an internal network
//! postrouting    out of a network: with this machine's address
//! spoofed        (of bridges) nothing from a container with another one's addresses
//! ```
//!
//! The rules never change: a container that comes or goes is a few elements in one message. What this machine itself
//! sends to a published port is not redirected; it reaches the listener of [`forward`](crate::forward).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use kiln_sys::Errno;

use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::netlink::Netlink;
use crate::netlink::nft::{
    Batch, FORWARD, Family, Hook, INPUT, Load, POSTROUTING, PREROUTING, Part, Set, Step, device,
};
use crate::port::{Mapping, Protocol};

const BRIDGES: Set = set("bridges", &[Part::Device]);
const INTERNAL: Set = set("internal", &[Part::Device]);
const WITHIN: Set = set("within", &[Part::Device, Part::Device]);
const PORTS4: Set = Set {
    name: "ports4",
    key: &[Part::Protocol, Part::Port],
    value: &[Part::Address4, Part::Port],
};
const PORTS6: Set = Set {
    name: "ports6",
    key: &[Part::Protocol, Part::Port],
    value: &[Part::Address6, Part::Port],
};
const PORTS4_AT: Set = Set {
    name: "ports4at",
    key: &[Part::Address4, Part::Protocol, Part::Port],
    value: &[Part::Address4, Part::Port],
};
const PORTS6_AT: Set = Set {
    name: "ports6at",
    key: &[Part::Address6, Part::Protocol, Part::Port],
    value: &[Part::Address6, Part::Port],
};
const SETS: [Set; 7] = [
    BRIDGES, INTERNAL, WITHIN, PORTS4, PORTS6, PORTS4_AT, PORTS6_AT,
];

/// Ends of cables, and the hardware addresses behind them.
const CABLES: Set = set("cables", &[Part::Device]);
const OWNERS: Set = set("owners", &[Part::Device, Part::Mac]);
const OWNERS4: Set = set("owners4", &[Part::Device, Part::Address4]);
const OWNERS6: Set = set("owners6", &[Part::Device, Part::Address6]);
const BRIDGE_SETS: [Set; 4] = [CABLES, OWNERS, OWNERS4, OWNERS6];

const fn set(name: &'static str, key: &'static [Part]) -> Set {
    Set {
        name,
        key,
        value: &[],
    }
}

/// `NF_CT_STATE_BIT` of established and related.
const KNOWN: u32 = 2 | 4;
/// `IPS_DST_NAT`.
const REDIRECTED: u32 = 1 << 5;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// The two tables of a store.
#[derive(Debug)]
pub(crate) struct Firewall {
    netlink: Netlink,
    table: String,
}

/// What a network's device may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BridgeRules<'a> {
    /// The device.
    pub(crate) bridge: &'a str,
    /// It has no way out.
    pub(crate) internal: bool,
}

impl Firewall {
    /// Of the network namespace that the calling thread is in.
    pub(crate) fn open(table: String) -> Result<Self, NetworkError> {
        let netlink = Netlink::netfilter()?;
        Ok(Self { netlink, table })
    }

    /// Lets a container's traffic through, and leads its published ports to it.
    ///
    /// # Errors
    /// What the kernel refused; nothing was changed.
    pub(crate) fn admit(
        &mut self,
        rules: BridgeRules<'_>,
        endpoint: &Endpoint,
    ) -> Result<(), NetworkError> {
        self.change(Family::Inet, add_base, |batch| {
            add_bridge(batch, rules);
            for mapping in &endpoint.ports {
                for (set, key, value) in elements(mapping, endpoint) {
                    batch.add(set, &key, Some(&value));
                }
            }
        })?;
        self.change(Family::Bridge, add_bridge_base, |batch| {
            for (set, key) in owners(endpoint) {
                batch.add(set, &key, None);
            }
        })
    }

    /// Leads a container's published ports nowhere any more. Some may be gone already.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn close(mut self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let ports = endpoint.ports.iter();
        let elements = ports.flat_map(|mapping| elements(mapping, endpoint));
        let elements: Vec<_> = elements.map(|(set, key, _)| vec![(set, key)]).collect();
        self.remove_all(Family::Inet, &elements)?;
        self.netlink.close_aside();
        Ok(())
    }

    /// Takes back what [`admit`](Self::admit) did for containers, but for their ports. Some may be gone already.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn dismiss(mut self, endpoints: &[Endpoint]) -> Result<(), NetworkError> {
        let owners: Vec<_> = endpoints.iter().map(owners).collect();
        self.remove_all(Family::Bridge, &owners)?;
        self.netlink.close_aside();
        Ok(())
    }

    /// Removes groups of elements, each of which may be gone already.
    fn remove_all(
        &mut self,
        family: Family,
        groups: &[Vec<(Set, Vec<u8>)>],
    ) -> Result<(), NetworkError> {
        let together = self.remove_together(family, groups);
        if !matches!(&together, Err(NetworkError::Kernel { errno, .. }) if *errno == Errno::NOENT) {
            return together;
        }
        // With one of them missing none was removed.
        for group in groups {
            missing_is_fine(self.remove_together(family, std::slice::from_ref(group)))?;
        }
        Ok(())
    }

    fn remove_together(
        &mut self,
        family: Family,
        groups: &[Vec<(Set, Vec<u8>)>],
    ) -> Result<(), NetworkError> {
        let mut batch = Batch::new(family, &self.table);
        for (set, key) in groups.iter().flatten() {
            batch.remove(*set, key);
        }
        batch.commit(&mut self.netlink)
    }

    /// Takes a network's device out of the rules. It may be gone already.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn forget(&mut self, rules: BridgeRules<'_>) -> Result<(), NetworkError> {
        let mut batch = Batch::new(Family::Inet, &self.table);
        let name = device(rules.bridge);
        batch.remove(BRIDGES, &name);
        batch.remove(WITHIN, &[&*name, &*name].concat());
        if rules.internal {
            batch.remove(INTERNAL, &name);
        }
        missing_is_fine(batch.commit(&mut self.netlink))
    }

    /// Removes all rules. They may be gone already.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn remove(&mut self) -> Result<(), NetworkError> {
        for family in [Family::Inet, Family::Bridge] {
            let mut batch = Batch::new(family, &self.table);
            batch.remove_table();
            missing_is_fine(batch.commit(&mut self.netlink))?;
        }
        Ok(())
    }

    /// Makes changes; where the table is missing, makes it first.
    fn change(
        &mut self,
        family: Family,
        base: fn(&mut Batch),
        changes: impl Fn(&mut Batch),
    ) -> Result<(), NetworkError> {
        let mut batch = Batch::new(family, &self.table);
        changes(&mut batch);
        match batch.commit(&mut self.netlink) {
            Err(NetworkError::Kernel {
                errno: Errno::NOENT,
                ..
            }) => {}
            committed => return committed,
        }
        let mut batch = Batch::new(family, &self.table);
        base(&mut batch);
        changes(&mut batch);
        batch.commit(&mut self.netlink)
    }
}

fn missing_is_fine(committed: Result<(), NetworkError>) -> Result<(), NetworkError> {
    match committed {
        Err(NetworkError::Kernel {
            errno: Errno::NOENT,
            ..
        }) => Ok(()),
        committed => committed,
    }
}

fn add_bridge(batch: &mut Batch, rules: BridgeRules<'_>) {
    let name = device(rules.bridge);
    batch.add(BRIDGES, &name, None);
    batch.add(WITHIN, &[&*name, &*name].concat(), None);
    if rules.internal {
        batch.add(INTERNAL, &name, None);
    }
}

/// Sets, chains and rules of an empty table.
fn add_base(batch: &mut Batch) {
    batch.make_table();
    for (set, number) in SETS.into_iter().zip(1..) {
        batch.make_set(set, number);
    }
    let chains = [
        ("prerouting", "nat", PREROUTING, -100),
        ("input", "filter", INPUT, 0),
        ("forward", "filter", FORWARD, 0),
        ("postrouting", "nat", POSTROUTING, 100),
    ];
    for (name, kind, number, priority) in chains {
        let hook = Hook {
            kind,
            number,
            priority,
        };
        batch.make_chain(name, hook);
    }
    for six in [false, true] {
        for at in [true, false] {
            batch.append("prerouting", &to_a_port(six, at));
        }
    }
    let answers = [
        Step::Load(Load::ConnectionState, 0),
        Step::AnyBit(0, KNOWN),
        Step::Accept,
    ];
    batch.append("input", &answers);
    let from_internal = [
        Step::Load(Load::InDevice, 0),
        Step::In(INTERNAL, 0),
        Step::Drop,
    ];
    batch.append("input", &from_internal);

    batch.append("forward", &answers);
    batch.append(
        "forward",
        &[
            Step::Load(Load::InDevice, 0),
            Step::Load(Load::OutDevice, 4),
            Step::In(WITHIN, 0),
            Step::Accept,
        ],
    );
    let out_of_internal = [
        Step::Load(Load::InDevice, 0),
        Step::In(INTERNAL, 0),
        Step::Reject,
    ];
    batch.append("forward", &out_of_internal);
    let to = |set| [Step::Load(Load::OutDevice, 0), Step::In(set, 0)];
    batch.append("forward", &[&to(INTERNAL)[..], &[Step::Reject]].concat());
    let published = [
        Step::Load(Load::ConnectionStatus, 0),
        Step::AnyBit(0, REDIRECTED),
        Step::Accept,
    ];
    batch.append("forward", &[&to(BRIDGES)[..], &published].concat());
    batch.append("forward", &[&to(BRIDGES)[..], &[Step::Reject]].concat());

    batch.append(
        "postrouting",
        &[
            Step::Load(Load::InDevice, 0),
            Step::In(BRIDGES, 0),
            Step::Load(Load::OutDevice, 0),
            Step::NotIn(BRIDGES, 0),
            Step::Masquerade,
        ],
    );
}

/// Sends what comes from outside to the container that a port belongs to; `at`: a port of one address.
fn to_a_port(six: bool, at: bool) -> Vec<Step> {
    let (protocol, destination, width) = if six {
        (IPV6, Load::Network(24, 16), 4)
    } else {
        (IPV4, Load::Network(16, 4), 1)
    };
    let map = match (six, at) {
        (false, false) => PORTS4,
        (true, false) => PORTS6,
        (false, true) => PORTS4_AT,
        (true, true) => PORTS6_AT,
    };
    let mut steps = vec![
        Step::Load(Load::InDevice, 0),
        Step::NotIn(BRIDGES, 0),
        Step::Load(Load::NetworkProtocol, 0),
        Step::Equal(0, vec![protocol]),
        Step::Load(Load::DestinationKind, 0),
        Step::Equal(0, LOCAL.to_ne_bytes().to_vec()),
    ];
    let mut next = 0;
    if at {
        steps.push(Step::Load(destination, 0));
        next = width;
    }
    steps.extend([
        Step::Load(Load::TransportProtocol, next),
        // Both protocols have the destination there.
        Step::Load(Load::Transport(2, 2), next + 1),
        Step::Map(map, 0, 8),
        Step::Redirect {
            six,
            address: 8,
            port: 8 + width,
        },
    ]);
    steps
}

/// Sets, chain and rules of an empty table of bridges.
fn add_bridge_base(batch: &mut Batch) {
    batch.make_table();
    for (set, number) in BRIDGE_SETS.into_iter().zip(1..) {
        batch.make_set(set, number);
    }
    let hook = Hook {
        kind: "filter",
        number: PREROUTING,
        priority: -300,
    };
    batch.make_chain("spoofed", hook);
    let of_a_container = [Step::Load(Load::InDevice, 0), Step::In(CABLES, 0)];
    let ether = |number: u16| number.to_be_bytes().to_vec();
    let mut refuse = |steps: Vec<Step>| {
        batch.append(
            "spoofed",
            &[&of_a_container[..], &steps, &[Step::Drop]].concat(),
        );
    };
    let known = [ETHER_IPV4, ETHER_ARP, ETHER_IPV6];
    let others = known.map(|number| Step::Unequal(8, ether(number)));
    refuse([vec![Step::Load(Load::EtherType, 8)], others.to_vec()].concat());
    refuse(vec![
        Step::Load(Load::Ethernet(6, 6), 4),
        Step::NotIn(OWNERS, 0),
    ]);
    for (number, sender, owners) in [
        (ETHER_IPV4, Load::Network(12, 4), OWNERS4),
        (ETHER_ARP, Load::Network(14, 4), OWNERS4),
        (ETHER_IPV6, Load::Network(8, 16), OWNERS6),
    ] {
        refuse(vec![
            Step::Load(Load::EtherType, 8),
            Step::Equal(8, ether(number)),
            Step::Load(sender, 4),
            Step::NotIn(owners, 0),
        ]);
    }
}

/// What a container's end of the cable may say that it is.
fn owners(endpoint: &Endpoint) -> Vec<(Set, Vec<u8>)> {
    let cable = device(&endpoint.device);
    let of = |bytes: &[u8]| [&*cable, bytes].concat();
    let mut mac = endpoint.mac.to_vec();
    mac.resize(8, 0);
    let mut owners = vec![(CABLES, cable.clone()), (OWNERS, of(&mac))];
    for address in &endpoint.addresses {
        match address.addr() {
            IpAddr::V4(address) => owners.push((OWNERS4, of(&address.octets()))),
            IpAddr::V6(address) => {
                // It asks for its neighbours with the address of the link, and whether that is free with none.
                let link = endpoint.link_local();
                let six = [address, link, Ipv6Addr::UNSPECIFIED];
                owners.extend(six.map(|address| (OWNERS6, of(&address.octets()))));
            }
        }
    }
    owners
}

/// The elements of the maps for one published port: key and value.
fn elements(mapping: &Mapping, endpoint: &Endpoint) -> Vec<(Set, Vec<u8>, Vec<u8>)> {
    let protocol = match mapping.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    };
    let port = |number: u16| {
        let [high, low] = number.to_be_bytes();
        [high, low, 0, 0]
    };
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let host = mapping.host;
    // Nothing from outside is for loopback.
    let from_outside = !host.ip().is_loopback();
    let any = host.ip().is_unspecified();
    let addresses = endpoint.addresses.iter().map(IpNet::addr);
    // One listener for both families is written as the one of IPv6.
    let served = |address: &IpAddr| address.is_ipv4() == host.is_ipv4() || any && host.is_ipv6();
    let addresses = addresses.filter(|address| from_outside && served(address));
    addresses
        .map(|address| {
            let mut key = if any { Vec::new() } else { octets(host.ip()) };
            key.extend([protocol, 0, 0, 0]);
            key.extend(port(host.port()));
            let value = [&*octets(address), &port(mapping.container)].concat();
            let set = match (address, any) {
                (IpAddr::V4(_), true) => PORTS4,
                (IpAddr::V6(_), true) => PORTS6,
                (IpAddr::V4(_), false) => PORTS4_AT,
                (IpAddr::V6(_), false) => PORTS6_AT,
            };
            (set, key, value)
        })
        .collect()
}

const ETHER_IPV4: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;
