//! The store on disk: blobs, unpacked layers, references, step records, volumes, containers, locks, gc.
//!
//! ```no_run
//! use kiln_store::{Session, Store, Timestamp};
//! # fn main() -> Result<(), kiln_store::StoreError> {
//! let store = Store::open("/var/lib/kiln".as_ref())?;
//! let session = Session::begin(&store, Timestamp::from_seconds(1_800_000_000))?;
//! let draft = store.layers().draft(&session)?; // fill `draft.fs()`, then `draft.publish(…)`
//! # drop(draft);
//! session.finish()?; // one sync for all that was published
//! store.tidy()?; // what killed processes left
//! # Ok(())
//! # }
//! ```
//!
//! The folder is an OCI image layout with more beside it; `docs/formats/store.md` describes all of
//! it. Any number of processes may use one store at once, and any of them may be killed at any
//! moment: what is visible is whole. How that works is told in [`Session`].
//!
//! Knows nothing of manifests, graphs or what runs in containers, and never asks the clock: the caller says
//! what time it is.

#![forbid(unsafe_code)]

mod blobs;
mod caches;
mod clean;
mod containers;
mod disk;
mod error;
mod events;
mod gc;
mod history;
mod key;
mod layers;
mod lock;
mod logs;
mod measure;
mod name;
mod places;
mod pool;
mod references;
mod session;
mod sources;
mod stacks;
mod state;
mod steps;
mod store;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timestamp;
mod volumes;

pub use blobs::{BlobWriter, Blobs, End, Follower, Partial, Resume, Stored, Watch};
pub use caches::{CacheInfo, CacheUse, Caches};
pub use containers::{
    ContainerClaim, ContainerDraft, ContainerId, ContainerWatch, Containers, Kept,
};
pub use error::StoreError;
pub use events::Events;
pub use gc::{Area, DiskUse, GcPolicy, GcReport, Tally, Usage};
pub use history::{Histories, History, Projects, Seen};
pub use key::{StackKey, StepKey, TreeHash};
pub use layers::{LayerDraft, LayerRecord, Layers, Origin};
pub use lock::{Sharing, Wait};
pub use logs::{LogWriter, Logs};
pub use name::Name;
pub use places::Places;
pub use pool::Pool;
pub use references::{REFERENCE_NAME, References};
pub use session::{Pin, Published, Session};
pub use sources::{Scratch, SourceDraft, Sources};
pub use stacks::{StackDraft, Stacks};
pub use state::{StateFolder, StateLock};
pub use steps::{StepRecord, Steps};
pub use store::{FORMAT_VERSION, Store};
pub use timestamp::Timestamp;
pub use volumes::{VolumeRecord, VolumeUse, Volumes};
