//! A container's connection to its networks, made before it starts and gone when its keeper is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;

use ipnet::IpNet;
use kiln_store::{StateFolder, StateLock, Timestamp};
use kiln_sys::network::NetworkNamespace;
use serde::{Deserialize, Serialize};

use crate::address::{Asked, choose, mac};
use crate::bridge::Bridge;
use crate::endpoint::Endpoint;
use crate::error::{NetworkError, best_effort};
use crate::firewall::{BridgeRules, Firewall};
use crate::forward::{Forwarder, Listener};
use crate::names::{NameServer, Resolvers};
use crate::neighbours;
use crate::netlink::links::{Cable, LOOPBACK, Links};
use crate::network::NetworkRecord;
use crate::networks::{Member, Networks, if_there_is_a_firewall, random};
use crate::outside::{set, setting};
use crate::port::{Mapping, Publish};

/// Where a container's names are answered; docker's.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const NAME_SERVER_PORT: u16 = 53;

/// A network that a container is to be in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Membership {
    /// The network, by name or id.
    pub network: String,
    /// Other names the container has there.
    pub aliases: Vec<String>,
    /// Addresses it asks for.
    pub asked: Asked,
}

/// What a container wants of networks.
#[derive(Debug)]
pub struct Joining<'a> {
    /// The container, by id.
    pub container: &'a str,
    /// The container, by name.
    pub name: &'a str,
    /// The networks; the first one leads to everywhere else.
    pub memberships: &'a [Membership],
    /// Ports of the machine that lead to it.
    pub ports: &'a [Publish],
    /// Who knows names that no container has.
    pub resolvers: &'a Resolvers,
    /// When this is.
    pub now: Timestamp,
}

/// A container's networks. They end when this is dropped, or with the process.
#[derive(Debug)]
pub struct Attachment {
    namespace: Arc<NetworkNamespace>,
    endpoints: Vec<(NetworkRecord, Endpoint)>,
    warnings: Vec<String>,
    member: Member,
    networks: Networks,
    names: Option<NameServer>,
    forwarder: Option<Forwarder>,
    /// What others see that this container is alive by.
    held: Option<StateLock>,
}

/// What is made on a thread inside of the container's network.
struct Inside {
    links: Links,
    datagrams: UdpSocket,
    connections: TcpListener,
}

impl Networks {
    /// Makes a network namespace that is in all the networks asked for, and listens on the ports.
    ///
    /// From now on names are answered and ports lead to it, by threads of this process.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left behind.
    pub fn join(&self, joining: &Joining<'_>) -> Result<Attachment, NetworkError> {
        let listeners = Listener::open_all(joining.ports)?;
        let (namespace, inside) = NetworkNamespace::make(Inside::make)
            .map_err(|errno| NetworkError::kernel("making a network namespace", errno))?;
        let inside = inside?;
        let member = Member {
            container: joining.container.to_owned(),
            name: joining.name.to_owned(),
            keeper: std::process::id(),
            process: None,
            namespace: namespace
                .number()
                .map_err(|errno| NetworkError::kernel("looking at a network namespace", errno))?,
            shared: false,
        };
        // From here on dropping it takes back what was done.
        let mut attachment = Attachment {
            namespace: Arc::new(namespace),
            endpoints: Vec::new(),
            warnings: Vec::new(),
            member,
            networks: self.clone(),
            names: None,
            forwarder: None,
            held: None,
        };
        let mappings: Vec<Mapping> = listeners.iter().map(Listener::mapping).collect();
        attachment.reserve(joining, &mappings)?;
        let Inside {
            mut links,
            datagrams,
            connections,
        } = inside;
        for index in 0..attachment.endpoints.len() {
            let is_first_of = |six: bool| {
                let mut earlier = attachment.endpoints.iter().take(index);
                !earlier.any(|(record, one)| !record.internal && one.address(six).is_some())
            };
            let leads_out = [is_first_of(false), is_first_of(true)];
            if let Some((record, endpoint)) = attachment.endpoints.get(index) {
                let new = self.plug_in(
                    record,
                    endpoint,
                    &attachment.namespace,
                    &mut links,
                    leads_out,
                )?;
                attachment.warnings.extend(new);
            }
        }
        let target = attachment.endpoints.iter().find_map(|(_, endpoint)| {
            (!endpoint.ports.is_empty())
                .then(|| endpoint.target())
                .flatten()
        });
        if let Some(target) = target {
            let forwarder = Forwarder::start(listeners, target, self.outside.clone())?;
            attachment.forwarder = Some(forwarder);
        }
        let server = NameServer::start(datagrams, connections, joining, self.clone())?;
        attachment.names = Some(server);
        Ok(attachment)
    }

    /// Connects a namespace to one network. Returns what does not work as it should.
    pub(crate) fn plug_in(
        &self,
        record: &NetworkRecord,
        endpoint: &Endpoint,
        namespace: &NetworkNamespace,
        links: &mut Links,
        leads_out: [bool; 2],
    ) -> Result<Vec<String>, NetworkError> {
        let (mut warnings, bridge_name, table) = (Vec::new(), record.bridge(), self.table()?);
        let rules = BridgeRules {
            bridge: &bridge_name,
            internal: record.internal,
        };
        self.outside.run(|| {
            let mut outside = Links::open()?;
            let bridge = {
                let _lock = self.lock()?;
                let bridge = Bridge::ensure(&mut outside, record, &mut warnings)?;
                // Before the cable, so that nothing gets through that should not.
                let admitted = Firewall::open(table)
                    .and_then(|mut firewall| firewall.admit(rules, endpoint));
                if let Err(error) = &admitted
                    && crate::netlink::nft::is_unavailable(error)
                {
                    warnings.push(format!(
                        "the kernel has no nf_tables, so containers cannot reach beyond this machine, and nothing \
                         keeps networks apart: {error}"
                    ));
                }
                let is_filtered = admitted.is_ok();
                if_there_is_a_firewall(admitted)?;
                if is_filtered && !record.internal {
                    warnings.extend(neighbours::let_through()?);
                }
                bridge
            };
            outside.plug_in(&Cable {
                here: &endpoint.device,
                bridge: bridge.index,
                there: namespace.as_fd(),
                name: &endpoint.inside,
                mac: endpoint.mac,
                mtu: bridge.mtu,
            })
        })?;
        if record.has_ipv6() {
            let name = format!("ipv6/conf/{}/disable_ipv6", endpoint.inside);
            namespace
                .run(|| set(&name, "0"))
                .map_err(|errno| NetworkError::kernel("entering a network", errno))??;
        }
        let gone = || {
            let doing = format!("finding `{}` in the container", endpoint.inside);
            NetworkError::kernel(doing, kiln_sys::Errno::NODEV)
        };
        let device = links.find(&endpoint.inside)?.ok_or_else(gone)?;
        let gateways = record.subnets.iter().map(|subnet| subnet.gateway);
        let gateways = gateways.filter(|gateway| {
            let [four, six] = leads_out;
            !record.internal && if gateway.is_ipv6() { six } else { four }
        });
        let gateways: Vec<_> = gateways.collect();
        links.configure(device, &endpoint.addresses, &gateways)?;
        Ok(warnings)
    }

    pub(crate) fn endpoints_folder(
        &self,
        record: &NetworkRecord,
    ) -> Result<StateFolder, NetworkError> {
        Ok(self.named.folder(record.name.as_str())?)
    }

    /// Chooses addresses for a container in a network and writes them down. The lock must be held.
    pub(crate) fn reserve(
        &self,
        member: &Member,
        membership: &Membership,
        inside: String,
        now: Timestamp,
    ) -> Result<(NetworkRecord, Endpoint), NetworkError> {
        let record = self.record(&membership.network, now)?;
        self.reap(&record)?;
        let network = self.with_endpoints(record)?;
        if network.endpoints.contains_key(&member.container) {
            return Err(NetworkError::Connected {
                container: member.name.clone(),
                network: network.record.name.to_string(),
            });
        }
        let lately: Vec<IpAddr> = self.left_addresses()?;
        let addresses = choose(&network, membership.asked, &lately)?;
        if addresses.iter().any(|one| lately.contains(&one.addr())) {
            // Its last owner may be about to end only, and would answer for it.
            self.sweep(1)?;
        }
        let random = random()?;
        let endpoint = Endpoint {
            container: member.container.clone(),
            name: member.name.clone(),
            device: format!("kv{:010x}", u64::from_ne_bytes(random) >> 24),
            inside,
            mac: mac(&addresses, random),
            addresses,
            aliases: membership.aliases.clone(),
            ports: Vec::new(),
        };
        Ok((network.record, endpoint))
    }
}

impl Inside {
    /// On a thread in the new namespace.
    fn make() -> Result<Self, NetworkError> {
        let mut links = Links::open()?;
        links.configure(LOOPBACK, &[], &[])?;
        for (name, value) in [
            // Devices of networks with addresses of IPv6 are told otherwise.
            ("ipv6/conf/default/disable_ipv6", "1"),
            ("ipv6/conf/default/accept_ra", "0"),
            // As docker has it: users other than root may serve the usual ports and ping.
            ("ipv4/ip_unprivileged_port_start", "0"),
        ] {
            if setting(name).is_some() {
                best_effort("preparing a network", set(name, value));
            }
        }
        // Groups that are not mapped cannot be named.
        if set("ipv4/ping_group_range", "0 2147483647").is_err() {
            best_effort("letting root ping", set("ipv4/ping_group_range", "0 0"));
        }
        let address = SocketAddr::from((NAME_SERVER, NAME_SERVER_PORT));
        let fail = |source| NetworkError::Listen {
            address: address.to_string(),
            protocol: crate::port::Protocol::Udp,
            source,
            advice: "",
        };
        Ok(Self {
            links,
            datagrams: UdpSocket::bind(address).map_err(fail)?,
            connections: TcpListener::bind(address).map_err(fail)?,
        })
    }
}

impl Attachment {
    /// Takes addresses and names in every network, and tells everybody that this container is alive.
    fn reserve(&mut self, joining: &Joining<'_>, ports: &[Mapping]) -> Result<(), NetworkError> {
        let _lock = self.networks.lock()?;
        let held = self.networks.members.hold(joining.container)?;
        let taken = || NetworkError::Connected {
            container: joining.name.to_owned(),
            network: "its networks".to_owned(),
        };
        self.held = Some(held.ok_or_else(taken)?);
        // Whoever looked after it before may have been killed; from now on it looks alive to everybody.
        self.networks.take_back(joining.container)?;
        self.networks
            .members
            .write(joining.container, &self.member)?;
        let mut ports = ports.to_vec();
        for (number, membership) in joining.memberships.iter().enumerate() {
            let inside = format!("eth{number}");
            let (record, mut endpoint) =
                self.networks
                    .reserve(&self.member, membership, inside, joining.now)?;
            if !record.internal {
                endpoint.ports = std::mem::take(&mut ports);
            }
            let folder = self.networks.endpoints_folder(&record)?;
            folder.write(joining.container, &endpoint)?;
            self.endpoints.push((record, endpoint));
        }
        match (ports.is_empty(), self.endpoints.first()) {
            (false, Some((record, _))) => Err(NetworkError::Internal(record.name.to_string())),
            _ => Ok(()),
        }
    }

    /// The network namespace, for the container to start in.
    #[must_use]
    pub const fn namespace(&self) -> &Arc<NetworkNamespace> {
        &self.namespace
    }

    /// What does not work as it should, to be told to whoever asked.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The container's addresses, in the order of its networks.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        let endpoints = self.endpoints.iter();
        endpoints.flat_map(|(_, endpoint)| endpoint.addresses.iter().copied())
    }

    /// This machine's addresses in the container's first network: what containers call the host.
    pub fn gateways(&self) -> impl Iterator<Item = std::net::IpAddr> {
        let first = self.endpoints.first().into_iter();
        first.flat_map(|(record, _)| record.subnets.iter().map(|subnet| subnet.gateway))
    }

    /// Published ports.
    pub fn ports(&self) -> impl Iterator<Item = &Mapping> {
        let endpoints = self.endpoints.iter();
        endpoints.flat_map(|(_, endpoint)| &endpoint.ports)
    }

    /// Writes down the container's first process, by which others find its namespace.
    ///
    /// # Errors
    /// What the system says.
    pub fn started(&mut self, process: u32) -> Result<(), NetworkError> {
        self.member.process = Some(process);
        let members = &self.networks.members;
        Ok(members.write(&self.member.container, &self.member)?)
    }
}

impl Drop for Attachment {
    /// What is not removed here the next one who looks removes.
    fn drop(&mut self) {
        drop((self.names.take(), self.forwarder.take()));
        if self.held.is_none() {
            return;
        }
        best_effort("leaving networks", self.leave());
    }
}

impl Attachment {
    fn leave(&mut self) -> Result<(), NetworkError> {
        let container = &self.member.container;
        let _lock = self.networks.lock()?;
        // Others may have connected it to more networks.
        self.networks.take_back(container)?;
        self.networks.members.remove(container)?;
        self.held = None;
        Ok(self.networks.members.forget(container)?)
    }
}
