//! One blob on its way to a registry while it is being made.
//!
//! Neither its size nor its digest is known before its end: nothing can be asked about it before, and
//! nothing is tried again. Whoever made the bytes knows afterwards what to ask for, or can make them again.
//!
//! ```text
//! POST ─202 Location→ PATCH in chunks ─202 Location→ PUT ?digest= ─201→ there
//! ```

use std::cell::RefCell;
use std::io::{self, Read, Write as _};

use kiln_http::{Cancel, Error as HttpError, Method, Request, Response, Source, Upload, Url};
use kiln_oci::{Digest, Hasher, Reference};

use crate::access::Access;
use crate::error::Error;
use crate::locations::{held_bytes, location};
use crate::place::Place;
use crate::registry::Registry;
use crate::report::coded;
use crate::visit::Visit;

/// The type of what is uploaded.
const BYTES: &str = "application/octet-stream";

/// A blob that a registry has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streamed {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size_bytes: u64,
}

impl Registry {
    /// Sends what `source` yields into the repository of `reference`, as a blob. Blocks.
    ///
    /// It is sent whether the registry has it or not, and tried once. `progress` hears how many bytes have
    /// left.
    ///
    /// # Errors
    /// Those of [`push`](Self::push) but [`Error::Source`]: a source that fails is an
    /// [`Error::Http`] with [`HttpError::Source`] in it.
    pub fn push_stream(
        &self,
        reference: &Reference,
        source: &dyn Source,
        progress: &mut dyn FnMut(u64),
        cancel: &Cancel,
    ) -> Result<Streamed, Error> {
        let place = Place::upstream(reference);
        let visit = self.visit(reference, &place, &Access::Push, cancel);
        visit.stream(source, progress)
    }
}

impl Visit<'_> {
    fn stream(
        &self,
        source: &dyn Source,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Streamed, Error> {
        let (response, ticket) = self.ask("blobs/uploads/", |url| {
            Request::post(url, BYTES, Vec::new())
        })?;
        let response = self.allowed(response, ticket.as_ref())?;
        let url = self.next(&response)?;
        let hashed = Hashed {
            source,
            hasher: RefCell::new(Hasher::new(io::sink())),
        };
        let response = self.patch(url, &hashed, progress)?;
        let url = self.next(&response)?;
        let (_, digest, size_bytes) = hashed.hasher.into_inner().finish();
        // Who keeps less than it was sent would make another blob of it.
        let held = response.header("range").map(|it| held_bytes(Some(it)));
        if held.is_some_and(|held| held != size_bytes) {
            let reason = "it did not keep all that it was sent".to_owned();
            let url = response.url.shown();
            return Err(self.failed(None, HttpError::Protocol { url, reason }));
        }
        let text = digest.to_string();
        let url = url.with_query([("digest", text.as_str())]);
        let (response, _) = self.ask_at(url, |url| Request::put(url, BYTES, Vec::new()))?;
        if !response.is_success() {
            return Err(self.rejected(format!("the blob `{digest}`"), &response));
        }
        match response.header("docker-content-digest") {
            Some(actual) if actual != text => Err(Error::Mangled {
                reference: self.name(),
                what: format!("the blob `{digest}`"),
                expected: digest,
                actual: actual.chars().take(200).collect(),
            }),
            _ => Ok(Streamed { digest, size_bytes }),
        }
    }

    fn patch(
        &self,
        url: Url,
        source: &dyn Source,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Response, Error> {
        let ticket = self.ticket(&url)?;
        let request = Request::new(Method::Patch, url).header("content-type", BYTES);
        let request = self.authorised(request, ticket.as_ref());
        let upload = Upload {
            request: &request,
            source,
            size_bytes: None,
        };
        let sent = self.inner().http.send(&upload, progress, self.cancel);
        let response = sent.map_err(|failure| self.failed(ticket.as_ref(), *failure.error))?;
        if response.status == 401 {
            let user = ticket.and_then(|ticket| ticket.user);
            return Err(self.asker().refused(user, coded(&response.body)));
        }
        Ok(response)
    }

    /// Returns where an upload goes on.
    fn next(&self, response: &Response) -> Result<Url, Error> {
        if response.status != 202 {
            return Err(self.rejected("a blob".to_owned(), response));
        }
        location(response).map_err(|error| self.failed(None, error))
    }
}

/// Hashes what is read of a source; a redirect reads it again.
struct Hashed<'a> {
    source: &'a dyn Source,
    hasher: RefCell<Hasher<io::Sink>>,
}

impl Source for Hashed<'_> {
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        self.hasher.replace(Hasher::new(io::sink()));
        Ok(Box::new(HashedRead {
            inner: self.source.open()?,
            hasher: &self.hasher,
        }))
    }
}

struct HashedRead<'a> {
    inner: Box<dyn Read + 'a>,
    hasher: &'a RefCell<Hasher<io::Sink>>,
}

impl Read for HashedRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.borrow_mut().write_all(&buffer[..read])?;
        Ok(read)
    }
}
