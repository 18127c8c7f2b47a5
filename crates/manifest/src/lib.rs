//! `kiln.toml` and `kiln.lock`: text to checked models, with every diagnostic at once.
//!
//! ```text
//! text ─tree→ values with places ─profiles, variables, decode→ written ─check→ model
//! ```
//!
//! [`BuildManifest::parse`] is the door; what it gives is described in [`model`]. Every
//! [`Problem`] is collected, none stops the others, and later crates render their own
//! diagnostics against [`BuildManifest::source`].
//!
//! Knows nothing of files, networks, clocks or the environment: texts and values are
//! handed in.

#![forbid(unsafe_code)]

mod check;
mod decode;
mod errors;
pub mod lock;
pub mod model;
mod outline;
mod parse;
mod problem;
mod reference;
mod schema;
mod span;
mod suggest;
mod syntax;
mod tree;
pub mod value;
mod variables;
mod written;

pub use errors::ManifestErrors;
pub use model::BuildManifest;
pub use outline::{Outline, OutlineKind, OutlinePart, OutlineReference};
pub use parse::Overrides;
pub use problem::Problem;
pub use reference::reference;
pub use schema::schema;
pub use span::{SourceText, Span, Spanned};
pub use suggest::nearest;
