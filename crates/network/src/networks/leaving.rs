//! Taking back what containers had that are gone.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Member, Networks, if_there_is_a_firewall};
use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::firewall::Firewall;
use crate::netlink::links::Links;
use crate::network::NetworkRecord;

/// The record of what is to be swept.
const LEFT: &str = "left";
/// So many containers that are gone are taken out of the rules together.
const MANY: usize = 64;

impl Networks {
    /// Takes back what containers had that are gone. The lock must be held.
    pub(crate) fn reap(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        let folder = self.named.folder(record.name.as_str())?;
        for container in folder.names()? {
            if !self.members.is_held(&container)? {
                let endpoint = folder.read::<Endpoint>(&container)?;
                if let Some(endpoint) = endpoint {
                    self.unplug(&endpoint)?;
                    self.set_aside(endpoint)?;
                }
                folder.remove(&container)?;
            }
        }
        self.sweep(MANY)?;
        for container in self.members.held_names()? {
            if let Some(_held) = self.members.hold(&container)? {
                self.members.remove(&container)?;
                self.members.forget(&container)?;
            }
        }
        Ok(())
    }

    /// Takes back what one container had, in all networks. The lock must be held, and the container by the caller.
    pub(crate) fn take_back(&self, container: &str) -> Result<(), NetworkError> {
        let member: Option<Member> = self.members.read(container)?;
        let is_shared = member.is_some_and(|member| member.shared);
        for name in self.named.names()? {
            let folder = self.named.folder(&name)?;
            if let Some(endpoint) = folder.read::<Endpoint>(container)? {
                if is_shared {
                    self.unplug(&endpoint)?;
                }
                self.set_aside(endpoint)?;
                folder.remove(container)?;
            }
        }
        Ok(())
    }

    /// Removes a container's cable, if it has not ended with its network: others may be in that.
    fn unplug(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        if !self.outside.exists() {
            return Ok(());
        }
        self.outside.run(|| Links::open()?.remove(&endpoint.device))
    }

    /// Takes an endpoint out of a network. Its ports lead nowhere from now on. What else the rules say of it is about a
    /// cable that there is no more, and whose name nobody gets again: that is [swept](Self::sweep) later.
    ///
    /// Whoever removes something from rules waits, when it closes its socket at the latest, until every processor has
    /// seen that: some 15 ms, for which the caller of each `kiln run --rm` would have to wait, or a process aside.
    pub(crate) fn set_aside(&self, mut endpoint: Endpoint) -> Result<(), NetworkError> {
        if !self.outside.exists() {
            return Ok(());
        }
        if !endpoint.ports.is_empty() {
            let table = self.table()?;
            self.outside.run(|| {
                let closed = Firewall::open(table).and_then(|rules| rules.close(&endpoint));
                if_there_is_a_firewall(closed)
            })?;
            endpoint.ports.clear();
        }
        let mut left = self.left()?;
        left.push(endpoint);
        Ok(self.folder.write(LEFT, &left)?)
    }

    fn left(&self) -> Result<Vec<Endpoint>, NetworkError> {
        Ok(self.folder.read(LEFT)?.unwrap_or_default())
    }

    /// Addresses that somebody had lately, whom others may still take for their owner.
    pub(crate) fn left_addresses(&self) -> Result<Vec<IpAddr>, NetworkError> {
        let left = self.left()?;
        let addresses = left.iter().flat_map(|one| &one.addresses);
        Ok(addresses.map(IpNet::addr).collect())
    }

    /// Takes what was [set aside](Self::set_aside) out of the rules, if it is at least so much. The lock must be held.
    pub(crate) fn sweep(&self, at_least: usize) -> Result<(), NetworkError> {
        let left = self.left()?;
        if left.len() < at_least || !self.outside.exists() {
            return Ok(());
        }
        let table = self.table()?;
        self.outside.run(|| {
            let dismissed = Firewall::open(table).and_then(|rules| rules.dismiss(&left));
            if_there_is_a_firewall(dismissed)
        })?;
        Ok(self.folder.remove(LEFT)?)
    }
}
