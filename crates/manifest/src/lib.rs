//! `kiln.toml` and `kiln.lock`: text to checked models, with every diagnostic at once.
//!
//! Knows nothing of files, networks, clocks or the environment: texts and values are
//! handed in.

#![forbid(unsafe_code)]

pub mod lock;
pub mod model;
mod span;
pub mod value;

pub use model::BuildManifest;
pub use span::{SourceText, Span, Spanned};
