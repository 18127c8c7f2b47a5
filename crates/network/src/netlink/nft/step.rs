//! What a rule is made of, and how the kernel is told of it.

use super::attributes::Attributes;
use super::set::Set;

/// What of a packet is looked at, and where it goes: a register of four bytes, from 0 to 15.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// The device it came in by.
    InDevice,
    /// The device it leaves by.
    OutDevice,
    /// 2 for IPv4, 10 for IPv6.
    NetworkProtocol,
    /// 6 for TCP, 17 for UDP.
    TransportProtocol,
    /// The ethernet protocol.
    EtherType,
    /// What the kernel knows of the connection.
    ConnectionState,
    /// What was done to the connection.
    ConnectionStatus,
    /// What the destination is to this machine.
    DestinationKind,
    /// Bytes of the ethernet header.
    Ethernet(u32, u32),
    /// Bytes of the IP header.
    Network(u32, u32),
    /// Bytes behind that.
    Transport(u32, u32),
}

/// One step of a rule.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Puts something into a register.
    Load(Load, u32),
    /// Goes on if the register has this value.
    Equal(u32, Vec<u8>),
    /// Goes on if the register has another value.
    Unequal(u32, Vec<u8>),
    /// Goes on if one of these bits is set.
    AnyBit(u32, u32),
    /// Goes on if the set has the key that begins in this register.
    In(Set, u32),
    /// Goes on if it does not.
    NotIn(Set, u32),
    /// Goes on if the map has the key that begins in the first register; the value goes into the second.
    Map(Set, u32, u32),
    /// Sends the connection to an address and port in these registers.
    Redirect {
        /// The address is of IPv6.
        six: bool,
        /// Register of the address.
        address: u32,
        /// Register of the port.
        port: u32,
    },
    /// Gives the connection the address of this machine.
    Masquerade,
    /// Counts what gets here, as rules of `iptables` do.
    Count,
    /// Lets it pass.
    Accept,
    /// Throws it away.
    Drop,
    /// Throws it away, and tells its sender that it is not wanted.
    Reject,
}

/// The name of a device as a register holds it.
pub(crate) fn device(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// `NFT_REG32_00` and on.
const fn register(number: u32) -> u32 {
    8 + number
}

fn expression(name: &str, data: Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

fn load(what: Load, to: u32) -> Attributes {
    let to = register(to);
    let meta = |key| expression("meta", Attributes::default().number(1, to).number(2, key));
    let connection = |key| expression("ct", Attributes::default().number(1, to).number(2, key));
    let payload = |base, offset, length| {
        let data = Attributes::default()
            .number(1, to)
            .number(2, base)
            .number(3, offset)
            .number(4, length);
        expression("payload", data)
    };
    match what {
        Load::EtherType => meta(1),
        Load::InDevice => meta(6),
        Load::OutDevice => meta(7),
        Load::NetworkProtocol => meta(15),
        Load::TransportProtocol => meta(16),
        Load::ConnectionState => connection(0),
        Load::ConnectionStatus => connection(2),
        // `NFT_FIB_RESULT_ADDRTYPE` of `NFTA_FIB_F_DADDR`.
        Load::DestinationKind => {
            let data = Attributes::default()
                .number(1, to)
                .number(2, 3)
                .number(3, 2);
            expression("fib", data)
        }
        Load::Ethernet(offset, length) => payload(0, offset, length),
        Load::Network(offset, length) => payload(1, offset, length),
        Load::Transport(offset, length) => payload(2, offset, length),
    }
}

fn compare(from: u32, operator: u32, value: &[u8]) -> Attributes {
    let data = Attributes::default()
        .number(1, register(from))
        .number(2, operator)
        .nested(3, Attributes::default().bytes(1, value));
    expression("cmp", data)
}

fn lookup(set: Set, from: u32) -> Attributes {
    Attributes::default()
        .text(1, set.name)
        .number(2, register(from))
}

fn verdict(code: u32) -> Attributes {
    let verdict = Attributes::default().nested(2, Attributes::default().number(1, code));
    let data = Attributes::default().number(1, 0).nested(2, verdict);
    expression("immediate", data)
}

pub(super) fn expressions(step: &Step) -> Vec<Attributes> {
    vec![match step {
        Step::Load(what, to) => load(*what, *to),
        Step::Equal(from, value) => compare(*from, 0, value),
        Step::Unequal(from, value) => compare(*from, 1, value),
        Step::AnyBit(from, bits) => {
            let bytes = |number: u32| Attributes::default().bytes(1, &number.to_ne_bytes());
            let data = Attributes::default()
                .number(1, register(*from))
                .number(2, register(*from))
                .number(3, 4)
                .nested(4, bytes(*bits))
                .nested(5, bytes(0));
            let none = compare(*from, 1, &0_u32.to_ne_bytes());
            return vec![expression("bitwise", data), none];
        }
        Step::In(set, from) => expression("lookup", lookup(*set, *from)),
        Step::NotIn(set, from) => expression("lookup", lookup(*set, *from).number(5, 1)),
        Step::Map(set, from, to) => {
            expression("lookup", lookup(*set, *from).number(3, register(*to)))
        }
        Step::Redirect { six, address, port } => {
            let data = Attributes::default()
                .number(1, 1)
                .number(2, if *six { 10 } else { 2 })
                .number(3, register(*address))
                .number(5, register(*port));
            expression("nat", data)
        }
        Step::Masquerade => expression("masq", Attributes::default()),
        Step::Count => expression("counter", Attributes::default()),
        Step::Accept => verdict(1),
        Step::Drop => verdict(0),
        // `NFT_REJECT_ICMPX_UNREACH` with `NFT_REJECT_ICMPX_ADMIN_PROHIBITED`.
        Step::Reject => {
            let data = Attributes::default().number(1, 2).bytes(2, &[3]);
            expression("reject", data)
        }
    }]
}
