//! A body that is read as it comes, for callers that pass it on.

use std::fmt;
use std::io::{self, Read};

use crate::cancel::Cancel;
use crate::client::Client;
use crate::error::Error;
use crate::exchange::Reply;
use crate::request::{Headers, Request};
use crate::retry::Failure;
use crate::url::Url;

/// A reply whose body is still to be read. Nothing of it is verified.
pub struct Body {
    reply: Reply,
    failure: Option<Failure>,
}

impl Client {
    /// Asks, and returns the reply as soon as its head is there. Blocks.
    ///
    /// A failure before the head is tried again as by [`fetch`](Self::fetch); one in the middle of
    /// the body is not: the caller knows what it has already passed on.
    ///
    /// # Errors
    /// What [`fetch`](Self::fetch) reports.
    pub fn open(&self, request: &Request, cancel: &Cancel) -> Result<Body, Error> {
        let mut attempts = self.attempts(request);
        loop {
            match self.exchange(request, &[], cancel) {
                Ok(reply) => {
                    return Ok(Body {
                        reply,
                        failure: None,
                    });
                }
                Err(failure) => attempts.wait(failure, cancel)?,
            }
        }
    }
}

impl Body {
    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        self.reply.status
    }

    /// Returns the address that answered, after redirects.
    pub fn url(&self) -> &Url {
        &self.reply.url
    }

    /// Returns the first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)
    }

    fn headers(&self) -> &Headers {
        &self.reply.headers
    }

    /// Returns what a failed read was about, for [`Attempts`](crate::Attempts); `None` if none failed.
    pub fn failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// Returns the start of the body as the error that a refusal is.
    pub fn refusal(mut self) -> Error {
        Error::Status {
            url: self.reply.url.shown(),
            status: self.reply.status,
            body: self.reply.text(),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reply.read(buffer).map_err(|failure| {
            let shown = io::Error::other(failure.error.to_string());
            self.failure = Some(failure);
            shown
        })
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("status", &self.reply.status)
            .field("url", &self.reply.url)
            .finish_non_exhaustive()
    }
}
