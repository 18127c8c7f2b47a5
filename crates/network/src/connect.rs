//! Connecting a running container to another network, and taking it out of one.

use std::fs::File;
use std::os::fd::OwnedFd;

use kiln_store::Timestamp;
use kiln_sys::network::NetworkNamespace;

use crate::attachment::Membership;
use crate::endpoint::Endpoint;
use crate::error::{NetworkError, best_effort};
use crate::netlink::links::Links;
use crate::networks::{Member, Networks};

impl Networks {
    /// Connects a running container to one more network. Returns what does not work as it should.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing has changed.
    pub fn connect(
        &self,
        container: &str,
        membership: &Membership,
        now: Timestamp,
    ) -> Result<Vec<String>, NetworkError> {
        let (member, namespace) = self.running(container)?;
        let mut links = inside(&namespace)?;
        let (record, endpoint) = {
            let _lock = self.lock()?;
            let name = free_device(&mut links)?;
            let (record, endpoint) = self.reserve(&member, membership, name, now)?;
            self.endpoints_folder(&record)?
                .write(&member.container, &endpoint)?;
            (record, endpoint)
        };
        // The way out that it has stays the way out.
        let leads_out = [links.uplink()?.is_none(); 2];
        let plugged = self.plug_in(&record, &endpoint, &namespace, &mut links, leads_out);
        if plugged.is_err() {
            best_effort(
                "taking back an address",
                self.withdraw(endpoint, record.name.as_str()),
            );
        }
        plugged
    }

    /// Takes a running container out of a network.
    ///
    /// # Errors
    /// It is not in there, or the kernel refuses.
    pub fn disconnect(
        &self,
        network: &str,
        container: &str,
        now: Timestamp,
    ) -> Result<(), NetworkError> {
        let (member, namespace) = self.running(container)?;
        let network = self.find(network, now)?;
        let endpoint = network.endpoints.get(&member.container);
        let endpoint = endpoint.ok_or_else(|| NetworkError::NotConnected {
            container: member.name.clone(),
            network: network.record.name.to_string(),
        })?;
        self.outside
            .run(|| Links::open()?.remove(&endpoint.device))?;
        self.withdraw(endpoint.clone(), network.record.name.as_str())?;
        self.find_way_out(&member, &namespace)
    }

    fn withdraw(&self, endpoint: Endpoint, network: &str) -> Result<(), NetworkError> {
        let _lock = self.lock()?;
        let folder = self.named.folder(network)?;
        folder.remove(&endpoint.container)?;
        self.set_aside(endpoint)
    }

    /// Leads a container out through another network if it had only the one that it left.
    fn find_way_out(
        &self,
        member: &Member,
        namespace: &NetworkNamespace,
    ) -> Result<(), NetworkError> {
        let mut links = inside(namespace)?;
        if links.uplink()?.is_some() {
            return Ok(());
        }
        for network in self.of(&member.container)? {
            let Some(endpoint) = network.endpoints.get(&member.container) else {
                continue;
            };
            if !network.record.internal
                && let Some(device) = links.find(&endpoint.inside)?
            {
                let subnets = network.record.subnets.iter();
                let gateways: Vec<_> = subnets.map(|subnet| subnet.gateway).collect();
                return links.configure(device, &[], &gateways);
            }
        }
        Ok(())
    }

    /// Finds a running container by name or by the beginning of its id, and its network namespace.
    fn running(&self, container: &str) -> Result<(Member, NetworkNamespace), NetworkError> {
        let missing = || NetworkError::NoContainer(container.to_owned());
        let mut found = Vec::new();
        for id in self.members.names()? {
            if self.members.is_held(&id)?
                && let Some(member) = self.members.read::<Member>(&id)?
                && (member.name == container || id.starts_with(container))
            {
                found.push(member);
            }
        }
        let [member] = <[Member; 1]>::try_from(found).map_err(|_none_or_several| missing())?;
        let process = member.process.ok_or_else(missing)?;
        let path = format!("/proc/{process}/ns/net");
        let file = File::open(&path).map_err(|source| NetworkError::Io {
            doing: "open",
            path: path.into(),
            source,
        })?;
        let namespace = NetworkNamespace::from(OwnedFd::from(file));
        // The number may be another process' by now.
        if namespace.number() != Ok(member.namespace) {
            return Err(missing());
        }
        Ok((member, namespace))
    }
}

fn inside(namespace: &NetworkNamespace) -> Result<Links, NetworkError> {
    namespace
        .run(Links::open)
        .map_err(|errno| NetworkError::kernel("entering a container's network", errno))?
}

fn free_device(links: &mut Links) -> Result<String, NetworkError> {
    for number in 0_u32.. {
        let name = format!("eth{number}");
        if links.find(&name)?.is_none() {
            return Ok(name);
        }
    }
    Err(NetworkError::kernel(
        "finding a name for a device",
        kiln_sys::Errno::EXIST,
    ))
}
