//! The networks of a store.
//!
//! ```text
//! networks/lock                          held by whoever makes or removes something
//! networks/named/<name>.json             NetworkRecord
//! networks/named/<name>/<container>.json Endpoint
//! networks/containers/<container>.json   Member, and the lock of the process that looks after it
//! networks/table.json                    the name of this store's nftables tables
//! networks/left.json                     Endpoints of containers that are gone, and what the rules say of them is not yet
//! ```
//!
//! Records tell what was meant. What a container had is gone when the process that looks after it is: its network
//! namespace and cables end by themselves, and whoever comes next takes its address and ports back.

mod leaving;
mod subnets;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use kiln_store::{Name, StateFolder, StateLock, Store, Timestamp};
use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::error::NetworkError;
use crate::firewall::{BridgeRules, Firewall};
use crate::neighbours;
use crate::netlink::links::Links;
use crate::network::{BUILT_IN, DEFAULT_NETWORK, NetworkRecord, NewNetwork};
use crate::outside::Outside;

/// The networks of a store, and where their bridges are.
#[derive(Debug, Clone)]
pub struct Networks {
    pub(crate) folder: StateFolder,
    pub(crate) named: StateFolder,
    pub(crate) members: StateFolder,
    pub(crate) outside: Outside,
}

/// A container that has networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The container, by id.
    pub container: String,
    /// The container, by name.
    pub name: String,
    /// The process that looks after it.
    pub keeper: u32,
    /// Its first process, once it runs.
    pub process: Option<u32>,
    /// What tells its network namespace from others.
    pub namespace: u64,
    /// Whether other containers are in its network, too: then its cables do not end with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// A network with the containers in it.
#[derive(Debug, Clone)]
pub struct Network {
    /// What it is.
    pub record: NetworkRecord,
    /// Who is in it, by container.
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl Networks {
    /// The networks of `store`.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(store: &Store, outside: Outside) -> Result<Self, NetworkError> {
        let folder = store.networks()?;
        Ok(Self {
            named: folder.folder("named")?,
            members: folder.folder("containers")?,
            folder,
            outside,
        })
    }

    pub(crate) fn lock(&self) -> Result<StateLock, NetworkError> {
        Ok(self.folder.lock()?)
    }

    /// All networks by name, the default one among them.
    ///
    /// # Errors
    /// What the system says.
    pub fn list(&self, now: Timestamp) -> Result<Vec<Network>, NetworkError> {
        let _lock = self.lock()?;
        self.default_network(now)?;
        let names = self.named.names()?;
        names
            .iter()
            .map(|name| {
                self.load(name)
                    .and_then(|record| self.with_endpoints(record))
            })
            .collect()
    }

    /// Finds a network by name or by the beginning of its id.
    ///
    /// # Errors
    /// [`NetworkError::Missing`].
    pub fn find(&self, name: &str, now: Timestamp) -> Result<Network, NetworkError> {
        let _lock = self.lock()?;
        let record = self.record(name, now)?;
        self.with_endpoints(record)
    }

    /// The lock must be held.
    pub(crate) fn record(&self, name: &str, now: Timestamp) -> Result<NetworkRecord, NetworkError> {
        if name == DEFAULT_NETWORK {
            return self.default_network(now);
        }
        if self.named.names()?.iter().any(|known| known == name) {
            return self.load(name);
        }
        let missing = || NetworkError::Missing(name.to_owned());
        if name.len() < MIN_ID_DIGITS || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let records = self.records()?;
        let mut found = records.into_iter().filter(|one| one.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(record), None) => Ok(record),
            _ => Err(missing()),
        }
    }

    fn load(&self, name: &str) -> Result<NetworkRecord, NetworkError> {
        let record = self.named.read(name)?;
        record.ok_or_else(|| NetworkError::Missing(name.to_owned()))
    }

    fn records(&self) -> Result<Vec<NetworkRecord>, NetworkError> {
        let names = self.named.names()?;
        names.iter().map(|name| self.load(name)).collect()
    }

    fn default_network(&self, now: Timestamp) -> Result<NetworkRecord, NetworkError> {
        match self.named.read(DEFAULT_NETWORK)? {
            Some(record) => Ok(record),
            None => self.add(
                &NewNetwork {
                    name: DEFAULT_NETWORK.to_owned(),
                    ..NewNetwork::default()
                },
                now,
            ),
        }
    }

    /// Makes a network. Its bridge is made with the first container.
    ///
    /// # Errors
    /// The name is taken, or the addresses are.
    pub fn create(&self, new: &NewNetwork, now: Timestamp) -> Result<NetworkRecord, NetworkError> {
        if new.name == DEFAULT_NETWORK || BUILT_IN.contains(&&*new.name) {
            return Err(NetworkError::Reserved(new.name.clone()));
        }
        let _lock = self.lock()?;
        self.add(new, now)
    }

    /// Makes a network unless there is one with its name, whatever that is like.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn ensure(&self, new: &NewNetwork, now: Timestamp) -> Result<(), NetworkError> {
        match self.create(new, now) {
            Ok(_) | Err(NetworkError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn add(&self, new: &NewNetwork, now: Timestamp) -> Result<NetworkRecord, NetworkError> {
        let name = Name::new(&new.name)?;
        if self.named.read::<NetworkRecord>(&new.name)?.is_some() {
            return Err(NetworkError::Exists(new.name.clone()));
        }
        let random = random()?;
        let record = NetworkRecord {
            id: format!("{:016x}", u64::from_ne_bytes(random)),
            name,
            created: now,
            subnets: self.choose_subnets(new, random)?,
            internal: new.internal,
            mtu: new.mtu,
            labels: new.labels.clone(),
        };
        self.named.write(&new.name, &record)?;
        Ok(record)
    }

    /// Removes a network that nobody uses: its device, its rules, its record.
    ///
    /// # Errors
    /// It is in use, or the kernel refuses.
    pub fn remove(&self, name: &str, now: Timestamp) -> Result<NetworkRecord, NetworkError> {
        if name == DEFAULT_NETWORK || BUILT_IN.contains(&name) {
            return Err(NetworkError::Reserved(name.to_owned()));
        }
        let _lock = self.lock()?;
        let record = self.record(name, now)?;
        self.reap(&record)?;
        self.sweep(1)?;
        let used = self.with_endpoints(record.clone())?.endpoints;
        if !used.is_empty() {
            return Err(NetworkError::InUse {
                network: record.name.to_string(),
                containers: used.into_values().map(|endpoint| endpoint.name).collect(),
            });
        }
        self.take_down(&record)?;
        self.named.remove(record.name.as_str())?;
        self.named.remove_folder(record.name.as_str())?;
        self.remove_rules_without_bridges()?;
        Ok(record)
    }

    /// Removes all networks that nobody uses, and the device of the default one; returns their names.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn prune(&self) -> Result<Vec<String>, NetworkError> {
        let _lock = self.lock()?;
        let mut removed = Vec::new();
        for record in self.records()? {
            self.reap(&record)?;
            let network = self.with_endpoints(record)?;
            if !network.endpoints.is_empty() {
                continue;
            }
            self.take_down(&network.record)?;
            let name = network.record.name.as_str();
            if name != DEFAULT_NETWORK {
                self.named.remove(name)?;
                self.named.remove_folder(name)?;
                removed.push(name.to_owned());
            }
        }
        self.sweep(1)?;
        self.remove_rules_without_bridges()?;
        Ok(removed)
    }

    fn take_down(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        if !self.outside.exists() {
            return Ok(());
        }
        let (bridge, table) = (record.bridge(), self.table()?);
        self.outside.run(|| {
            let mut links = Links::open()?;
            if links.find(&bridge)?.is_none() {
                return Ok(());
            }
            links.remove(&bridge)?;
            let internal = record.internal;
            let bridge = &bridge;
            let forgotten = Firewall::open(table)?.forget(BridgeRules { bridge, internal });
            if_there_is_a_firewall(forgotten)
        })
    }

    fn remove_rules_without_bridges(&self) -> Result<(), NetworkError> {
        if !self.outside.exists() {
            return Ok(());
        }
        let bridges: Vec<String> = self.records()?.iter().map(NetworkRecord::bridge).collect();
        let table = self.table()?;
        self.outside.run(|| {
            let mut links = Links::open()?;
            for bridge in &bridges {
                if links.find(bridge)?.is_some() {
                    return Ok(());
                }
            }
            if_there_is_a_firewall(Firewall::open(table).and_then(|mut rules| rules.remove()))?;
            // Bridges of other stores may still need them.
            if links.has_any(neighbours::BRIDGES)? {
                return Ok(());
            }
            if_there_is_a_firewall(neighbours::forget())
        })
    }

    /// The name of this store's tables: another store on the same machine has others.
    pub(crate) fn table(&self) -> Result<String, NetworkError> {
        if let Some(name) = self.folder.read("table")? {
            return Ok(name);
        }
        let number = u64::from_ne_bytes(random()?) >> 32;
        let name = format!("kiln-{number:08x}");
        self.folder.write("table", &name)?;
        Ok(name)
    }

    pub(crate) fn with_endpoints(&self, record: NetworkRecord) -> Result<Network, NetworkError> {
        let folder = self.named.folder(record.name.as_str())?;
        let mut endpoints = BTreeMap::new();
        for container in folder.names()? {
            if self.members.is_held(&container)?
                && let Some(endpoint) = folder.read::<Endpoint>(&container)?
            {
                endpoints.insert(container, endpoint);
            }
        }
        Ok(Network { record, endpoints })
    }

    /// Notes that other containers are in the network of this one, too. Nothing happens if it has none of its own.
    ///
    /// # Errors
    /// What the system says.
    pub fn share(&self, container: &str) -> Result<(), NetworkError> {
        let _lock = self.lock()?;
        if let Some(member) = self.members.read::<Member>(container)? {
            let member = Member {
                shared: true,
                ..member
            };
            self.members.write(container, &member)?;
        }
        Ok(())
    }

    /// The addresses of a container in the order of its devices, and this machine's in its first network.
    ///
    /// # Errors
    /// What the system says.
    pub fn addresses_of(
        &self,
        container: &str,
    ) -> Result<(Vec<IpAddr>, Option<IpAddr>), NetworkError> {
        let mut places = self.places()?.remove(container).unwrap_or_default();
        places.sort_by(|(_, one), (_, other)| one.inside.cmp(&other.inside));
        let addresses = places.iter().flat_map(|(_, endpoint)| &endpoint.addresses);
        let subnets = places
            .iter()
            .take(1)
            .flat_map(|(record, _)| &record.subnets);
        let gateway = subnets.map(|subnet| subnet.gateway).next();
        Ok((addresses.map(IpNet::addr).collect(), gateway))
    }

    /// What each container that is alive has in its networks, by container. Nothing is locked: this is for listings.
    ///
    /// # Errors
    /// What the system says.
    pub fn places(&self) -> Result<BTreeMap<String, Vec<(NetworkRecord, Endpoint)>>, NetworkError> {
        let mut places: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for name in self.named.names()? {
            // Somebody may remove it just now.
            let Some(record) = self.named.read::<NetworkRecord>(&name)? else {
                continue;
            };
            let Network { record, endpoints } = self.with_endpoints(record)?;
            for (container, endpoint) in endpoints {
                let own = places.entry(container).or_default();
                own.push((record.clone(), endpoint));
            }
        }
        Ok(places)
    }

    /// The networks of one container, with everybody in them. Nothing is locked: this is for who has to answer now.
    pub(crate) fn of(&self, container: &str) -> Result<Vec<Network>, NetworkError> {
        let mut found = Vec::new();
        for name in self.named.names()? {
            let folder = self.named.folder(&name)?;
            if folder.read::<Endpoint>(container)?.is_some()
                && let Some(record) = self.named.read(&name)?
            {
                found.push(self.with_endpoints(record)?);
            }
        }
        Ok(found)
    }
}

/// A kernel without nf_tables has no rules that could be in the way.
pub(crate) fn if_there_is_a_firewall(
    outcome: Result<(), NetworkError>,
) -> Result<(), NetworkError> {
    match outcome {
        Err(error) if crate::netlink::nft::is_unavailable(&error) => Ok(()),
        outcome => outcome,
    }
}

/// The fewest digits that stand for an id.
const MIN_ID_DIGITS: usize = 4;

/// Random bytes.
pub(crate) fn random() -> Result<[u8; 8], NetworkError> {
    let mut bytes = [0; 8];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes[..], flags)
        .map_err(|errno| NetworkError::kernel("getting random bytes", errno))?;
    Ok(bytes)
}
