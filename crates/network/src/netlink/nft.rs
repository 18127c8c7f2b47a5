//! Messages of nf_tables, as `linux/netfilter/nf_tables.h` numbers them.
//!
//! Only what the rules of [`firewall`](crate::firewall) are made of. All of a [`Batch`] is carried out, or nothing.

use kiln_sys::Errno;

use super::{APPEND, CREATE, EXCLUSIVE, Netlink, Request};
use crate::error::NetworkError;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// `NFT_SET_MAP`.
const MAP: u32 = 8;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// What a bridge passes on.
    Bridge,
    /// IPv4 alone, as `iptables` has it.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl Family {
    /// `NFPROTO_…`.
    const fn number(self) -> u8 {
        match self {
            Self::Inet => INET,
            Self::Bridge => 7,
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }
}

/// A chain of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) table: String,
    pub(crate) name: String,
    /// Where it is asked; `None` for one that others go to.
    pub(crate) hook: Option<u32>,
    /// Whether what none of its rules decides about is thrown away.
    pub(crate) drops: bool,
}

/// A rule of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownRule {
    pub(crate) handle: u64,
    /// Its expressions as the kernel tells them.
    pub(crate) expressions: Vec<u8>,
}

/// Where and when a chain of rules is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_…` or `NF_BR_…`.
    pub(crate) number: u32,
    /// Lower ones are earlier.
    pub(crate) priority: i32,
}

/// `NF_INET_PRE_ROUTING`, and the same of bridges.
pub(crate) const PREROUTING: u32 = 0;
/// `NF_INET_LOCAL_IN`.
pub(crate) const INPUT: u32 = 1;
/// `NF_INET_FORWARD`.
pub(crate) const FORWARD: u32 = 2;
/// `NF_INET_POST_ROUTING`.
pub(crate) const POSTROUTING: u32 = 4;

/// A part of a key or value, as `nft` numbers its types; for `nft list` alone.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// An IPv4 address.
    Address4,
    /// An IPv6 address.
    Address6,
    /// A hardware address.
    Mac,
    /// `tcp` or `udp`.
    Protocol,
    /// A port.
    Port,
    /// The name of a device.
    Device,
}

impl Part {
    const fn number(self) -> u32 {
        match self {
            Self::Address4 => 7,
            Self::Address6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Device => 41,
        }
    }

    /// Bytes it takes in a register.
    const fn length(self) -> u32 {
        match self {
            Self::Address4 | Self::Protocol | Self::Port => 4,
            Self::Mac => 8,
            Self::Address6 | Self::Device => 16,
        }
    }

    /// Bytes of it alone.
    const fn bare_length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Mac => 6,
            Self::Address4 => 4,
            Self::Address6 | Self::Device => 16,
        }
    }
}

/// A set or, with values, a map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Set {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// What a key is made of.
    pub(crate) key: &'static [Part],
    /// What a value is made of; empty for a set.
    pub(crate) value: &'static [Part],
}

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

/// Changes that are made together.
#[derive(Debug)]
pub(crate) struct Batch {
    family: Family,
    table: String,
    requests: Vec<Request>,
}

impl Batch {
    /// Changes to a table, none yet.
    pub(crate) fn new(family: Family, table: &str) -> Self {
        Self {
            family,
            table: table.to_owned(),
            requests: Vec::new(),
        }
    }

    fn push(&mut self, doing: &str, kind: u16, flags: u16, attributes: Attributes) {
        let mut body = vec![self.family.number(), 0, 0, 0];
        body.extend(attributes.0);
        self.requests.push(Request {
            doing: format!("{doing} in the nftables table `{}`", self.table),
            kind: SUBSYSTEM << 8 | kind,
            flags,
            body,
        });
    }

    /// Makes the table, which must not be there.
    pub(crate) fn make_table(&mut self) {
        let attributes = Attributes::default().text(1, &self.table);
        self.push("making rules", NEW_TABLE, CREATE | EXCLUSIVE, attributes);
    }

    /// Removes the table with all that is in it.
    pub(crate) fn remove_table(&mut self) {
        let attributes = Attributes::default().text(1, &self.table);
        self.push("removing rules", DELETE_TABLE, 0, attributes);
    }

    /// Makes a set or a map.
    pub(crate) fn make_set(&mut self, set: Set, number: u32) {
        let mut attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, set.name)
            .number(3, if set.value.is_empty() { 0 } else { MAP })
            .number(4, kind(set.key))
            .number(5, length(set.key));
        if !set.value.is_empty() {
            attributes = attributes
                .number(6, kind(set.value))
                .number(7, length(set.value));
        }
        self.push(
            "making a set",
            NEW_SET,
            CREATE | EXCLUSIVE,
            attributes.number(10, number),
        );
    }

    /// Makes a chain that accepts what none of its rules decides about.
    pub(crate) fn make_chain(&mut self, name: &str, hook: Hook) {
        let place = Attributes::default()
            .number(1, hook.number)
            .number(2, hook.priority.cast_unsigned());
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(3, name)
            .nested(4, place)
            .number(5, 1)
            .text(7, hook.kind);
        self.push("making a chain", NEW_CHAIN, CREATE | EXCLUSIVE, attributes);
    }

    /// Appends a rule to a chain.
    pub(crate) fn append(&mut self, chain: &str, steps: &[Step]) {
        self.make_rule(chain, steps, APPEND);
    }

    /// Puts a rule before all others of a chain.
    pub(crate) fn put_first(&mut self, chain: &str, steps: &[Step]) {
        self.make_rule(chain, steps, 0);
    }

    fn make_rule(&mut self, chain: &str, steps: &[Step], place: u16) {
        let steps = steps.iter().flat_map(expressions);
        let expressions = steps.fold(Attributes::default(), |all, one| all.nested(1, one));
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, chain)
            .nested(4, expressions);
        self.push("making a rule", NEW_RULE, CREATE | place, attributes);
    }

    /// Removes a rule.
    pub(crate) fn remove_rule(&mut self, chain: &str, handle: u64) {
        let attributes = Attributes::default()
            .text(1, &self.table)
            .text(2, chain)
            .bytes(3, &handle.to_be_bytes());
        self.push("removing a rule", DELETE_RULE, 0, attributes);
    }

    /// Adds an element to a set, or to a map with its value. It may be there already, with the same value.
    pub(crate) fn add(&mut self, set: Set, key: &[u8], value: Option<&[u8]>) {
        let attributes = self.element(set, key, value);
        self.push("adding to a set", NEW_ELEMENT, CREATE, attributes);
    }

    /// Removes an element, which must be there.
    pub(crate) fn remove(&mut self, set: Set, key: &[u8]) {
        let attributes = self.element(set, key, None);
        self.push("removing from a set", DELETE_ELEMENT, 0, attributes);
    }

    fn element(&self, set: Set, key: &[u8], value: Option<&[u8]>) -> Attributes {
        let mut element = Attributes::default().nested(1, Attributes::default().bytes(1, key));
        if let Some(value) = value {
            element = element.nested(2, Attributes::default().bytes(1, value));
        }
        Attributes::default()
            .text(1, &self.table)
            .text(2, set.name)
            .nested(3, Attributes::default().nested(1, element))
    }

    /// Has the kernel make all the changes.
    ///
    /// # Errors
    /// The first that it refused; nothing was changed.
    pub(crate) fn commit(self, netlink: &mut Netlink) -> Result<(), NetworkError> {
        let [begin, end] = [BATCH_BEGIN, BATCH_END].map(|kind| Request {
            doing: "changing nftables".to_owned(),
            kind,
            flags: 0,
            body: [&[0, 0], &SUBSYSTEM.to_be_bytes()[..]].concat(),
        });
        netlink.carry_out_between(&begin, &self.requests, &end)
    }
}

impl Netlink {
    /// All chains of a family.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn chains(&mut self, family: Family) -> Result<Vec<Chain>, NetworkError> {
        let request = Request {
            doing: "listing chains of nftables".to_owned(),
            kind: SUBSYSTEM << 8 | GET_CHAIN,
            flags: super::DUMP,
            body: vec![family.number(), 0, 0, 0],
        };
        let told = self.ask(&request)?;
        Ok(told.iter().filter_map(|body| chain(body, family)).collect())
    }

    /// All rules of a chain, in order.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn rules(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
    ) -> Result<Vec<KnownRule>, NetworkError> {
        let of = Attributes::default().text(1, table).text(2, chain);
        let request = Request {
            doing: format!("listing rules of the nftables chain `{chain}`"),
            kind: SUBSYSTEM << 8 | GET_RULE,
            flags: super::DUMP,
            body: [&[family.number(), 0, 0, 0][..], &of.0].concat(),
        };
        let told = self.ask(&request)?;
        Ok(told.iter().filter_map(|body| rule(body)).collect())
    }

    /// As [`carry_out`](Self::carry_out), between two messages that are answered only if they are refused.
    fn carry_out_between(
        &mut self,
        begin: &Request,
        requests: &[Request],
        end: &Request,
    ) -> Result<(), NetworkError> {
        let mut bytes = Vec::new();
        self.append(begin, 0, &mut bytes);
        let first = self.sequence;
        for request in requests {
            self.append(request, super::ACKNOWLEDGE, &mut bytes);
        }
        self.append(end, 0, &mut bytes);
        self.send(&bytes, requests)?;
        self.acknowledged(first, requests)
    }
}

fn chain(body: &[u8], family: Family) -> Option<Chain> {
    let (header, rest) = body.split_at_checked(4)?;
    if header.first() != Some(&family.number()) {
        return None;
    }
    let hook = attribute(rest, 4).and_then(|hook| number(attribute(hook, 1)?));
    Some(Chain {
        table: text(attribute(rest, 1)?),
        name: text(attribute(rest, 3)?),
        hook,
        drops: attribute(rest, 5).and_then(number) == Some(0),
    })
}

fn rule(body: &[u8]) -> Option<KnownRule> {
    let (_, rest) = body.split_at_checked(4)?;
    let handle = attribute(rest, 3)?.first_chunk::<8>()?;
    Some(KnownRule {
        handle: u64::from_be_bytes(*handle),
        expressions: attribute(rest, 4).unwrap_or_default().to_vec(),
    })
}

/// The value of the first attribute of a kind.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    /// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
    const FLAGS: u16 = 3 << 14;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(0..2)?.try_into().ok()?));
        let found = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if found & !FLAGS == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    let value = value.get(..end.unwrap_or(value.len())).unwrap_or_default();
    String::from_utf8_lossy(value).into_owned()
}

/// The name of a device as a register holds it.
pub(crate) fn device(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

/// Whether the kernel knows nothing of nf_tables.
pub(crate) const fn is_unavailable(error: &NetworkError) -> bool {
    matches!(
        error,
        NetworkError::Kernel {
            errno: Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::OPNOTSUPP,
            ..
        }
    )
}

/// `nft` joins types of six bits each.
fn kind(parts: &[Part]) -> u32 {
    parts
        .iter()
        .fold(0, |number, part| number << 6 | part.number())
}

/// A single part is as long as it is, several fill registers.
fn length(parts: &[Part]) -> u32 {
    match parts {
        [part] => part.bare_length(),
        parts => parts.iter().map(|part| part.length()).sum(),
    }
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

fn expressions(step: &Step) -> Vec<Attributes> {
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

/// `struct nlattr` one after the other.
#[derive(Debug, Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("rules are short");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.attribute(kind, value)
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat())
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    fn nested(self, kind: u16, value: Self) -> Self {
        const NESTED: u16 = 1 << 15;
        self.attribute(kind | NESTED, &value.0)
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(body: &[u8]) {
    drop((chain(body, Family::Inet), rule(body)));
}
