//! Images: assemble, validate, read and write layouts and archives.
//!
//! An [`Image`] is a manifest and a config that fit together; its layers are in the store,
//! unpacked, under the DiffIds in the config. Knows nothing of builds, registries or containers.

#![forbid(unsafe_code)]

pub mod accounts;
mod assemble;
mod error;
mod image;
mod listing;

pub use assemble::{Assembly, ConfigChanges, NewLayer, assemble, rfc3339};
pub use error::ImageError;
pub use image::{Image, ImageLayer, parse_config, parse_manifest, resolve};
pub use listing::{BrokenImage, HistoryLine, ImageSummary, Inspection, history, inspect, list};
