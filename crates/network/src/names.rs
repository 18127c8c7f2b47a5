//! Names of containers, answered inside of each container's network.
//!
//! Each container asks `127.0.0.11`, where the process that looks after it listens; nobody else can. It knows who is
//! in the container's networks from the store, and asks the machine's own servers about everything else.

pub(crate) mod answer;
mod resolvers;
mod server;
mod tcp;
mod upstream;
pub(crate) mod zone;

pub use resolvers::Resolvers;
pub(crate) use server::NameServer;
