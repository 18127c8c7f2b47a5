//! Published ports, as docker's `--publish` writes them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// How a port is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Ports that are to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Publish {
    /// Only on this address of the machine; on all if not given.
    pub address: Option<IpAddr>,
    /// First and last port of the machine; a free one is chosen if not given.
    pub host: Option<(u16, u16)>,
    /// First and last port of the container.
    pub container: (u16, u16),
    /// How they are spoken to.
    pub protocol: Protocol,
}

/// One published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Where the machine listens; `[::]` stands for every address of both families.
    pub host: SocketAddr,
    /// The container's port.
    pub container: u16,
    /// How it is spoken to.
    pub protocol: Protocol,
}

impl Publish {
    /// Reads `[address:][port]:port[/protocol]` or `port[/protocol]`; `first-last` is a range.
    ///
    /// # Errors
    /// [`NetworkError::NotAPort`].
    pub fn parse(text: &str) -> Result<Self, NetworkError> {
        let wrong = |reason: &str| NetworkError::NotAPort {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (places, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((places, "tcp")) => (places, Protocol::Tcp),
            Some((places, "udp")) => (places, Protocol::Udp),
            Some(_) => return Err(wrong("the protocol is `tcp` or `udp`")),
        };
        let (rest, container) = match places.rsplit_once(':') {
            None => (None, places),
            Some((rest, container)) => (Some(rest), container),
        };
        let (address, host) = match rest {
            None => (None, ""),
            // The colons of an address of IPv6 are between brackets.
            Some(rest) => match rest.rsplit_once(':') {
                Some((address, host)) if !rest.ends_with(']') => (Some(address), host),
                _ if rest.contains(['.', ']']) => {
                    return Err(wrong(
                        "write `address:port:port`, or `address::port` for any port",
                    ));
                }
                _ => (None, rest),
            },
        };
        let address = address
            .map(|address| {
                let bare = address
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'));
                bare.unwrap_or(address)
                    .parse()
                    .map_err(|_not_one| wrong(&format!("`{address}` is not an address")))
            })
            .transpose()?;
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            match (first.parse::<u16>(), last.parse::<u16>()) {
                (Ok(first), Ok(last)) if first > 0 && first <= last => Ok((first, last)),
                _ => Err(wrong(&format!(
                    "`{text}` is not a port or a range of ports"
                ))),
            }
        };
        let container = range(container)?;
        let host = match host {
            "" | "0" => None,
            host => Some(range(host)?),
        };
        let count = |(first, last): (u16, u16)| last - first;
        if let Some(host) = host
            && count(container) > 0
            && count(host) != count(container)
        {
            return Err(wrong("both ranges must be of the same length"));
        }
        Ok(Self {
            address,
            host,
            container,
            protocol,
        })
    }

    /// The ports of the container, each with those of the machine that will do; none: whichever is free.
    #[must_use]
    pub fn wanted(&self) -> Vec<(u16, Vec<u16>)> {
        let (first, last) = self.container;
        let ports = first..=last;
        match self.host {
            None => ports.map(|port| (port, Vec::new())).collect(),
            Some((host, _)) if first != last => ports
                .map(|port| (port, vec![host + (port - first)]))
                .collect(),
            // A free one of them, as docker has it.
            Some((host, end)) => vec![(first, (host..=end).collect())],
        }
    }

    /// Where to listen on `port`.
    pub(crate) fn listen_at(&self, port: u16) -> SocketAddr {
        let address = self.address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
        SocketAddr::new(address, port)
    }
}

impl Mapping {
    /// Where it is listened: one place, or the one of each family for every address of both.
    #[must_use]
    pub fn places(&self) -> Vec<SocketAddr> {
        let port = self.host.port();
        if self.host.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
            vec![(Ipv4Addr::UNSPECIFIED, port).into(), self.host]
        } else {
            vec![self.host]
        }
    }
}

impl fmt::Display for Mapping {
    /// As in docker's listings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            container,
            protocol,
        } = self;
        write!(f, "{host}->{container}/{protocol}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_docker_has_them() {
        let read = |text| {
            let publish = Publish::parse(text).unwrap_or_else(|error| panic!("{error}"));
            let address = publish.address.map(|address| address.to_string());
            (address, publish.host, publish.container, publish.protocol)
        };
        let local = || Some("127.0.0.1".to_owned());
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(read("80"), (None, None, (80, 80), tcp));
        assert_eq!(read("8080:80"), (None, Some((8080, 8080)), (80, 80), tcp));
        assert_eq!(read("53:53/udp"), (None, Some((53, 53)), (53, 53), udp));
        assert_eq!(read("127.0.0.1:1:2"), (local(), Some((1, 1)), (2, 2), tcp));
        assert_eq!(read("127.0.0.1::2"), (local(), None, (2, 2), tcp));
        let six = Some("::1".to_owned());
        assert_eq!(read("[::1]:1:2"), (six.clone(), Some((1, 1)), (2, 2), tcp));
        assert_eq!(read("::1:1:2"), (six, Some((1, 1)), (2, 2), tcp));
        assert_eq!(read("7-9:1-3"), (None, Some((7, 9)), (1, 3), tcp));
        assert_eq!(read("7-9:1"), (None, Some((7, 9)), (1, 1), tcp));
        for text in [
            "",
            ":",
            "x",
            "0",
            "65536",
            "80:",
            "1:2:3:4x",
            "2-1:2-1",
            "1-2:1-3",
            "80/sctp",
            "127.0.0.1:80",
            "[::1]:80",
            "host:1:2",
        ] {
            let error = Publish::parse(text).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn every_address_is_one_place_for_each_family() {
        let places = |host: &str| {
            let mapping = Mapping {
                host: host.parse().unwrap(),
                container: 80,
                protocol: Protocol::Tcp,
            };
            let places = mapping.places().into_iter();
            places.map(|place| place.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(places("[::]:8080"), ["0.0.0.0:8080", "[::]:8080"]);
        assert_eq!(places("0.0.0.0:8080"), ["0.0.0.0:8080"]);
        assert_eq!(places("[::1]:8080"), ["[::1]:8080"]);
    }

    #[test]
    fn ranges_are_matched_or_chosen_from() {
        let wanted = |text| Publish::parse(text).unwrap().wanted();
        assert_eq!(wanted("7-8:1-2"), [(1, vec![7]), (2, vec![8])]);
        assert_eq!(wanted("7-8:1"), [(1, vec![7, 8])]);
        assert_eq!(wanted("1-2"), [(1, vec![]), (2, vec![])]);
    }
}
