//! What can go wrong with networks.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use kiln_store::StoreError;
use kiln_sys::Errno;

use crate::port::Protocol;

/// A network that cannot be made, used or removed.
#[derive(Debug, thiserror::Error)]
#[must_use]
#[non_exhaustive]
pub enum NetworkError {
    /// No network has this name or id.
    #[error("there is no network `{0}`; make it with `kiln network create {0}`")]
    Missing(String),
    /// A network has this name already.
    #[error("there is a network `{0}` already")]
    Exists(String),
    /// The name means something else.
    #[error("`{0}` is always there and can be neither made nor removed")]
    Reserved(String),
    /// Containers use it.
    #[error("the network `{network}` is in use by {}", list(containers))]
    InUse {
        /// The network.
        network: String,
        /// Containers, by name.
        containers: Vec<String>,
    },
    /// No container is there that could be connected.
    #[error("no container `{0}` with a network of its own is running")]
    NoContainer(String),
    /// A container is in a network already.
    #[error("the container `{container}` is in the network `{network}` already")]
    Connected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// A container is not in a network.
    #[error("the container `{container}` is not in the network `{network}`")]
    NotConnected {
        /// The container.
        container: String,
        /// The network.
        network: String,
    },
    /// A subnet, a range or a gateway that makes no sense.
    #[error("{0}")]
    Subnet(String),
    /// A subnet that something else has.
    #[error("the subnet {subnet} overlaps {other}, {what}; choose another one with `--subnet`")]
    Overlap {
        /// What was asked for.
        subnet: IpNet,
        /// What is there.
        other: IpNet,
        /// Whose that is.
        what: String,
    },
    /// No subnet is left.
    #[error("every subnet that kiln chooses from is in use; name one with `--subnet`")]
    NoSubnet,
    /// No address is left.
    #[error("the network `{network}` has no free address in {subnet}")]
    Full {
        /// The network.
        network: String,
        /// Where it looked.
        subnet: IpNet,
    },
    /// An address that was asked for cannot be had.
    #[error("the container cannot have the address {address} in the network `{network}`: {reason}")]
    Address {
        /// What was asked for.
        address: IpAddr,
        /// The network.
        network: String,
        /// Why not.
        reason: String,
    },
    /// Text that names no port.
    #[error("`{text}` is not a port to publish: {reason}")]
    NotAPort {
        /// What was written.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// A port is taken.
    #[error("port {address}/{protocol} is in use by {holder}")]
    PortInUse {
        /// Address and port.
        address: String,
        /// Which of the two.
        protocol: Protocol,
        /// Who has it, as far as can be seen.
        holder: String,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address}/{protocol}: {source}{advice}")]
    Listen {
        /// Address and port.
        address: String,
        /// Which of the two.
        protocol: Protocol,
        /// Why not.
        source: io::Error,
        /// What to do about it.
        advice: &'static str,
    },
    /// Ports need a way in.
    #[error("ports cannot be published: the network `{0}` is internal")]
    Internal(String),
    /// Without root, something else carries packets.
    #[error("{0}")]
    Rootless(String),
    /// The kernel said no.
    #[error("{doing}: {errno}")]
    Kernel {
        /// What was tried.
        doing: String,
        /// What it said.
        errno: Errno,
    },
    /// The system said no.
    #[error("cannot {doing} `{path}`: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl NetworkError {
    pub(crate) fn kernel(doing: impl Into<String>, errno: Errno) -> Self {
        let doing = doing.into();
        Self::Kernel { doing, errno }
    }

    /// Whether whoever asked can put it right by asking for something else.
    #[must_use]
    pub const fn is_askers(&self) -> bool {
        match self {
            Self::Missing(_)
            | Self::Exists(_)
            | Self::Reserved(_)
            | Self::InUse { .. }
            | Self::NoContainer(_)
            | Self::Connected { .. }
            | Self::NotConnected { .. }
            | Self::Subnet(_)
            | Self::Overlap { .. }
            | Self::NoSubnet
            | Self::Full { .. }
            | Self::Address { .. }
            | Self::NotAPort { .. }
            | Self::PortInUse { .. }
            | Self::Internal(_) => true,
            Self::Listen { .. }
            | Self::Rootless(_)
            | Self::Kernel { .. }
            | Self::Io { .. }
            | Self::Store(_) => false,
        }
    }
}

fn list(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

/// Goes on after a failure that only leaves something behind for the next one to clear away.
pub(crate) fn best_effort(doing: &str, outcome: Result<(), NetworkError>) {
    if let Err(error) = outcome {
        tracing::warn!("{doing}: {error}");
    }
}
