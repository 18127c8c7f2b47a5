//! Images on their way between the store and registries.
//!
//! The seam between `store`, which knows nothing of the network, and `client`, which knows nothing
//! of files: [`StoreSink`] takes pulled blobs in, [`StoreSource`] hands out what is pushed. On top of
//! them a [`Transfer`] pulls an image until it can be started, pushes one that was built, and attaches to it what
//! is said about it.
//!
//! Knows nothing of manifests, builds or terminals.
//!
//! ```text
//! pull: registry ─blobs, several at once→ store ─each while it comes→ unpacked layers
//! push: unpacked layers ─compressed, several at once→ registry
//!       blobs of the store ─what is missing→ registry
//! ```

#![forbid(unsafe_code)]

mod attach;
mod attached;
mod deliver;
mod error;
mod layer;
mod made;
mod pull;
mod push;
mod sink;
mod source;
mod unpacking;

use kiln_client::Registry;
use kiln_http::Cancel;
use kiln_store::Session;

pub use attached::{attached, copy_attached};
pub use deliver::{Delivered, Delivery};
pub use error::TransferError;
pub use push::PushedImage;
pub use sink::{PartialSink, StoreSink};
pub use source::StoreSource;

/// A store in use and the registries it is filled from and sent to.
#[derive(Debug, Clone, Copy)]
pub struct Transfer<'a> {
    /// The use of the store; what is transferred is pinned by it.
    pub session: &'a Session,
    /// The registries.
    pub registry: &'a Registry,
    /// Ends what is under way.
    pub cancel: &'a Cancel,
}
