//! What can be wrong with a `kiln.lock`.

use miette::{Diagnostic, SourceSpan};
use thiserror::Error;

use crate::span::SourceText;

/// A `kiln.lock` that cannot be used. Nothing was read from it.
#[derive(Debug, Error, Diagnostic)]
#[must_use]
pub enum LockError {
    /// Git's conflict markers are in the file.
    #[error("`{name}` has unresolved merge conflicts")]
    #[diagnostic(
        code(lock::merge_conflict),
        help(
            "take either side (`git checkout --theirs {name}`), then run `kiln lock` to add what is missing"
        )
    )]
    MergeConflict {
        /// File name.
        name: String,
        /// The text.
        #[source_code]
        source_code: SourceText,
        /// First marker.
        #[label("the first conflict begins here")]
        at: SourceSpan,
    },
    /// The version is not the one this kiln knows.
    #[error("`{name}` has version {version}, and this kiln reads version {known}")]
    #[diagnostic(code(lock::unknown_version), help("{help}"))]
    UnknownVersion {
        /// File name.
        name: String,
        /// What the file says.
        version: i64,
        /// What we know.
        known: u32,
        /// What to do, depending on which is newer.
        help: &'static str,
        /// The text.
        #[source_code]
        source_code: SourceText,
        /// The version.
        #[label("this version")]
        at: SourceSpan,
    },
    /// The file does not have the shape of a lock.
    #[error("`{name}` is not a valid lock: {reason}")]
    #[diagnostic(
        code(lock::invalid),
        help("undo the change to this place, or delete the file and run `kiln lock`")
    )]
    Invalid {
        /// File name.
        name: String,
        /// What is wrong.
        reason: String,
        /// The text.
        #[source_code]
        source_code: SourceText,
        /// Where.
        #[label("here")]
        at: SourceSpan,
    },
}
