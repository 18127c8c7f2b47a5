//! From a checked manifest to a graph of nodes, and from a node's inputs to its cache key.
//!
//! ```text
//! BuildManifest ─lower→ BuildGraph{StepId→Node}          which nodes, in which order, on which layers
//! Step + Resolver ─of_step→ StepInputs ─describe→ CacheKey             what decides a node's result
//!                                      └describe→ text ─first_difference→ why a node runs again
//! BuildGraph ─render→ text | dot | mermaid | svg | json
//! ```
//!
//! Knows nothing of disks, stores, networks or clocks: digests, pins and layers are handed in.

#![forbid(unsafe_code)]

mod build_graph;
mod cycle;
mod explain;
mod file_graph;
mod inputs;
mod lower;
mod order;
mod outline;
mod render;
mod sink;
mod slot;
mod step_map;
mod target;
#[cfg(test)]
mod testing;
mod tree;

pub use build_graph::{
    BaseWork, BuildGraph, Edge, ImageBase, ImagePlan, Node, NodeName, Origin, ReachedTarget, Work,
};
pub use cycle::Cycle;
pub use explain::{Difference, first_difference};
pub use file_graph::{EdgeKind, ImageName};
pub use inputs::{
    BaseInputs, BuildInputs, FORMAT_VERSION, PackagePin, Resolver, StepInputs, url_file_name,
};
pub use outline::outline_cycles;
pub use render::{Mark, RenderFormat, Tone};
pub use sink::{CacheKey, Hasher, Sink, Text};
pub use slot::{ImageKey, PlatformChoice, PlatformRequest, Slot};
pub use step_map::{StepId, StepMap};
pub use target::{BuildTarget, GraphError};
pub use tree::{
    ChangeKind, ContentDigest, FileChange, FileEntry, FileKind, FileTree, ListingError, TreeDigest,
};
