//! Devices, addresses and routes.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "one attribute is looked for among all that the kernel has"
)]

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use kiln_sys::Errno;
use netlink_packet_core::{NetlinkSerializable, Parseable};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{CREATE, DUMP, EXCLUSIVE, Netlink, Request};
use crate::error::NetworkError;

/// The devices of one network namespace.
#[derive(Debug)]
pub(crate) struct Links(Netlink);

/// A network device, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkIndex(u32);

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// The loopback device, which every namespace has.
pub(crate) const LOOPBACK: LinkIndex = LinkIndex(1);

/// Two devices that are one cable: one end here on a bridge, the other in a container.
#[derive(Debug)]
pub(crate) struct Cable<'a> {
    /// Name of the end that stays here.
    pub(crate) here: &'a str,
    /// What it is plugged into.
    pub(crate) bridge: LinkIndex,
    /// The container's network namespace.
    pub(crate) there: BorrowedFd<'a>,
    /// Name of the end in there.
    pub(crate) name: &'a str,
    /// Its hardware address.
    pub(crate) mac: Mac,
    /// The most bytes of a packet.
    pub(crate) mtu: u32,
}

impl Links {
    /// Those of the namespace that the calling thread is in.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        Netlink::route().map(Self)
    }

    /// Looks for a device by name.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<LinkIndex>, NetworkError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let doing = format!("looking for the device `{name}`");
        let request = request(doing, 0, RouteNetlinkMessage::GetLink(link));
        match self.0.ask(&request) {
            Ok(told) => Ok(told
                .iter()
                .find_map(|body| LinkMessage::parse(body.as_slice()).ok())
                .map(|link| LinkIndex(link.header.index))),
            Err(NetworkError::Kernel {
                errno: Errno::NODEV,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The destinations of all routes that are not the default.
    pub(crate) fn subnets(&mut self) -> Result<Vec<IpNet>, NetworkError> {
        let routes = self.routes()?;
        let of_route = |route: &RouteMessage| {
            let length = route.header.destination_prefix_length;
            let address = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                        Some((*address).into())
                    }
                    RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                        Some((*address).into())
                    }
                    _ => None,
                })?;
            IpNet::new(address, length).ok()
        };
        Ok(routes
            .iter()
            .filter_map(of_route)
            .filter(|subnet| subnet.prefix_len() > 0)
            .collect())
    }

    /// The device that leads to everywhere else, if there is one.
    pub(crate) fn uplink(&mut self) -> Result<Option<LinkIndex>, NetworkError> {
        let routes = self.routes()?;
        let mut defaults = routes.iter().filter(|route| {
            route.header.destination_prefix_length == 0
                && route.header.kind == RouteType::Unicast
                && route.header.table == RouteHeader::RT_TABLE_MAIN
        });
        Ok(defaults.find_map(|route| {
            route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(LinkIndex(*index)),
                    _ => None,
                })
        }))
    }

    fn routes(&mut self) -> Result<Vec<RouteMessage>, NetworkError> {
        let doing = "listing routes".to_owned();
        let get = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        let told = self.0.ask(&request(doing, DUMP, get))?;
        let parsed = told.iter();
        Ok(parsed
            .filter_map(|body| RouteMessage::parse(body.as_slice()).ok())
            .collect())
    }

    /// The most bytes of a packet of a device.
    pub(crate) fn mtu(&mut self, link: LinkIndex) -> Result<Option<u32>, NetworkError> {
        let mut message = LinkMessage::default();
        message.header.index = link.0;
        let get = RouteNetlinkMessage::GetLink(message);
        let told = self
            .0
            .ask(&request("looking at a device".to_owned(), 0, get))?;
        let links = told.iter();
        let mut links = links.filter_map(|body| LinkMessage::parse(body.as_slice()).ok());
        Ok(links.find_map(|link| {
            link.attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                })
        }))
    }

    /// Makes a bridge that is up.
    pub(crate) fn make_bridge(
        &mut self,
        name: &str,
        mac: Mac,
        mtu: u32,
    ) -> Result<LinkIndex, NetworkError> {
        let mut link = up(LinkMessage::default());
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            // One that is not given changes with what is plugged in.
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let doing = format!("making the bridge `{name}`");
        let new = RouteNetlinkMessage::NewLink(link);
        let made = request(doing, CREATE | EXCLUSIVE, new);
        self.0.carry_out(&[made])?;
        self.find(name)?.ok_or_else(|| {
            NetworkError::kernel(format!("finding the new bridge `{name}`"), Errno::NODEV)
        })
    }

    /// Plugs a container into a bridge.
    pub(crate) fn plug_in(&mut self, cable: &Cable<'_>) -> Result<(), NetworkError> {
        // It cannot be switched on before the other end is there.
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(cable.name.to_owned()),
            LinkAttribute::NetNsFd(cable.there.as_raw_fd()),
            LinkAttribute::Address(cable.mac.to_vec()),
            LinkAttribute::Mtu(cable.mtu),
        ];
        let mut link = up(LinkMessage::default());
        link.attributes = vec![
            LinkAttribute::IfName(cable.here.to_owned()),
            LinkAttribute::Mtu(cable.mtu),
            LinkAttribute::Controller(cable.bridge.0),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let doing = format!("plugging `{}` into its bridge", cable.here);
        let new = RouteNetlinkMessage::NewLink(link);
        self.0.carry_out(&[request(doing, CREATE | EXCLUSIVE, new)])
    }

    /// Switches a device on, gives it addresses, and says through whom everything else is reached.
    pub(crate) fn configure(
        &mut self,
        link: LinkIndex,
        addresses: &[IpNet],
        gateways: &[IpAddr],
    ) -> Result<(), NetworkError> {
        let mut message = up(LinkMessage::default());
        message.header.index = link.0;
        let set = RouteNetlinkMessage::SetLink(message);
        let on = request("switching a device on".to_owned(), 0, set);
        let addresses = addresses.iter().map(|address| {
            let doing = format!("setting the address `{address}`");
            let new = RouteNetlinkMessage::NewAddress(address_message(link, *address));
            request(doing, CREATE | EXCLUSIVE, new)
        });
        let routes = gateways.iter().map(|gateway| {
            let doing = format!("setting the route through `{gateway}`");
            let new = RouteNetlinkMessage::NewRoute(default_route(link, *gateway));
            request(doing, CREATE | EXCLUSIVE, new)
        });
        let requests: Vec<Request> = [on].into_iter().chain(addresses).chain(routes).collect();
        self.0.carry_out(&requests)
    }

    /// Whether there is a device whose name begins so.
    pub(crate) fn has_any(&mut self, beginning: &str) -> Result<bool, NetworkError> {
        let get = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let request = request("listing devices".to_owned(), DUMP, get);
        let told = self.0.ask(&request)?;
        let links = told.iter();
        let mut links = links.filter_map(|body| LinkMessage::parse(body.as_slice()).ok());
        Ok(links.any(|link| {
            link.attributes.iter().any(
                |attribute| matches!(attribute, LinkAttribute::IfName(name) if name.starts_with(beginning)),
            )
        }))
    }

    /// Removes a device. It may be gone already.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), NetworkError> {
        let Some(index) = self.find(name)? else {
            return Ok(());
        };
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        let remove = RouteNetlinkMessage::DelLink(message);
        let doing = format!("removing the device `{name}`");
        match self.0.carry_out(&[request(doing, 0, remove)]) {
            Err(NetworkError::Kernel {
                errno: Errno::NODEV,
                ..
            }) => Ok(()),
            removed => removed,
        }
    }
}

fn request(doing: String, flags: u16, message: RouteNetlinkMessage) -> Request {
    let mut body = vec![0; NetlinkSerializable::buffer_len(&message)];
    message.serialize(&mut body);
    Request {
        doing,
        kind: message.message_type(),
        flags,
        body,
    }
}

fn up(mut link: LinkMessage) -> LinkMessage {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address_message(link: LinkIndex, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(address.addr()),
        prefix_len: address.prefix_len(),
        // Nobody else can have it, so that nobody needs to be asked: that takes a second.
        flags: match address {
            IpNet::V4(_) => AddressHeaderFlags::empty(),
            IpNet::V6(_) => AddressHeaderFlags::Nodad,
        },
        index: link.0,
        ..AddressHeader::default()
    };
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    if let IpNet::V4(address) = address {
        let broadcast = AddressAttribute::Broadcast(address.broadcast());
        message.attributes.push(broadcast);
    }
    message
}

fn default_route(link: LinkIndex, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(gateway),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Gateway(gateway.into()),
        RouteAttribute::Oif(link.0),
    ];
    message
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(body: &[u8]) {
    drop((LinkMessage::parse(body), RouteMessage::parse(body)));
}
