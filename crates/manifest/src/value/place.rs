//! Small values with a structure: destinations, sources, patterns, ports.

use kiln_oci::Reference;

use super::{ContainerPath, Glob, Name, ValueError};
use crate::model::{Destination, Network, Port, PortProtocol, Transport};

impl Destination {
    /// Reads an absolute path; a trailing `/` says that it is a folder to put things into.
    ///
    /// # Errors
    /// As [`ContainerPath::parse`].
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let path = ContainerPath::parse(text)?;
        let into_folder = text.ends_with('/');
        Ok(Self { path, into_folder })
    }
}

/// A name, or `image.step`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SourceName {
    Plain(Name),
    Dotted(Name, Name),
}

impl SourceName {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        let parsed = match text.split_once('.') {
            None => Name::parse(text).map(Self::Plain),
            Some((image, step)) => {
                Name::parse(image).and_then(|image| Ok(Self::Dotted(image, Name::parse(step)?)))
            }
        };
        parsed.map_err(|_either| {
            ValueError::new(
                "is not the name of an image or a step",
                "write `image.step`, or the name of a step beside this one or of an image; a registry's image is taken in by an `[image.NAME]` with `from = { registry = … }`",
            )
        })
    }
}

/// A pattern, maybe with a leading `!` that leaves out what it matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FilePattern {
    Include(Glob),
    Exclude(Glob),
}

impl FilePattern {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        match text.strip_prefix('!') {
            Some(rest) => Glob::parse(rest).map(Self::Exclude),
            None => Glob::parse(text).map(Self::Include),
        }
    }
}

/// The target of a symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkTarget(pub(crate) String);

impl LinkTarget {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() || text.len() >= 4096 || text.contains('\0') {
            return Err(ValueError::new(
                "cannot be the target of a link",
                "write a path, absolute or relative to the link's folder",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// An argument of a command: anything the kernel can pass on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Text(pub(crate) String);

impl Text {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        if text.contains('\0') {
            return Err(ValueError::new(
                "contains a NUL character",
                "remove it: neither arguments nor the environment can hold it",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The key of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LabelName(pub(crate) String);

impl LabelName {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() || text.contains(char::is_control) {
            return Err(ValueError::new(
                "is not the name of a label",
                "write a name such as \"org.opencontainers.image.title\"",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Port {
    /// Reads `8000` or `8000/udp`.
    ///
    /// # Errors
    /// [`ValueError`] if it is no port or protocol.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let wrong = || {
            ValueError::new(
                "is not a port",
                "write a number from 1 to 65535, and optionally `/tcp`, `/udp` or `/sctp`",
            )
        };
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol {
            "tcp" => PortProtocol::Tcp,
            "udp" => PortProtocol::Udp,
            "sctp" => PortProtocol::Sctp,
            _ => return Err(wrong()),
        };
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|number| digits && *number > 0);
        let number = number.ok_or_else(wrong)?;
        Ok(Self { number, protocol })
    }
}

impl Network {
    /// Reads `none`, `host` or `bridge`.
    ///
    /// # Errors
    /// [`ValueError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            "bridge" => Ok(Self::Bridge),
            _ => Err(ValueError::new(
                "is not a network",
                "write \"none\", \"host\" or \"bridge\"; networks of this file stand in `networks`",
            )),
        }
    }
}

impl Transport {
    /// Reads `tcp` or `udp`.
    ///
    /// # Errors
    /// [`ValueError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(ValueError::new(
                "is not a protocol that ports are published for",
                "write \"tcp\" or \"udp\"",
            )),
        }
    }
}

/// An address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostAddress(pub(crate) std::net::IpAddr);

impl HostAddress {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_not_one| {
            ValueError::new(
                "is not an address",
                "write one of IPv4 or IPv6, such as \"127.0.0.1\"",
            )
        })
    }
}

/// The name of a machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostName(pub(crate) String);

impl HostName {
    /// RFC 1123 labels, at most the 64 bytes that Linux keeps.
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        let label = |part: &str| {
            (1..=63).contains(&part.len())
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if text.len() <= 64 && text.split('.').all(label) {
            return Ok(Self(text.to_owned()));
        }
        Err(ValueError::new(
            "is not a host name",
            "use letters, digits and `-`, at most 64 in all",
        ))
    }
}

/// The name of a user or a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccountName(pub(crate) String);

impl AccountName {
    pub(crate) fn parse(text: &str) -> Result<Self, ValueError> {
        super::scalar::check_account_name(text).map_err(|_spec| {
            ValueError::new(
                "is not the name of an account",
                "use letters, digits, `_`, `-` and `.`, beginning with a letter or `_`, at most 32",
            )
        })?;
        Ok(Self(text.to_owned()))
    }
}

/// Reads an image reference.
pub(crate) fn reference(text: &str) -> Result<Reference, ValueError> {
    text.parse::<Reference>().map_err(|error| {
        ValueError::new(
            format!("is not an image reference: {}", error.fault),
            "write it like \"docker.io/library/debian:12-slim\"",
        )
    })
}
