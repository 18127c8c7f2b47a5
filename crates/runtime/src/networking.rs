//! A container's network, and the files that tell it about names there.

use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use kiln_network::{
    Attachment, Joining, Membership, NAME_SERVER, NetworkError, Networks, Outside, Resolvers,
};
use kiln_sandbox::{Mount, Network, SandboxError};
use kiln_store::{ContainerId, Store, StoreError};
use kiln_sys::Errno;
use kiln_sys::network::NetworkNamespace;

use crate::communication::Share;
use crate::launch::{Launch, LaunchError, failed};
use crate::plan::{HostAddress, Plan, PlannedNetwork};
use crate::stored::StoredContainer;

/// Where programs look for the servers that know names.
const RESOLVER_FILE: &str = "/etc/resolv.conf";

/// Where programs look names up first.
const HOSTS_FILE: &str = "/etc/hosts";

/// What a container gets of the network.
pub(crate) struct Networking {
    /// For the sandbox.
    pub(crate) network: Network,
    /// Files about names.
    pub(crate) files: Vec<Mount>,
    /// Keeps addresses, ports and names alive.
    pub(crate) attachment: Option<Attachment>,
}

impl Networking {
    /// Makes the network that `plan` asks for.
    pub(crate) fn make(
        launch: &Launch<'_>,
        plan: &Plan,
        hostname: &str,
    ) -> Result<Self, LaunchError> {
        match &plan.network {
            PlannedNetwork::None => Ok(Self {
                network: Network::None,
                files: vec![alone(plan, hostname)?],
                attachment: None,
            }),
            PlannedNetwork::Host => Ok(Self {
                network: Network::Host,
                files: of_the_machine(plan, hostname)?,
                attachment: None,
            }),
            PlannedNetwork::Bridges(memberships) => {
                let networks = Networks::open(launch.session.store(), launch.outside.clone())?;
                let attachment = networks.join(&Joining {
                    container: launch.container,
                    name: launch.name,
                    memberships: &with_service(memberships, plan),
                    ports: &plan.ports,
                    resolvers: &resolvers(plan)?,
                    now: launch.session.now(),
                })?;
                let own: Vec<IpAddr> = attachment.addresses().map(|one| one.addr()).collect();
                let gateway = attachment.gateways().next();
                Ok(Self {
                    network: Network::Made(Arc::clone(attachment.namespace())),
                    files: connected(plan, hostname, &own, gateway)?,
                    attachment: Some(attachment),
                })
            }
            PlannedNetwork::Container(id) => Self::share(launch, id, hostname),
        }
    }

    /// The network of another container. Whoever keeps that one answers names and carries ports for both.
    fn share(launch: &Launch<'_>, id: &ContainerId, hostname: &str) -> Result<Self, LaunchError> {
        let store = launch.session.store();
        let (other, running) = Share::Network.of(store, id)?;
        let namespace = match running.network() {
            // Those of an ordinary user may each have a user namespace of their own.
            Err(SandboxError::Kernel {
                errno: Errno::ACCESS | Errno::PERM,
                ..
            }) => {
                let why =
                    "it was started anew with users of its own; stop this one and start it by hand";
                return Err(Share::Network.refused(other.display_name(), why));
            }
            namespace => namespace?,
        };
        let failed = |errno| NetworkError::Kernel {
            doing: "looking at a network namespace".to_owned(),
            errno,
        };
        let own = NetworkNamespace::current().and_then(|own| own.number());
        let is_machines = own.map_err(failed)? == namespace.number().map_err(failed)?;
        Networks::open(store, Outside::Nowhere)?.share(id.as_str())?;
        Ok(Self {
            network: if is_machines {
                Network::Host
            } else {
                Network::Made(Arc::new(namespace))
            },
            files: files_of(store, &other, hostname)?,
            attachment: None,
        })
    }
}

/// The files about names that a container has in its network.
fn files_of(
    store: &Store,
    container: &StoredContainer,
    hostname: &str,
) -> Result<Vec<Mount>, LaunchError> {
    let plan = &container.config.plan;
    match &plan.network {
        PlannedNetwork::None => Ok(vec![alone(plan, hostname)?]),
        PlannedNetwork::Host => of_the_machine(plan, hostname),
        PlannedNetwork::Bridges(_) => {
            let networks = Networks::open(store, Outside::Nowhere)?;
            let (own, gateway) = networks.addresses_of(container.id().as_str())?;
            connected(plan, hostname, &own, gateway)
        }
        PlannedNetwork::Container(other) => match StoredContainer::open(store, other) {
            Ok(other) => files_of(store, &other, hostname),
            // It has left its network to this one.
            Err(StoreError::Missing { .. }) => Ok(vec![alone(plan, hostname)?]),
            Err(error) => Err(error.into()),
        },
    }
}

/// Of a network with nothing in it.
fn alone(plan: &Plan, hostname: &str) -> Result<Mount, LaunchError> {
    let own = [IpAddr::from([127, 0, 0, 1])];
    Ok(Mount::text(HOSTS_FILE, hosts(plan, hostname, &own, None)?))
}

/// Of networks in which names are answered.
fn connected(
    plan: &Plan,
    hostname: &str,
    own: &[IpAddr],
    gateway: Option<IpAddr>,
) -> Result<Vec<Mount>, LaunchError> {
    let asked = resolvers(plan)?.for_container(NAME_SERVER.into());
    Ok(vec![
        Mount::text(HOSTS_FILE, hosts(plan, hostname, own, gateway)?),
        Mount::text(RESOLVER_FILE, asked),
    ])
}

/// A service is also called by its own name, whatever its container is called.
fn with_service(memberships: &[Membership], plan: &Plan) -> Vec<Membership> {
    let mut memberships = memberships.to_vec();
    for membership in &mut memberships {
        membership.aliases.extend(plan.name.clone());
    }
    memberships
}

/// Whom a container's questions about names go to: the plan's servers, else the machine's.
fn resolvers(plan: &Plan) -> Result<Resolvers, LaunchError> {
    let text = read(RESOLVER_FILE)?.unwrap_or_default();
    let mut resolvers = Resolvers::parse(&String::from_utf8_lossy(&text));
    if !plan.dns.is_empty() {
        resolvers.servers = plan.dns.iter().map(|server| (*server, 53).into()).collect();
    }
    if !plan.dns_search.is_empty() {
        resolvers.search.clone_from(&plan.dns_search);
    }
    if !plan.dns_options.is_empty() {
        resolvers.options.clone_from(&plan.dns_options);
    }
    Ok(resolvers)
}

/// The machine's own files.
fn of_the_machine(plan: &Plan, hostname: &str) -> Result<Vec<Mount>, LaunchError> {
    let mut mounts = Vec::new();
    if let Some(mut text) = read(HOSTS_FILE)? {
        let mut more = format!("\n127.0.0.1\t{hostname}\n");
        added(plan, Some([127, 0, 0, 1].into()), &mut more)?;
        text.extend_from_slice(more.as_bytes());
        mounts.push(Mount::text(HOSTS_FILE, text));
    }
    let own_servers =
        !(plan.dns.is_empty() && plan.dns_search.is_empty() && plan.dns_options.is_empty());
    if own_servers {
        let resolvers = resolvers(plan)?;
        let mut text = String::new();
        for server in &resolvers.servers {
            line(&mut text, &format!("nameserver {}", server.ip()));
        }
        let rest = resolvers.for_container(NAME_SERVER.into());
        // Everything but the server, which is not there.
        rest.lines().skip(1).for_each(|rest| line(&mut text, rest));
        mounts.push(Mount::text(RESOLVER_FILE, text));
    } else if let Some(text) = read(RESOLVER_FILE)? {
        mounts.push(Mount::text(RESOLVER_FILE, text));
    }
    Ok(mounts)
}

fn read(path: &str) -> Result<Option<Vec<u8>>, LaunchError> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", Path::new(path), source)),
    }
}

/// A file of names for a network that is not the machine's.
fn hosts(
    plan: &Plan,
    hostname: &str,
    own: &[IpAddr],
    gateway: Option<IpAddr>,
) -> Result<String, LaunchError> {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n");
    for address in own {
        line(&mut text, &format!("{address}\t{hostname}"));
    }
    added(plan, gateway, &mut text)?;
    Ok(text)
}

/// Names that the plan adds.
fn added(plan: &Plan, gateway: Option<IpAddr>, text: &mut String) -> Result<(), LaunchError> {
    for (name, address) in &plan.hosts {
        let address = match address {
            HostAddress::Address(address) => *address,
            HostAddress::Gateway => {
                gateway.ok_or_else(|| LaunchError::NoGateway { name: name.clone() })?
            }
        };
        line(text, &format!("{address}\t{name}"));
    }
    Ok(())
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("text takes text");
}
