//! The device that all containers of a network are plugged into.

use crate::address::mac;
use crate::error::{NetworkError, best_effort};
use crate::netlink::links::{LinkIndex, Links};
use crate::network::NetworkRecord;
use crate::networks::random;
use crate::outside::{forward_packets, set};

/// The most bytes of a packet where nothing says otherwise: ethernet's.
const USUAL_MTU: u32 = 1500;

/// A bridge that is there and up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bridge {
    pub(crate) index: LinkIndex,
    pub(crate) mtu: u32,
}

impl Bridge {
    /// Finds a network's bridge, or makes it, in the network namespace that the calling thread is in.
    ///
    /// Nobody else may do so at the same time.
    pub(crate) fn ensure(
        links: &mut Links,
        record: &NetworkRecord,
        warnings: &mut Vec<String>,
    ) -> Result<Self, NetworkError> {
        let name = record.bridge();
        if let Some(index) = links.find(&name)? {
            let mtu = links.mtu(index)?.unwrap_or(USUAL_MTU);
            return Ok(Self { index, mtu });
        }
        let mtu = match record.mtu {
            Some(mtu) => mtu,
            None => links
                .uplink()?
                .map(|uplink| links.mtu(uplink))
                .transpose()?
                .flatten()
                .map_or(USUAL_MTU, |mtu| mtu.min(USUAL_MTU)),
        };
        let made = Self::make(links, record, &name, mtu, warnings);
        if made.is_err() {
            best_effort("removing a half-made bridge", links.remove(&name));
        }
        made
    }

    fn make(
        links: &mut Links,
        record: &NetworkRecord,
        name: &str,
        mtu: u32,
        warnings: &mut Vec<String>,
    ) -> Result<Self, NetworkError> {
        let index = links.make_bridge(name, mac(&[], random()?), mtu)?;
        // Even an address that the kernel gives by itself would be a way to this machine.
        let six = if record.has_ipv6() { "0" } else { "1" };
        let off = set(&format!("ipv6/conf/{name}/disable_ipv6"), six);
        best_effort("setting what a bridge does about IPv6", off);
        if record.has_ipv6() {
            let deaf = set(&format!("ipv6/conf/{name}/accept_ra"), "0");
            best_effort("keeping containers from setting routes", deaf);
        }
        links.configure(index, &record.gateways(), &[])?;
        if !record.internal
            && let Err(reason) = forward_packets(record.has_ipv6())
        {
            warnings.push(format!(
                "containers of the network `{}` cannot reach beyond this machine: {reason}",
                record.name
            ));
        }
        Ok(Self { index, mtu })
    }
}
