//! Networks of containers: bridges, addresses, published ports, names.
//!
//! ```text
//! Networks::open(store, Outside)                 what there is, as records in the store
//! networks.join(&Joining) → Attachment           a namespace with addresses, ports and names; for one container
//! Host::spawn(… Network::Made(attachment.namespace()))
//! drop(attachment)                               or the end of the process
//! ```
//!
//! There is no daemon. The process that looks after a container holds its [`Attachment`]: it answers the container's
//! questions about names and carries what its published ports get. When that process is killed, the kernel takes the
//! container's namespace and devices away, and whoever uses the store next takes back addresses and rules.
//!
//! Knows nothing of images, manifests and of how containers are run.

#![forbid(unsafe_code)]

mod address;
mod attachment;
mod bridge;
mod connect;
mod endpoint;
mod error;
mod firewall;
mod forward;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod names;
mod neighbours;
mod netlink;
mod network;
mod networks;
mod outside;
mod port;
mod rootless;
mod wake;

pub use address::Asked;
pub use attachment::{Attachment, Joining, Membership, NAME_SERVER};
pub use endpoint::Endpoint;
pub use error::NetworkError;
pub use names::Resolvers;
pub use network::{DEFAULT_NETWORK, NetworkRecord, NewNetwork, Subnet};
pub use networks::{Member, Network, Networks};
pub use outside::Outside;
pub use port::{Mapping, Protocol, Publish};
pub use rootless::{SharedNetwork, hold};
