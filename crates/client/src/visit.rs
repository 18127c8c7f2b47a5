//! One operation at one place: addresses, authorised requests, blobs.

use std::io::{self, Read as _};

use kiln_http::{Body, BodyText, Cancel, Download, Failure, Patience, Request, Response, Url};
use kiln_oci::{Digest, MAX_DOCUMENT_BYTES, Reference};

use crate::access::Access;
use crate::auth::{Asker, Ticket};
use crate::challenge::Challenge;
use crate::error::Error;
use crate::place::Place;
use crate::registry::{Inner, Registry};
use crate::report::said;

/// How often a request is answered with 401 before that is the answer.
const MOST_CHALLENGES: u32 = 2;

/// One operation on one reference at one place.
#[derive(Clone, Copy)]
pub(crate) struct Visit<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) reference: &'a Reference,
    pub(crate) place: &'a Place,
    pub(crate) access: &'a Access,
    pub(crate) cancel: &'a Cancel,
}

impl Visit<'_> {
    pub(crate) fn inner(&self) -> &Inner {
        self.registry.inner()
    }

    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker {
            http: &self.inner().http,
            files: &self.inner().settings.credentials,
            reference: self.reference,
            place: self.place,
            patience: self.patience(),
            access: self.access,
            cancel: self.cancel,
        }
    }

    pub(crate) fn patience(&self) -> Patience {
        self.registry.patience(self.place)
    }

    pub(crate) fn name(&self) -> Box<Reference> {
        Box::new(self.reference.clone())
    }

    pub(crate) fn failed(&self, ticket: Option<&Ticket>, error: kiln_http::Error) -> Error {
        let user = ticket.and_then(|ticket| ticket.user.clone());
        self.asker().failed(user, error)
    }

    /// Returns the address of `rest` in the repository.
    pub(crate) fn url(&self, rest: &str) -> Result<Url, Error> {
        let secure = self
            .registry
            .is_secure(&self.place.authority, self.patience(), self.cancel)
            .map_err(|error| self.failed(None, error))?;
        Url::from_parts(secure, &self.place.authority, &self.place.path(rest))
            .map_err(|error| self.failed(None, kiln_http::Error::Url(error)))
    }

    /// Sends a request that `make` writes, with what the registry wants to know of who asks.
    pub(crate) fn ask(
        &self,
        rest: &str,
        make: impl Fn(Url) -> Request,
    ) -> Result<(Response, Option<Ticket>), Error> {
        self.ask_at(self.url(rest)?, make)
    }

    /// Returns what goes with a request to `url`: nothing when that is on another host.
    pub(crate) fn ticket(&self, url: &Url) -> Result<Option<Ticket>, Error> {
        if url.same_origin(&self.url("")?) {
            self.inner().auth.current(self.asker())
        } else {
            Ok(None)
        }
    }

    /// The same, at an address that the registry gave.
    pub(crate) fn ask_at(
        &self,
        url: Url,
        make: impl Fn(Url) -> Request,
    ) -> Result<(Response, Option<Ticket>), Error> {
        let auth = &self.inner().auth;
        let own = url.same_origin(&self.url("")?);
        let mut ticket = self.ticket(&url)?;
        let mut challenges = 0;
        loop {
            let request = self.authorised(make(url.clone()), ticket.as_ref());
            let response = self
                .inner()
                .http
                .fetch(&request, MAX_DOCUMENT_BYTES, self.cancel)
                .map_err(|error| self.failed(ticket.as_ref(), error))?;
            if response.status != 401 {
                return Ok((response, ticket));
            }
            challenges += 1;
            let user = || ticket.as_ref().and_then(|ticket| ticket.user.clone());
            let challenge = self.challenge(&response, ticket.as_ref())?;
            if challenges > MOST_CHALLENGES || !own || !response.url.same_origin(&url) {
                let said = said(&String::from_utf8_lossy(&response.body));
                return Err(self.asker().refused(user(), said));
            }
            ticket = auth.answer(self.asker(), ticket.as_ref(), challenge)?;
        }
    }

    /// Reads how the registry wants to know who asks. `None` if it does not say, which is enough where
    /// it has said so before.
    fn challenge(
        &self,
        response: &Response,
        ticket: Option<&Ticket>,
    ) -> Result<Option<Challenge>, Error> {
        match Challenge::choose(response.headers("www-authenticate")) {
            Ok(challenge) => Ok(Some(challenge)),
            Err(schemes) if schemes.is_empty() && ticket.is_some() => Ok(None),
            Err(schemes) => {
                let wanted = format!("it wants to know who asks by: {}", schemes.join(", "));
                let words = if schemes.is_empty() {
                    String::new()
                } else {
                    wanted
                };
                let user = || ticket.and_then(|ticket| ticket.user.clone());
                Err(self.asker().refused(user(), BodyText::of(words.as_bytes())))
            }
        }
    }

    /// Answers a 401 that something else than [`ask`](Self::ask) got: the token ran out on the way.
    pub(crate) fn renewed(
        &self,
        response: &Response,
        ticket: Option<&Ticket>,
    ) -> Result<(), Error> {
        let user = || ticket.and_then(|ticket| ticket.user.clone());
        let challenge = Challenge::choose(response.headers("www-authenticate")).ok();
        // What another host wants to know is none of its business.
        let own = response.url.same_origin(&self.url("")?);
        if !own || (ticket.is_none() && challenge.is_none()) {
            let said = said(&String::from_utf8_lossy(&response.body));
            return Err(self.asker().refused(user(), said));
        }
        self.inner()
            .auth
            .answer(self.asker(), ticket, challenge)
            .map(drop)
    }

    pub(crate) fn authorised(&self, request: Request, ticket: Option<&Ticket>) -> Request {
        let request = request.patience(self.patience());
        match ticket {
            Some(ticket) => request.authorization(ticket.authorization.clone()),
            None => request,
        }
    }

    /// Downloads a blob into `sink` and verifies it.
    pub(crate) fn blob(
        &self,
        digest: Digest,
        size_bytes: u64,
        sink: &mut dyn kiln_http::Sink,
        progress: &mut dyn FnMut(kiln_http::Progress),
    ) -> Result<(), Error> {
        let rest = format!("blobs/{digest}");
        let url = self.url(&rest)?;
        let auth = &self.inner().auth;
        let mut ticket = auth.current(self.asker())?;
        let mut challenges = 0;
        loop {
            let download = Download {
                request: self.authorised(Request::get(url.clone()), ticket.as_ref()),
                digest: Some(digest),
                size_bytes: Some(size_bytes),
                limit_bytes: size_bytes,
            };
            let http = &self.inner().http;
            let (status, body) = match http.download(&download, sink, progress, self.cancel) {
                Ok(_) => return Ok(()),
                Err(kiln_http::Error::Status { status, body, .. })
                    if matches!(status, 401 | 403 | 404) =>
                {
                    (status, body)
                }
                Err(error) => return Err(self.failed(ticket.as_ref(), error)),
            };
            let reference = self.name();
            let user = ticket.as_ref().and_then(|ticket| ticket.user.clone());
            let said = said(body.text());
            match status {
                401 if challenges < MOST_CHALLENGES => {
                    challenges += 1;
                    // The challenge is the one that the manifest was answered with, or is asked for
                    // without the body.
                    ticket = match &ticket {
                        Some(_) => auth.answer(self.asker(), ticket.as_ref(), None)?,
                        None => self.ask(&rest, Request::head)?.1,
                    };
                }
                401 => return Err(self.asker().refused(user, said)),
                403 => {
                    return Err(Error::Denied {
                        reference,
                        user,
                        said,
                    });
                }
                _ => return Err(Error::BlobNotFound { reference, digest }),
            }
        }
    }

    /// Opens a blob at `from_byte`, unverified, for a receiver that verifies it.
    pub(crate) fn open_blob(&self, digest: Digest, from_byte: u64) -> Result<Body, Error> {
        let rest = format!("blobs/{digest}");
        let url = self.url(&rest)?;
        let auth = &self.inner().auth;
        let mut ticket = auth.current(self.asker())?;
        let mut challenges = 0;
        loop {
            let mut request = self.authorised(Request::get(url.clone()), ticket.as_ref());
            if from_byte > 0 {
                request = request.header("range", &format!("bytes={from_byte}-"));
            }
            let mut body = self
                .inner()
                .http
                .open(&request, self.cancel)
                .map_err(|error| self.failed(ticket.as_ref(), error))?;
            match body.status() {
                200 => {
                    self.skip(&mut body, from_byte)?;
                    return Ok(body);
                }
                206 if from_byte > 0 && starts_at(&body, from_byte) => return Ok(body),
                401 if challenges < MOST_CHALLENGES => {
                    challenges += 1;
                    ticket = match &ticket {
                        Some(_) => auth.answer(self.asker(), ticket.as_ref(), None)?,
                        None => self.ask(&rest, Request::head)?.1,
                    };
                }
                404 => {
                    let reference = self.name();
                    return Err(Error::BlobNotFound { reference, digest });
                }
                _ => return Err(self.failed(ticket.as_ref(), body.refusal())),
            }
        }
    }

    /// Passes over the start of a body, of a registry that knows no ranges.
    fn skip(&self, body: &mut Body, bytes: u64) -> Result<(), Error> {
        let skipped = io::copy(&mut body.by_ref().take(bytes), &mut io::sink());
        match skipped {
            Ok(skipped) if skipped == bytes => Ok(()),
            Ok(_) => Err(self.failed(
                None,
                kiln_http::Error::Protocol {
                    url: body.url().shown(),
                    reason: "the blob is shorter than it was".to_owned(),
                },
            )),
            Err(source) => {
                let url = body.url().shown();
                let broken = |failure: Failure| *failure.error;
                let error = body.failure().map_or_else(
                    || kiln_http::Error::Broken {
                        url,
                        tries: 1,
                        source,
                    },
                    broken,
                );
                Err(self.failed(None, error))
            }
        }
    }
}

/// Tells whether a part starts where it was asked to.
fn starts_at(body: &Body, byte: u64) -> bool {
    body.header("content-range")
        .and_then(|range| range.trim().strip_prefix("bytes "))
        .and_then(|range| range.split('-').next())
        .is_some_and(|start| start.parse() == Ok(byte))
}
