//! Flags about a container's networks, and the networks of the store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::Arc;

use clap::Args;
use kiln_network::{
    Asked, DEFAULT_NETWORK, Membership, NetworkError, Outside, Publish, SharedNetwork,
};
use kiln_runtime::{HostAddress, Overrides, PlannedCommunication, PlannedNetwork, StoredContainer};
use kiln_sandbox::Host;
use kiln_store::{Store, StoreError};

use crate::container::wrong;
use crate::containers;
use crate::errors::{Class, Classify, Outcome};
use crate::local;
use crate::ports;
use crate::settings::Settings;

/// What stands before the name of a container in `--network`; docker's word.
const CONTAINER: &str = "container:";

/// What `--add-host` calls the machine; docker's word.
const GATEWAY: &str = "host-gateway";

/// Flags about networks.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Choose what it can reach: `none`, `host`, `bridge`, a network by name, or container:NAME for
    /// the network of another container
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Vec<String>,

    /// Publish a port, or a range of ports, of the container on this machine
    #[arg(short, long, value_name = "[IP:][PORT:]PORT[/PROTOCOL]", value_parser = publish)]
    publish: Vec<Publish>,

    /// Publish all ports that it says it listens on, each on one that is free
    #[arg(short = 'P', long)]
    publish_all: bool,

    /// Say that it listens on a port
    #[arg(long, value_name = "PORT[/PROTOCOL]", value_parser = exposed)]
    expose: Vec<String>,

    /// Give it another name in its networks
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,

    /// Give it this IPv4 address in its first network
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// Give it this IPv6 address in its first network
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,

    /// Add a name to its /etc/hosts; `host-gateway` is this machine
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = added_host)]
    add_host: Vec<(String, HostAddress)>,

    /// Ask this server about names that no container has
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,

    /// Try this domain behind a name
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,

    /// Set an option of asking about names, see resolv.conf(5)
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
}

impl NetworkArgs {
    /// Adds what is to be different.
    ///
    /// # Errors
    /// Networks that do not go together.
    pub(crate) fn apply(&self, overrides: &mut Overrides, settings: &Settings) -> Outcome {
        if let Some(name) = self.other_container() {
            return self.share(name, overrides, settings);
        }
        overrides.network = self.planned()?;
        overrides.ports.clone_from(&self.publish);
        overrides.publishes_all = self.publish_all;
        overrides.exposed.clone_from(&self.expose);
        overrides.hosts.clone_from(&self.add_host);
        overrides.dns.clone_from(&self.dns);
        overrides.dns_search.clone_from(&self.dns_search);
        overrides.dns_options.clone_from(&self.dns_option);
        Ok(())
    }

    /// The container in whose network it is to be.
    fn other_container(&self) -> Option<&str> {
        let mut networks = self.network.iter();
        networks.find_map(|network| network.strip_prefix(CONTAINER))
    }

    /// Puts it into the network of the container `name`, which has a name, addresses and ports for both.
    fn share(&self, name: &str, overrides: &mut Overrides, settings: &Settings) -> Outcome {
        let flags = [
            (self.network.len() > 1, "another --network"),
            (overrides.hostname.is_some(), "--hostname"),
            (!self.publish.is_empty(), "--publish"),
            (self.publish_all, "--publish-all"),
            (!self.expose.is_empty(), "--expose"),
            (!self.network_alias.is_empty(), "--network-alias"),
            (self.ip.is_some(), "--ip"),
            (self.ip6.is_some(), "--ip6"),
            (!self.add_host.is_empty(), "--add-host"),
            (!self.dns.is_empty(), "--dns"),
            (!self.dns_search.is_empty(), "--dns-search"),
            (!self.dns_option.is_empty(), "--dns-option"),
        ];
        if let Some((_, flag)) = flags.into_iter().find(|(is_given, _)| *is_given) {
            return Err(wrong(
                format!("`{flag}` does not go with `--network {CONTAINER}{name}`"),
                "say it of the other container: name, addresses and ports are that one's",
            ));
        }
        let other = containers::find(&local::open(settings)?, name)?;
        let own = || other.id().short().to_owned();
        overrides.hostname = Some(other.config.plan.hostname.clone().unwrap_or_else(own));
        overrides.network = Some(PlannedNetwork::Container(other.id().clone()));
        Ok(())
    }

    /// What these flags alone ask for; `None` if that is for a service to say.
    pub(crate) fn reach(&self) -> Option<Reach> {
        if let Some(name) = self.other_container() {
            return Some(Reach::Of(name.to_owned()));
        }
        let asks_for_a_place = self.ip.is_some() || self.ip6.is_some();
        let asks = asks_for_a_place
            || self.publish_all
            || !(self.publish.is_empty() && self.network_alias.is_empty());
        let closed = |name: &String| matches!(name.as_str(), "none" | "host");
        match self.network.as_slice() {
            [] if asks => Some(Reach::Container),
            [] => None,
            [only] if closed(only) => Some(Reach::None),
            _ => Some(Reach::Container),
        }
    }

    fn planned(&self) -> Outcome<Option<PlannedNetwork>> {
        let asked = Asked {
            ipv4: self.ip,
            ipv6: self.ip6,
        };
        let needs_a_bridge = asked != Asked::default() || !self.network_alias.is_empty();
        let names: Vec<&str> = self.network.iter().map(String::as_str).collect();
        match names.as_slice() {
            [] if !needs_a_bridge => Ok(None),
            ["none"] if !needs_a_bridge => Ok(Some(PlannedNetwork::None)),
            ["host"] if !needs_a_bridge => Ok(Some(PlannedNetwork::Host)),
            [only @ ("none" | "host")] => Err(wrong(
                format!(
                    "`--ip`, `--ip6` and `--network-alias` mean nothing with `--network {only}`"
                ),
                "leave them out, or name another network",
            )),
            names if names.iter().any(|name| matches!(*name, "none" | "host")) => Err(wrong(
                "`--network none` and `--network host` do not go with other networks".to_owned(),
                "name one of them alone, or only networks of your own",
            )),
            names => {
                let default = [DEFAULT_NETWORK];
                let names = if names.is_empty() {
                    &default[..]
                } else {
                    names
                };
                let memberships = names.iter().enumerate().map(|(number, name)| Membership {
                    network: (*name).to_owned(),
                    aliases: self.network_alias.clone(),
                    asked: if number == 0 { asked } else { Asked::default() },
                });
                Ok(Some(PlannedNetwork::Bridges(memberships.collect())))
            }
        }
    }
}

/// What a process will do about networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing.
    None,
    /// Look at those that are there.
    Existing,
    /// Connect a container.
    Container,
    /// Put a container into the network of this one, by name or id.
    Of(String),
    /// What a service says; where that is nothing, be among the users of this container, by name or id.
    Users(String),
}

/// As [`local::enter`], and says where the bridges are. An ordinary user's containers share a namespace that has them.
///
/// # Errors
/// As [`local::enter`], and that there can be no such namespace.
pub(crate) fn enter(store: &Store, reach: Reach) -> Outcome<(Host, Outside)> {
    if !kiln_sandbox::needs_user_namespace()? {
        return Ok((local::enter(store)?, Outside::Machine));
    }
    let found = match reach {
        Reach::None => None,
        Reach::Existing => SharedNetwork::find(store)?,
        Reach::Container => Some(SharedNetwork::join(store, &mut holder(store))?),
        Reach::Of(name) | Reach::Users(name) => {
            return Ok((enter_users_of(store, &name)?, Outside::Nowhere));
        }
    };
    match found {
        Some((user, network)) => {
            let host = local::enter_as(store, Some(Arc::new(user)))?;
            Ok((host, Outside::Shared(Arc::new(network))))
        }
        None => Ok((local::enter(store)?, Outside::Nowhere)),
    }
}

/// Only among the users of a container can its network be entered. Whether it runs is told by whoever starts the other.
fn enter_users_of(store: &Store, name: &str) -> Outcome<Host> {
    let running = match StoredContainer::find(store, name) {
        Ok(container) => container.running()?,
        Err(StoreError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let users = running.map(|running| running.users()).transpose()?;
    local::enter_as(store, users.map(Arc::new))
}

/// What starting these containers again needs of networks. To be called before this process enters anything.
///
/// # Errors
/// There is no such container.
pub(crate) fn reach_of(store: &Store, names: &[String]) -> Outcome<Reach> {
    let mut reach = Reach::None;
    for name in names {
        let plan = containers::find(store, name)?.config.plan;
        let other = match (plan.network, plan.communication) {
            (PlannedNetwork::Bridges(_), _) => return Ok(Reach::Container),
            (PlannedNetwork::Container(other), _) | (_, PlannedCommunication::Container(other)) => {
                other
            }
            (PlannedNetwork::None | PlannedNetwork::Host, _) => continue,
        };
        if reach == Reach::None {
            reach = Reach::Of(other.to_string());
        }
    }
    Ok(reach)
}

/// This program, to keep the network that containers of this user share.
fn holder(store: &Store) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["network", "hold"])
        .env("KILN_HOME", store.path())
        // So that it keeps nobody from unmounting anything.
        .current_dir("/");
    command
}

impl Classify for NetworkError {
    fn class(&self) -> Class {
        if let Self::Store(error) = self {
            error.class()
        } else if self.is_askers() {
            Class::User
        } else {
            Class::Environment
        }
    }
}

fn publish(text: &str) -> Result<Publish, String> {
    Publish::parse(text).map_err(|error| error.to_string())
}

/// As an image writes it.
fn exposed(text: &str) -> Result<String, String> {
    ports::port(text).map(ports::named)
}

/// `NAME:ADDRESS`, also with `=` between the two, which docker takes as well.
fn added_host(text: &str) -> Result<(String, HostAddress), String> {
    let wrong = || format!("write `NAME:ADDRESS` or `NAME:{GATEWAY}`");
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(wrong)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '#') {
        return Err(wrong());
    }
    let address = if address == GATEWAY {
        HostAddress::Gateway
    } else {
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        HostAddress::Address(bare.parse().map_err(|_not_one| wrong())?)
    };
    Ok((name.to_owned(), address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_planned_as_they_are_named() {
        let planned = |network: &[&str], alias: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
            let args = NetworkArgs {
                network: texts(network),
                network_alias: texts(alias),
                ..NetworkArgs::default()
            };
            args.planned().map_err(|_failure| ())
        };
        let bridges = |planned: Option<PlannedNetwork>| match planned {
            Some(PlannedNetwork::Bridges(memberships)) => memberships
                .into_iter()
                .map(|one| (one.network, one.aliases.len()))
                .collect(),
            other => panic!("{other:?}"),
        };
        assert_eq!(planned(&[], &[]), Ok(None));
        assert_eq!(planned(&["none"], &[]), Ok(Some(PlannedNetwork::None)));
        assert_eq!(planned(&["host"], &[]), Ok(Some(PlannedNetwork::Host)));
        let both: Vec<_> = bridges(planned(&["a", "b"], &["x"]).unwrap());
        assert_eq!(both, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
        let default: Vec<_> = bridges(planned(&[], &["x"]).unwrap());
        assert_eq!(default, [("bridge".to_owned(), 1)]);
        for (network, alias) in [
            (&["host"][..], &["x"][..]),
            (&["none", "a"], &[]),
            (&["a", "host"], &[]),
        ] {
            assert_eq!(planned(network, alias), Err(()));
        }
    }

    #[test]
    fn added_names_are_read_as_docker_writes_them() {
        let read = added_host;
        let address = |text: &str| HostAddress::Address(text.parse().unwrap());
        assert_eq!(
            read("a:192.0.2.1"),
            Ok(("a".to_owned(), address("192.0.2.1")))
        );
        assert_eq!(read("a:::1"), Ok(("a".to_owned(), address("::1"))));
        assert_eq!(read("a=[::1]"), Ok(("a".to_owned(), address("::1"))));
        assert_eq!(
            read("a:host-gateway"),
            Ok(("a".to_owned(), HostAddress::Gateway))
        );
        for text in ["", "a", "a:", ":::1", "a b:::1", "a:nowhere"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
