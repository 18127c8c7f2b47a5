//! The doors through which this crate reaches the outside: the network, a place for downloads, the
//! screen. The caller implements them.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use kiln_oci::{Digest, VerifiedReader};

/// Gets resources of an archive. Blocks; called from several threads at once.
pub trait Fetch: Sync {
    /// Returns the whole resource at `url` (`http:` or `https:`), redirections followed and passing
    /// troubles retried.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] if the server says there is no such thing, else
    /// [`FetchError::Failed`], also for more than `limit_bytes`.
    fn read(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError>;

    /// Downloads `url` into the place for downloads and returns its path there, once it is complete
    /// and has exactly this size and digest. `progress` is told the bytes that have come so far.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] as above; [`FetchError::WrongContent`] if size or digest are others,
    /// and then nothing is kept; else [`FetchError::Failed`].
    fn download(
        &self,
        url: &str,
        digest: &Digest,
        size_bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, FetchError>;
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
    /// The bytes are not the ones asked for.
    #[error("`{url}` is not what it must be")]
    WrongContent {
        /// The address asked for.
        url: String,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything else: no route, refused, timed out, broken off, the disk is full.
    #[error("cannot get `{url}`")]
    Failed {
        /// The address asked for.
        url: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
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
    /// So much of it has come.
    fn download_advanced(&self, name: &str, done_bytes: u64);
    /// It is complete and checked.
    fn download_finished(&self, name: &str);
    /// Output of the package tools and maintainer scripts, in pieces as they come.
    fn output(&self, bytes: &[u8]);
    /// Whether the user has given up; asked between two pieces of work.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn download_started(&self, _name: &str, _size_bytes: u64) {}
    fn download_advanced(&self, _name: &str, _done_bytes: u64) {}
    fn download_finished(&self, _name: &str) {}
    fn output(&self, _bytes: &[u8]) {}
}

/// The doors, together.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "the doors are not values")]
pub struct Outside<'a> {
    /// The network.
    pub fetch: &'a dyn Fetch,
    /// The place for downloads.
    pub downloads: &'a dyn Downloads,
    /// The screen.
    pub progress: &'a dyn Progress,
}

impl Outside<'_> {
    /// Reads all of `url`, which may be a `file:` address.
    pub(crate) fn read(&self, url: &str, limit_bytes: u64) -> Result<Vec<u8>, FetchError> {
        let Some(file) = open_local(url)? else {
            return self.fetch.read(url, limit_bytes);
        };
        let mut bytes = Vec::new();
        let read = file
            .take(limit_bytes.saturating_add(1))
            .read_to_end(&mut bytes);
        if let Err(source) = read {
            return Err(failed(url, source));
        }
        if bytes.len() as u64 > limit_bytes {
            return Err(failed(url, io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        Ok(bytes)
    }

    /// Returns the file with this digest, downloaded from `url` if it is not here yet.
    pub(crate) fn obtain(
        &self,
        url: &str,
        digest: &Digest,
        size_bytes: u64,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, FetchError> {
        let Some(file) = open_local(url)? else {
            return self.fetch.download(url, digest, size_bytes, progress);
        };
        let mut reader = VerifiedReader::new(file, *digest, size_bytes);
        self.downloads.put(digest, &mut reader).map_err(|error| {
            match error.kind() == io::ErrorKind::InvalidData {
                true => FetchError::WrongContent {
                    url: url.to_owned(),
                    source: Box::new(error),
                },
                false => failed(url, error),
            }
        })
    }
}

fn failed(url: &str, source: io::Error) -> FetchError {
    FetchError::Failed {
        url: url.to_owned(),
        source: Box::new(source),
    }
}

/// Opens the file a `file:` address names; `None` for other addresses.
fn open_local(url: &str) -> Result<Option<File>, FetchError> {
    let Some(path) = url.strip_prefix("file:") else {
        return Ok(None);
    };
    let path = path.strip_prefix("//").unwrap_or(path);
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(FetchError::NotFound {
            url: url.to_owned(),
        }),
        Err(error) => Err(failed(url, error)),
    }
}
