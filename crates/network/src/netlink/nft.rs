//! Messages of nf_tables, as `linux/netfilter/nf_tables.h` numbers them.
//!
//! Only what the rules of [`firewall`](crate::firewall) are made of. All of a [`Batch`] is carried out, or nothing.

mod attributes;
mod batch;
mod known;
mod set;
mod step;

use kiln_sys::Errno;

use crate::error::NetworkError;

pub(crate) use batch::{Batch, FORWARD, Hook, INPUT, POSTROUTING, PREROUTING};
pub(crate) use known::Chain;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use known::examine;
pub(crate) use set::{Part, Set};
pub(crate) use step::{Load, Step, device};

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;

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
