//! Changes to a table that are made together, or not at all.

use super::attributes::Attributes;
use super::set::{Set, kind, length};
use super::step::{Step, expressions};
use super::{Family, SUBSYSTEM};
use crate::error::NetworkError;
use crate::netlink::{ACKNOWLEDGE, APPEND, CREATE, EXCLUSIVE, Netlink, Request};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// `NFT_SET_MAP`.
const MAP: u32 = 8;

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
            self.append(request, ACKNOWLEDGE, &mut bytes);
        }
        self.append(end, 0, &mut bytes);
        self.send(&bytes, requests)?;
        self.acknowledged(first, requests)
    }
}
