//! Why an image did not arrive.

use kiln_image::ImageError;
use kiln_oci::Reference;
use kiln_store::StoreError;

/// A transfer that failed. What came or went until then is not done again by the next try.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum TransferError {
    /// The registry, or the way to it.
    #[error(transparent)]
    Client(#[from] kiln_client::Error),
    /// The image does not fit together, or a layer cannot be unpacked or compressed.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is attached to an image is more than anybody attaches.
    #[error("`{reference}` has {what}, more than the {limit} that are read")]
    TooMuch {
        /// The image.
        reference: Box<Reference>,
        /// What there is too much of.
        what: String,
        /// What would be read.
        limit: u64,
    },
    /// The list of what is attached to an image is no list.
    #[error("`{reference}` does not name a list of what is attached to an image: {reason}")]
    NoList {
        /// The name of the list.
        reference: Box<Reference>,
        /// What is wrong with it.
        reason: String,
    },
}

impl TransferError {
    /// Tells whether it was stopped by its [`Cancel`](kiln_http::Cancel).
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Client(error) => error.is_cancelled(),
            Self::Image(_) | Self::Store(_) | Self::TooMuch { .. } | Self::NoList { .. } => false,
        }
    }
}
