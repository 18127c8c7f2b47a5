//! Getting along with rules of others: docker and many firewalls have `iptables` throw away whatever is forwarded.
//!
//! ```text
//! table ip filter, chain FORWARD: policy drop          docker's and ufw's, made by iptables-nft
//!   jump DOCKER-USER                                   docker's place for rules of others; else FORWARD itself
//!     iifname "kiln-*" accept                          what this puts there
//!     oifname "kiln-*" accept
//! ```
//!
//! A packet has to please every table. So what is accepted here still has to pass kiln's own rules, which say what may
//! reach a container; and where others do not drop, nothing is put anywhere.

use crate::error::NetworkError;
use crate::netlink::Netlink;
use crate::netlink::nft::{Batch, Chain, FORWARD, Family, Load, Step};

/// How the names of all bridges of kiln begin.
pub(crate) const BRIDGES: &str = "kiln-";

/// Where `iptables` keeps what it filters.
const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
/// Docker's place for rules of others, which it asks first and does not empty.
const PLACE: &str = "DOCKER-USER";

/// Where rules are needed, and whether this may put them there.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    /// Nobody drops.
    Nothing,
    /// In this chain of `iptables`.
    In(&'static str),
    /// In a chain that its owner has to change.
    Elsewhere(String),
}

/// Has `iptables` let traffic of kiln's bridges through, in the network namespace of the calling thread. Returns what
/// the user has to do about others.
///
/// # Errors
/// What the kernel says.
pub(crate) fn let_through() -> Result<Vec<String>, NetworkError> {
    let mut netlink = Netlink::netfilter()?;
    let mut warnings = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6, Family::Inet] {
        match need(&netlink.chains(family)?, family) {
            Need::Nothing => {}
            Need::In(chain) => {
                let known = netlink.rules(family, TABLE, chain)?;
                if known.iter().filter(|rule| is_ours(&rule.expressions)).count() < 2 {
                    let mut batch = Batch::new(family, TABLE);
                    for device in [Load::OutDevice, Load::InDevice] {
                        batch.put_first(chain, &rule(device));
                    }
                    batch.commit(&mut netlink)?;
                }
            }
            Need::Elsewhere(place) => warnings.push(format!(
                "{place} drops what this machine forwards, and so what containers send; let it accept the devices \
                 `{BRIDGES}*` in both directions"
            )),
        }
    }
    Ok(warnings)
}

/// Takes the rules away again.
///
/// # Errors
/// What the kernel says.
pub(crate) fn forget() -> Result<(), NetworkError> {
    let mut netlink = Netlink::netfilter()?;
    for family in [Family::Ipv4, Family::Ipv6] {
        let chains = netlink.chains(family)?;
        for chain in [PLACE, CHAIN] {
            let is_there = |one: &Chain| one.table == TABLE && one.name == chain;
            if !chains.iter().any(is_there) {
                continue;
            }
            let known = netlink.rules(family, TABLE, chain)?;
            let ours: Vec<_> = known
                .iter()
                .filter(|rule| is_ours(&rule.expressions))
                .collect();
            if !ours.is_empty() {
                let mut batch = Batch::new(family, TABLE);
                ours.iter()
                    .for_each(|rule| batch.remove_rule(chain, rule.handle));
                batch.commit(&mut netlink)?;
            }
        }
    }
    Ok(())
}

fn need(chains: &[Chain], family: Family) -> Need {
    let mut dropping = chains
        .iter()
        .filter(|chain| chain.hook == Some(FORWARD) && chain.drops);
    let of_iptables =
        |chain: &&Chain| family != Family::Inet && chain.table == TABLE && chain.name == CHAIN;
    // One that is not iptables' is for its owner to change, whatever else there is.
    match dropping.clone().find(|chain| !of_iptables(chain)) {
        Some(chain) => {
            let family = match family {
                Family::Ipv4 => "ip",
                Family::Ipv6 => "ip6",
                Family::Inet | Family::Bridge => "inet",
            };
            Need::Elsewhere(format!(
                "the nftables chain `{family} {} {}`",
                chain.table, chain.name
            ))
        }
        None if dropping.next().is_none() => Need::Nothing,
        None => {
            let mut chains = chains.iter();
            let has_place = chains.any(|chain| chain.table == TABLE && chain.name == PLACE);
            Need::In(if has_place { PLACE } else { CHAIN })
        }
    }
}

/// As `iptables -i kiln-+ -j ACCEPT` would write it, so that `iptables` can show it.
fn rule(device: Load) -> [Step; 4] {
    [
        Step::Load(device, 0),
        Step::Equal(0, BRIDGES.as_bytes().to_vec()),
        Step::Count,
        Step::Accept,
    ]
}

/// Whether a rule compares something with the names of kiln's bridges.
fn is_ours(expressions: &[u8]) -> bool {
    let mut windows = expressions.windows(BRIDGES.len());
    windows.any(|bytes| bytes == BRIDGES.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, name: &str, hook: Option<u32>, drops: bool) -> Chain {
        Chain {
            table: table.to_owned(),
            name: name.to_owned(),
            hook,
            drops,
        }
    }

    #[test]
    fn rules_are_put_only_where_others_drop() {
        let forward = |drops| chain("filter", "FORWARD", Some(FORWARD), drops);
        let place = chain("filter", "DOCKER-USER", None, false);
        let input = chain("filter", "INPUT", Some(1), true);
        assert_eq!(need(&[], Family::Ipv4), Need::Nothing);
        let open = [forward(false), input.clone()];
        assert_eq!(need(&open, Family::Ipv4), Need::Nothing);
        assert_eq!(need(&[forward(true)], Family::Ipv4), Need::In("FORWARD"));
        let docker = [forward(true), place, input];
        assert_eq!(need(&docker, Family::Ipv6), Need::In("DOCKER-USER"));
        let own = chain("own", "pass", Some(FORWARD), true);
        let both = [forward(true), own];
        let expected = Need::Elsewhere("the nftables chain `ip own pass`".to_owned());
        assert_eq!(need(&both, Family::Ipv4), expected);
    }
}
