//! Large bodies on their way out: streamed from a source, a piece at a time.
//!
//! What a server keeps of a body that broke off, only its protocol says. So a failed [`Client::send`]
//! is handed to the caller, together with whether another try makes sense, and [`Client::upload`]
//! starts over by itself only where asking twice is as good as asking once.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use crate::cancel::Cancel;
use crate::client::Client;
use crate::error::Error;
use crate::request::{Request, Response};
use crate::retry::Failure;
use crate::transport;
use crate::url::Url;

/// The largest answer to an upload, in bytes.
const LARGEST_ANSWER: u64 = 4 << 20;
/// How slowly a server may digest what it was sent: it hashes and copies before it answers.
const DIGESTED_PER_SECOND: u64 = 8 << 20;

/// What a body of unknown size is taken for when that is said before it is sent.
const UNKNOWN_BYTES: u64 = 4 << 30;

/// Bytes to send, opened anew for each try.
pub trait Source {
    /// Opens the bytes that are sent, at their start.
    ///
    /// # Errors
    /// What the storage says.
    fn open(&self) -> io::Result<Box<dyn Read + '_>>;
}

/// Bytes in memory.
impl Source for &[u8] {
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(*self))
    }
}

/// A request with a body that is streamed.
#[derive(Clone, Copy)]
pub struct Upload<'a> {
    /// The request, a `PUT`, `PATCH` or `POST`.
    pub request: &'a Request,
    /// What is sent.
    pub source: &'a dyn Source,
    /// Its exact size; what is of no size that is known is sent in chunks until it ends.
    pub size_bytes: Option<u64>,
}

impl fmt::Debug for Upload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("request", &self.request)
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Sends once, and returns the whole reply. Blocks.
    ///
    /// `progress` hears after each piece how many bytes have left; it falls to 0 when a redirect asks
    /// for them elsewhere. A redirect to another host gets the body and no credentials.
    ///
    /// # Errors
    /// A [`Failure`] with [`Error::Source`] for a source that fails or has another size, and
    /// otherwise with what [`fetch`](Self::fetch) reports: [`Attempts`](crate::Attempts) says whether
    /// and when to try again.
    pub fn send(
        &self,
        upload: &Upload<'_>,
        progress: &mut dyn FnMut(u64),
        cancel: &Cancel,
    ) -> Result<Response, Failure> {
        let mut stream = Stream {
            source: upload.source,
            size_bytes: upload.size_bytes,
            progress,
        };
        self.exchange_body(upload.request, &[], Some(&mut stream), cancel)?
            .whole(LARGEST_ANSWER)
    }

    /// Sends, and starts over after failures that may pass. Blocks.
    ///
    /// A method that is not idempotent is sent once.
    ///
    /// # Errors
    /// [`Error::Source`], and what [`fetch`](Self::fetch) reports.
    pub fn upload(
        &self,
        upload: &Upload<'_>,
        progress: &mut dyn FnMut(u64),
        cancel: &Cancel,
    ) -> Result<Response, Error> {
        let mut attempts = self.attempts(upload.request);
        loop {
            match self.send(upload, progress, cancel) {
                Ok(response) => return Ok(response),
                Err(failure) if upload.request.method.is_idempotent() => {
                    attempts.wait(failure, cancel)?;
                }
                Err(failure) => {
                    cancel.check()?;
                    return Err(*failure.error);
                }
            }
        }
    }
}

/// The body of one exchange, which redirects may open several times.
pub(crate) struct Stream<'a> {
    source: &'a dyn Source,
    pub(crate) size_bytes: Option<u64>,
    progress: &'a mut dyn FnMut(u64),
}

impl Stream<'_> {
    pub(crate) fn open(&mut self, url: &Url) -> Result<Outgoing<'_>, Failure> {
        (self.progress)(0);
        let inner = self.source.open().map_err(|source| {
            Failure::last(Error::Source {
                url: url.shown(),
                source,
            })
        })?;
        Ok(Outgoing {
            inner,
            size_bytes: self.size_bytes,
            sent_bytes: 0,
            progress: &mut *self.progress,
            failed: None,
        })
    }

    /// Returns how long the answer may take after the last byte.
    pub(crate) fn answer_time(&self, first_byte: Duration) -> Duration {
        let size_bytes = self.size_bytes.unwrap_or(UNKNOWN_BYTES);
        first_byte + Duration::from_secs(size_bytes / DIGESTED_PER_SECOND)
    }
}

/// Reads the source for ureq: exactly as many bytes as were announced, if any were.
pub(crate) struct Outgoing<'a> {
    inner: Box<dyn Read + 'a>,
    size_bytes: Option<u64>,
    sent_bytes: u64,
    progress: &'a mut dyn FnMut(u64),
    /// Kept here: among ureq's errors it would look like one of the network.
    failed: Option<io::Error>,
}

impl Outgoing<'_> {
    /// Reports a source that failed.
    pub(crate) fn checked(self, url: &Url) -> Result<(), Failure> {
        match self.failed {
            None => Ok(()),
            Some(source) => Err(Failure::last(Error::Source {
                url: url.shown(),
                source,
            })),
        }
    }

    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) if !buffer.is_empty() => {
                    let Some(size_bytes) = self.size_bytes else {
                        return Ok(0);
                    };
                    return Err(io::Error::other(format!(
                        "it ends after {} of {size_bytes} bytes",
                        self.sent_bytes
                    )));
                }
                other => return other,
            }
        }
    }
}

impl Read for Outgoing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self
            .size_bytes
            .map(|size_bytes| size_bytes - self.sent_bytes);
        let room = left.map_or(buffer.len(), |left| {
            usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()))
        });
        if room == 0 {
            return Ok(0);
        }
        if transport::answered() {
            // Nobody takes it; a length that was announced must come true.
            let pretended = if left.is_some() { room } else { 0 };
            self.sent_bytes += pretended as u64;
            return Ok(pretended);
        }
        match self.piece(&mut buffer[..room]) {
            Ok(read) => {
                self.sent_bytes += read as u64;
                (self.progress)(self.sent_bytes);
                Ok(read)
            }
            Err(error) => {
                let shown = io::Error::new(error.kind(), error.to_string());
                self.failed = Some(error);
                Err(shown)
            }
        }
    }
}
