//! Chains and rules that the kernel has, whoever made them.

use super::attributes::{Attributes, attribute, number, text};
use super::{Family, SUBSYSTEM};
use crate::error::NetworkError;
use crate::netlink::{DUMP, Netlink, Request};

const GET_CHAIN: u16 = 4;
const GET_RULE: u16 = 7;

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

impl Netlink {
    /// All chains of a family.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn chains(&mut self, family: Family) -> Result<Vec<Chain>, NetworkError> {
        let request = Request {
            doing: "listing chains of nftables".to_owned(),
            kind: SUBSYSTEM << 8 | GET_CHAIN,
            flags: DUMP,
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
            flags: DUMP,
            body: [&[family.number(), 0, 0, 0][..], &of.0].concat(),
        };
        let told = self.ask(&request)?;
        Ok(told.iter().filter_map(|body| rule(body)).collect())
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

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(body: &[u8]) {
    drop((chain(body, Family::Inet), rule(body)));
}
