//! Images: assemble, validate, read and write layouts and archives.
//!
//! An [`Image`] is a manifest and a config that fit together; its layers are in the store,
//! unpacked, under the DiffIds in the config. Knows nothing of builds, registries or containers.
//!
//! ```text
//! base + layers + ConfigChanges ─assemble→ Image ─assemble_index→ index of several platforms
//! layout, archive ─Archive→ blobs, unpacked layers ─→ Image ─save→ layout, archive
//! Image ─LowerDirectories→ what a container or a step is mounted from
//! ```

#![forbid(unsafe_code)]

pub mod accounts;
mod archive;
mod assemble;
mod directories;
mod error;
mod export;
mod flatten;
mod image;
mod index;
mod listing;
mod lookup;
mod parallel;
mod save;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod validate;

pub use archive::{Archive, ArchiveImage};
pub use assemble::{Assembly, ConfigChanges, NewLayer, assemble};
pub use directories::{LowerDirectories, lower_directories};
pub use error::ImageError;
pub use export::{
    ExportProgress, ExportWatch, LayerBlob, encode_layer, export, export_layer, find_blob,
    write_layer_tar,
};
pub use flatten::flatten;
pub use image::{Image, ImageLayer, parse_config, parse_manifest, resolve};
pub use index::{Whole, assemble_index, is_runnable, load_all, load_for};
pub use listing::{BrokenImage, HistoryLine, ImageSummary, Inspection, history, inspect, list};
pub use lookup::find;
pub use save::{SavedImage, save, save_layout};
pub use tree::ImageTree;
pub use unpack::{UnpackSettings, unpack_coming, unpack_layer};
pub use validate::{Depth, Problem, validate};
