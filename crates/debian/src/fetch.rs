//! The doors through which this crate reaches the outside: the network, a place for downloads, the
//! screen. The caller implements them.

use std::io::{self, Read};
use std::path::PathBuf;

use kiln_oci::Digest;

/// Gets resources of an archive. Blocks; called from several threads at once.
pub trait Fetch: Sync {
    /// Opens the resource at `url` (`http:` or `https:`), redirections followed and passing troubles
    /// retried.
    ///
    /// The reader yields at most `limit_bytes`, and an error of kind
    /// [`FileTooLarge`](io::ErrorKind::FileTooLarge) if there is more.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] if the server says there is no such thing, else
    /// [`FetchError::Failed`].
    fn get(&self, url: &str, limit_bytes: u64) -> Result<Box<dyn Read + Send>, FetchError>;
}

/// Why a resource could not be had.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum FetchError {
    /// The server has no such resource (404, 410), or the file does not exist.
    #[error("`{url}` does not exist")]
    NotFound {
        /// The address asked for.
        url: String,
    },
    /// Anything else: no route, refused, timed out, broken off.
    #[error("cannot get `{url}`")]
    Failed {
        /// The address asked for.
        url: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

/// A place for downloaded files, by digest. Called from several threads at once.
pub trait Downloads: Sync {
    /// Returns the file with this digest, if it is here.
    ///
    /// # Errors
    /// What the file system says.
    fn find(&self, digest: &Digest) -> io::Result<Option<PathBuf>>;

    /// Stores what `reader` yields as the file with `digest`, and returns its path.
    ///
    /// `reader` checks digest and size itself and ends with an error if they are wrong; then nothing
    /// may be kept, and the error is passed on.
    ///
    /// # Errors
    /// What the reader or the file system says.
    fn put(&self, digest: &Digest, reader: &mut dyn Read) -> io::Result<PathBuf>;
}

/// Something the user may want to see. Called from several threads at once.
pub trait Progress: Sync {
    /// A file is about to be downloaded.
    fn download_started(&self, name: &str, size_bytes: u64);
    /// `bytes` more of it have come.
    fn download_advanced(&self, name: &str, bytes: u64);
    /// It is complete and checked.
    fn download_finished(&self, name: &str);
    /// Output of the package tools and maintainer scripts, in pieces as they come.
    fn output(&self, bytes: &[u8]);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn download_started(&self, _name: &str, _size_bytes: u64) {}
    fn download_advanced(&self, _name: &str, _bytes: u64) {}
    fn download_finished(&self, _name: &str) {}
    fn output(&self, _bytes: &[u8]) {}
}
