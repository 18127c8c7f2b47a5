//! Programs of others that serve: started for a test or a measurement, and ended with the value.
//!
//! Knows nothing of kiln. Each has all that it writes below one folder, which whoever starts it owns and
//! removes afterwards.
#![forbid(unsafe_code)]

mod docker;
mod error;
mod object_store;
mod patience;
mod port;
mod postgres;
mod registry;

pub use docker::Docker;
pub use error::PeerError;
pub use object_store::{Certificate, ObjectStore};
pub use port::Port;
pub use postgres::{Ending, Postgres};
pub use registry::Registry;
