//! Large bodies: streamed into a sink, hashed on the way, resumed where they broke off.

use kiln_oci::{Digest, Hasher};
use std::io::{self, Write};

use crate::cancel::Cancel;
use crate::client::Client;
use crate::error::{BODY_TEXT_BYTES, BodyText, Error};
use crate::exchange::Reply;
use crate::request::Request;
use crate::retry::{Again, Attempts, Failure};
use crate::sink::Sink;

/// Read from a body and written to the sink at once, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// What to download and what it must be.
#[derive(Debug, Clone)]
pub struct Download {
    /// The request, a `GET`.
    pub request: Request,
    /// The digest the bytes must have. Without it nothing of an earlier process is used.
    pub digest: Option<Digest>,
    /// The exact size the body must have.
    pub size_bytes: Option<u64>,
    /// The largest size taken when `size_bytes` is not known.
    pub limit_bytes: u64,
}

/// A finished download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downloaded {
    /// The digest of the bytes, computed here.
    pub digest: Digest,
    /// Their number.
    pub size_bytes: u64,
    /// How many of them the sink held before.
    pub held_bytes: u64,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes in the sink; falls when a server cannot resume and the download starts anew.
    pub done_bytes: u64,
    /// The size of the whole, if it is known.
    pub total_bytes: Option<u64>,
}

impl Client {
    /// Downloads into `sink`, going on where it ends if possible, and checks size and digest. Blocks.
    ///
    /// `progress` is called after each piece. On success the sink holds exactly the bytes asked for,
    /// not synced. The number of tries counts from the last one that got further.
    ///
    /// # Errors
    /// [`Error::Status`] for what the server refuses; [`Error::WrongSize`], [`Error::TooLarge`] and
    /// [`Error::WrongDigest`] for wrong bytes, with the sink emptied; what
    /// [`fetch`](Self::fetch) reports. After all others the sink keeps what came, so that the same
    /// call goes on from there.
    pub fn download(
        &self,
        download: &Download,
        sink: &mut dyn Sink,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<Downloaded, Error> {
        let mut attempts = Attempts::new(&self.settings().retry, &download.request);
        let mut part = Part::open(download, sink)?;
        let result = loop {
            let before = part.done_bytes;
            match part.transfer(self, progress, cancel) {
                Ok(()) => match part.finish() {
                    // The bytes of the earlier process may be the bad ones.
                    Err(Error::WrongDigest { .. }) if part.held_bytes > 0 => part.restart()?,
                    result => break result,
                },
                Err(failure) => {
                    if part.done_bytes > before {
                        attempts.reset();
                    }
                    if let Err(error) = attempts.wait(failure, cancel) {
                        break Err(error);
                    }
                }
            }
        };
        if let Err(Error::WrongSize { .. } | Error::TooLarge { .. } | Error::WrongDigest { .. }) =
            result
        {
            part.restart()?;
        }
        result
    }
}

/// The bytes there are so far.
struct Part<'a> {
    download: &'a Download,
    sink: &'a mut dyn Sink,
    /// Absent when the sink hashes by itself.
    hasher: Option<Hasher<io::Sink>>,
    done_bytes: u64,
    /// Of these, held before this call.
    held_bytes: u64,
    /// Names the version of the body that the bytes are from (`ETag` or `Last-Modified`).
    validator: Option<String>,
    /// Status of the last reply and how its body started, for messages.
    status: u16,
    start: Vec<u8>,
}

impl<'a> Part<'a> {
    fn open(download: &'a Download, sink: &'a mut dyn Sink) -> Result<Self, Error> {
        let mut part = Part {
            download,
            sink,
            hasher: None,
            done_bytes: 0,
            held_bytes: 0,
            validator: None,
            status: 0,
            start: Vec::new(),
        };
        if part.sink.digest().is_none() {
            part.hasher = Some(Hasher::new(io::sink()));
        }
        let held = part.sink.held().map_err(|error| part.sink_failed(error))?;
        if held == 0 {
            return Ok(part);
        }
        if part.download.digest.is_none() || held > part.largest() {
            part.restart()?;
            return Ok(part);
        }
        let Part { sink, hasher, .. } = &mut part;
        if let Some(hasher) = hasher {
            let mut hashed = Ok(());
            let reread = sink.reread(&mut |bytes| {
                if hashed.is_ok() {
                    hashed = hasher.write_all(bytes);
                }
            });
            reread
                .and(hashed)
                .map_err(|error| part.sink_failed(error))?;
        }
        part.done_bytes = held;
        part.held_bytes = held;
        Ok(part)
    }

    fn largest(&self) -> u64 {
        self.download
            .size_bytes
            .unwrap_or(self.download.limit_bytes)
    }

    fn sink_failed(&self, source: io::Error) -> Error {
        Error::Sink {
            url: self.download.request.url.shown(),
            source,
        }
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.sink
            .restart()
            .map_err(|error| self.sink_failed(error))?;
        if self.hasher.is_some() {
            self.hasher = Some(Hasher::new(io::sink()));
        }
        self.done_bytes = 0;
        self.held_bytes = 0;
        self.validator = None;
        self.start.clear();
        Ok(())
    }

    /// Asks for what is missing and takes it, in one try.
    fn transfer(
        &mut self,
        client: &Client,
        progress: &mut dyn FnMut(Progress),
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        if self.download.size_bytes == Some(self.done_bytes) && self.done_bytes > 0 {
            return Ok(());
        }
        let mut extra = Vec::new();
        if self.done_bytes > 0 {
            match &self.validator {
                Some(validator) => extra.push(("if-range", validator.clone())),
                // A digest tells at the end whether the pieces belong together.
                None if self.download.digest.is_some() => {}
                None => self.restart()?,
            }
        }
        if self.done_bytes > 0 {
            extra.push(("range", format!("bytes={}-", self.done_bytes)));
        }
        let mut reply = client.exchange(&self.download.request, &extra, cancel)?;
        let announced = self.accept(&mut reply)?;
        let total_bytes = self.download.size_bytes.or(announced);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let mut filled = 0;
            // Small pieces are gathered, so that the sink is not called for each packet.
            let ended = loop {
                match reply.read(&mut buffer[filled..]) {
                    Ok(0) => break Ok(true),
                    Ok(read) => filled += read,
                    // What came before a break is worth keeping.
                    Err(failure) => break Err(failure),
                }
                if filled >= buffer.len() / 2 {
                    break Ok(false);
                }
            };
            self.take(&buffer[..filled])?;
            progress(Progress {
                done_bytes: self.done_bytes,
                total_bytes,
            });
            if ended? {
                break;
            }
            cancel.check()?;
        }
        match total_bytes {
            Some(total) if self.done_bytes < total => Err(Failure::new(
                self.wrong_size(total, self.done_bytes),
                Again::Later,
            )),
            _ => Ok(()),
        }
    }

    /// Checks status and headers; returns the size of the whole that they announce.
    fn accept(&mut self, reply: &mut Reply) -> Result<Option<u64>, Failure> {
        self.status = reply.status;
        let contradicts = |reason: String| Error::Protocol {
            url: reply.url.shown(),
            reason,
        };
        let announced = match reply.status {
            200 => {
                if self.done_bytes > 0 {
                    self.restart()?;
                }
                reply.headers.number("content-length")
            }
            206 if self.done_bytes > 0 => {
                let (start, total) = reply
                    .headers
                    .get("content-range")
                    .and_then(content_range)
                    .ok_or_else(|| {
                        contradicts("a part without a readable `Content-Range`".to_owned())
                    })?;
                if start != self.done_bytes {
                    let asked = self.done_bytes;
                    return Err(contradicts(format!(
                        "a part from byte {start} where {asked} was asked for"
                    ))
                    .into());
                }
                total
            }
            // The range is not one of the body: what is held is not a start of it.
            416 if self.done_bytes > 0 => {
                let error = contradicts("it cannot go on where the download stopped".to_owned());
                self.restart()?;
                return Err(Failure::new(error, Again::AtOnce));
            }
            status => {
                return Err(Failure::last(Error::Status {
                    url: reply.url.shown(),
                    status,
                    body: reply.text(),
                }));
            }
        };
        if self.validator.is_none() {
            let headers = &reply.headers;
            let strong = headers.get("etag").filter(|tag| tag.starts_with('"'));
            self.validator = strong
                .or_else(|| headers.get("last-modified"))
                .map(str::to_owned);
        }
        let wrong = match (self.download.size_bytes, announced) {
            (Some(expected), Some(total)) if total != expected => Some(total),
            (None, Some(total)) if total > self.download.limit_bytes => Some(total),
            _ => None,
        };
        if let Some(total) = wrong {
            let error = Error::WrongSize {
                url: reply.url.shown(),
                status: reply.status,
                expected: self.largest(),
                actual: total,
                body: reply.text(),
            };
            return Err(Failure::last(error));
        }
        Ok(announced)
    }

    /// Adds a piece.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.start.len() < BODY_TEXT_BYTES {
            let room = BODY_TEXT_BYTES - self.start.len();
            self.start
                .extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        let done = self.done_bytes + bytes.len() as u64;
        if done > self.largest() {
            let error = match self.download.size_bytes {
                Some(expected) => self.wrong_size(expected, done),
                None => Error::TooLarge {
                    url: self.download.request.url.shown(),
                    status: self.status,
                    limit_bytes: self.download.limit_bytes,
                    body: BodyText::of(&self.start),
                },
            };
            return Err(Failure::last(error));
        }
        self.sink
            .append(bytes)
            .map_err(|error| self.sink_failed(error))?;
        if let Some(hasher) = &mut self.hasher {
            hasher
                .write_all(bytes)
                .map_err(|error| self.sink_failed(error))?;
        }
        self.done_bytes = done;
        Ok(())
    }

    fn wrong_size(&self, expected: u64, actual: u64) -> Error {
        Error::WrongSize {
            url: self.download.request.url.shown(),
            status: self.status,
            expected,
            actual,
            body: BodyText::of(&self.start),
        }
    }

    fn finish(&mut self) -> Result<Downloaded, Error> {
        let actual = match &mut self.hasher {
            Some(hasher) => {
                let hasher = std::mem::replace(hasher, Hasher::new(io::sink()));
                Some(hasher.finish().1)
            }
            None => self.sink.digest(),
        };
        let actual = actual.ok_or_else(|| {
            self.sink_failed(io::Error::other("it does not know the digest of its bytes"))
        })?;
        match self.download.digest {
            Some(expected) if expected != actual => Err(Error::WrongDigest {
                url: self.download.request.url.shown(),
                status: self.status,
                expected,
                actual,
                body: BodyText::of(&self.start),
            }),
            _ => Ok(Downloaded {
                digest: actual,
                size_bytes: self.done_bytes,
                held_bytes: self.held_bytes,
            }),
        }
    }
}

/// Reads `bytes 5-9/10` or `bytes 5-9/*`: the start, and the size of the whole.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _end) = range.split_once('-')?;
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((start.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes */10",
            "items 5-9/10",
            "bytes -1-9/10",
            "bytes 5-9/-1",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
