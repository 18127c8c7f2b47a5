//! One blob on its way to a registry.
//!
//! Knows nothing of images. An upload lives in this process alone: an address of a registry's upload
//! is a secret with a short life, and a push that starts again sends one blob per worker anew at most,
//! since those that were whole are there.
//!
//! ```text
//! HEAD ─200→ there
//!   └404→ mount? ─201→ mounted
//!           └→ POST ─202 Location→ PUT whole ─201→ pushed
//!                cut, 5xx: GET Location ─204 Range→ PATCH the rest, PUT nothing
//!                                       └404→ HEAD: there? else POST again
//!                401: renew the token, the same    413: POST again, PATCH in pieces
//! ```

use std::cell::RefCell;
use std::io::{self, Read};

use kiln_http::{Error as HttpError, Failure, Method, Request, Response, Source, Upload, Url};
use kiln_oci::Descriptor;

use crate::access::Access;
use crate::auth::Ticket;
use crate::error::Error;
use crate::locations::{held_bytes, location};
use crate::push::Outcome;
use crate::report::{coded, codes};
use crate::source::{BlobSource, SourceError};
use crate::visit::Visit;

/// The type of what is uploaded.
const BYTES: &str = "application/octet-stream";
/// The size of pieces where the registry, or a proxy before it, takes no large bodies.
const PIECE_BYTES: u64 = 16 << 20;
/// How often in a row a token is renewed without anything having been sent in between.
const MOST_RENEWALS: u32 = 2;

/// What is needed to bring one blob to its place.
pub(crate) struct BlobUpload<'a> {
    pub(crate) visit: Visit<'a>,
    pub(crate) blob: &'a Descriptor,
    pub(crate) source: &'a dyn BlobSource,
    /// Hears how many bytes have left.
    pub(crate) report: &'a dyn Fn(u64),
}

/// An upload that the registry has begun.
struct Session {
    location: Url,
    /// How much of the blob the registry holds.
    held_bytes: u64,
    /// The smallest piece it takes, the last one excepted.
    least_bytes: u64,
}

/// How one try ended, where it is not the end.
enum Stop {
    /// Another try may go better, after a wait.
    Failed(Failure),
    /// The registry wants to know again who asks.
    Unauthorised(Box<Response>, Option<Ticket>),
    /// A body was too large.
    TooLarge(Box<Response>),
    /// The registry does not know the upload any more.
    Lost(Failure),
    /// No other try would go better.
    Final(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl BlobUpload<'_> {
    /// Brings the blob to the registry; returns how, and how many bytes were sent. Blocks.
    pub(crate) fn run(&self) -> Result<(Outcome, u64), Error> {
        if self.is_there()? {
            return Ok((Outcome::There, 0));
        }
        let reference = self.visit.reference;
        let mut begun = None;
        let elsewhere = self.source.known_in(self.blob);
        let from = elsewhere
            .iter()
            .map(|known| (known.registry(), known.repository()));
        let from = from
            .filter(|(registry, repository)| {
                *registry == reference.registry() && *repository != reference.repository()
            })
            .map(|(_, repository)| repository)
            .next();
        if let Some(repository) = from {
            match self.mount(repository)? {
                Some(None) => return Ok((Outcome::Mounted(repository.to_owned()), 0)),
                Some(session) => begun = session,
                None => {}
            }
        }
        let sent = self.send(begun)?;
        Ok((Outcome::Pushed, sent))
    }

    /// Asks whether the registry has the blob in this repository.
    fn is_there(&self) -> Result<bool, Error> {
        let rest = format!("blobs/{}", self.blob.digest);
        let (response, _) = self.visit.ask(&rest, Request::head)?;
        Ok(response.is_success())
    }

    /// Asks for the blob of another repository: `Some(None)` when it was given, `Some` session when the
    /// registry would rather have it sent, and `None` for anything else.
    fn mount(&self, from: &str) -> Result<Option<Option<Session>>, Error> {
        let access = Access::Mount(from.to_owned());
        let visit = Visit {
            access: &access,
            ..self.visit
        };
        let digest = self.blob.digest.to_string();
        let asked = visit.ask("blobs/uploads/", |url| {
            let pairs = [("mount", digest.as_str()), ("from", from)];
            Request::post(url.with_query(pairs), BYTES, Vec::new())
        });
        match asked {
            Ok((response, _)) if response.status == 201 => Ok(Some(None)),
            Ok((response, _)) if response.status == 202 => Ok(Some(self.session(&response).ok())),
            Ok(_) => Ok(None),
            Err(error) if error.is_ours() => Err(error),
            // Who may not read the other repository may still write to this one.
            Err(error) => {
                tracing::debug!(from, %error, "the blob cannot be mounted");
                Ok(None)
            }
        }
    }

    /// Sends the blob, in as many tries as it takes; returns how many bytes have left.
    fn send(&self, begun: Option<Session>) -> Result<u64, Error> {
        let visit = &self.visit;
        let about =
            Request::new(Method::Put, visit.url("blobs/uploads/")?).patience(visit.patience());
        let mut attempts = visit.inner().http.attempts(&about);
        let mut session = begun;
        let (mut furthest, mut sent, mut renewals) = (0, 0, 0);
        let mut pieces = false;
        loop {
            let stop = match self.attempt(&mut session, pieces, &mut sent) {
                Ok(()) => return Ok(sent),
                Err(stop) => stop,
            };
            let failure = match stop {
                Stop::Final(error) => return Err(error),
                Stop::Unauthorised(response, ticket) => {
                    renewals += 1;
                    if renewals > MOST_RENEWALS {
                        let user = ticket.and_then(|ticket| ticket.user);
                        return Err(visit.asker().refused(user, coded(&response.body)));
                    }
                    visit.renewed(&response, ticket.as_ref())?;
                    None
                }
                Stop::TooLarge(response) if pieces => return Err(self.rejected(&response)),
                Stop::TooLarge(_) => {
                    pieces = true;
                    session = None;
                    continue;
                }
                Stop::Lost(failure) => {
                    session = None;
                    Some(failure)
                }
                Stop::Failed(failure) => Some(failure),
            };
            if let Some(failure) = failure {
                attempts
                    .wait(failure, visit.cancel)
                    .map_err(|error| visit.failed(None, error))?;
            }
            session = match session {
                Some(session) => self.standing(session)?,
                None => None,
            };
            match &session {
                Some(session) if session.held_bytes > furthest => {
                    furthest = session.held_bytes;
                    renewals = 0;
                    attempts.reset();
                }
                Some(_) => {}
                // Only the answer to a successful upload may have been lost.
                None if self.is_there()? => return Ok(sent),
                None => {}
            }
        }
    }

    /// Begins where nothing is begun, and sends what is missing.
    fn attempt(
        &self,
        session: &mut Option<Session>,
        pieces: bool,
        sent: &mut u64,
    ) -> Result<(), Stop> {
        let session = match session {
            Some(session) => session,
            None => session.insert(self.begin()?),
        };
        let size = self.blob.size_bytes;
        let whole = session.held_bytes == 0 && !pieces;
        while !whole && session.held_bytes < size {
            let left = size - session.held_bytes;
            let length = if pieces {
                left.min(PIECE_BYTES.max(session.least_bytes))
            } else {
                left
            };
            let (start, end) = (session.held_bytes, session.held_bytes + length);
            let request = Request::new(Method::Patch, session.location.clone())
                .header("content-type", BYTES)
                .header("content-range", &format!("{start}-{}", end - 1));
            let reply = self.transfer(request, start..end, sent)?;
            session.location = location(&reply).map_err(|error| self.visit.failed(None, error))?;
            // A registry that keeps less than it was sent wants the rest again.
            let held = reply.header("range").map(|range| held_bytes(Some(range)));
            session.held_bytes = held.filter(|held| *held > start).unwrap_or(end);
        }
        let digest = self.blob.digest.to_string();
        let url = session.location.with_query([("digest", digest.as_str())]);
        let request = Request::new(Method::Put, url).header("content-type", BYTES);
        let start = if whole { 0 } else { size };
        let reply = self.transfer(request, start..size, sent)?;
        match reply.header("docker-content-digest") {
            Some(actual) if actual != digest => Err(Stop::Final(Error::Mangled {
                reference: self.visit.name(),
                what: self.what(),
                expected: self.blob.digest,
                actual: actual.chars().take(200).collect(),
            })),
            _ => Ok(()),
        }
    }

    /// Sends a range of the blob and sorts the answer.
    fn transfer(
        &self,
        request: Request,
        range: std::ops::Range<u64>,
        sent: &mut u64,
    ) -> Result<Response, Stop> {
        let visit = &self.visit;
        let ticket = visit.ticket(request.url())?;
        let request = visit.authorised(request, ticket.as_ref());
        let source = BlobRange {
            blob: self.blob,
            source: self.source,
            from_byte: range.start,
            failed: RefCell::new(None),
        };
        let upload = Upload {
            request: &request,
            source: &source,
            size_bytes: Some(range.end - range.start),
        };
        let before = *sent;
        let result = visit.inner().http.send(
            &upload,
            &mut |now| {
                *sent = before + now;
                (self.report)(range.start + now);
            },
            visit.cancel,
        );
        if let Some(source) = source.failed.into_inner() {
            return Err(Stop::Final(self.source_failed(source)));
        }
        let response = match result {
            Ok(response) => response,
            Err(failure) => return Err(self.sorted(failure, ticket)),
        };
        let lost = |reason: &str| {
            Stop::Lost(Failure::later(HttpError::Protocol {
                url: response.url.shown(),
                reason: reason.to_owned(),
            }))
        };
        let code = |wanted: &str| codes(&response.body).iter().any(|code| code == wanted);
        match response.status {
            200..=299 => Ok(response),
            401 => Err(Stop::Unauthorised(Box::new(response), ticket)),
            413 => Err(Stop::TooLarge(Box::new(response))),
            404 | 410 => Err(lost("it forgot the upload")),
            416 => Err(Stop::Failed(Failure::later(HttpError::Protocol {
                url: response.url.shown(),
                reason: "it does not go on where it said it would".to_owned(),
            }))),
            // What came together from several pieces may come together better in one.
            400 if range.start > 0 && code("DIGEST_INVALID") => {
                Err(lost("it put the pieces together wrongly"))
            }
            _ => Err(Stop::Final(self.rejected(&response))),
        }
    }

    /// Sorts what did not get as far as an answer.
    fn sorted(&self, failure: Failure, ticket: Option<Ticket>) -> Stop {
        if failure.may_pass() {
            return Stop::Failed(failure);
        }
        let error = *failure.error;
        if let HttpError::Source { source, .. } = error {
            return Stop::Final(self.source_failed(Box::new(source)));
        }
        Stop::Final(self.visit.failed(ticket.as_ref(), error))
    }

    /// Begins an upload.
    fn begin(&self) -> Result<Session, Error> {
        let (response, ticket) = self.visit.ask("blobs/uploads/", |url| {
            Request::post(url, BYTES, Vec::new())
        })?;
        let response = self.visit.allowed(response, ticket.as_ref())?;
        if response.status != 202 {
            return Err(self.rejected(&response));
        }
        self.session(&response)
    }

    fn session(&self, response: &Response) -> Result<Session, Error> {
        let location = location(response).map_err(|error| self.visit.failed(None, error))?;
        let least = response.header("oci-chunk-min-length");
        Ok(Session {
            location,
            held_bytes: 0,
            least_bytes: least.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        })
    }

    /// Asks how far an upload got; `None` if it has to start over.
    fn standing(&self, session: Session) -> Result<Option<Session>, Error> {
        let asked = self.visit.ask_at(session.location.clone(), Request::get);
        let response = match asked {
            Ok((response, _)) if response.is_success() => response,
            Ok(_) => return Ok(None),
            Err(error @ (Error::Cancelled(_) | Error::Credentials(_))) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "the upload starts over");
                return Ok(None);
            }
        };
        let held = held_bytes(response.header("range"));
        Ok((held <= self.blob.size_bytes).then(|| Session {
            location: location(&response).unwrap_or(session.location),
            held_bytes: held,
            least_bytes: session.least_bytes,
        }))
    }

    fn what(&self) -> String {
        format!("the blob `{}`", self.blob.digest)
    }

    fn rejected(&self, response: &Response) -> Error {
        self.visit.rejected(self.what(), response)
    }

    fn source_failed(&self, source: SourceError) -> Error {
        Error::Source {
            reference: self.visit.name(),
            digest: self.blob.digest,
            source,
        }
    }
}

/// The end of a blob, as a body.
struct BlobRange<'a> {
    blob: &'a Descriptor,
    source: &'a dyn BlobSource,
    from_byte: u64,
    /// The source's own error, with its causes.
    failed: RefCell<Option<SourceError>>,
}

impl Source for BlobRange<'_> {
    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        // Nothing is left to send: sources need not open what they do not read.
        if self.from_byte == self.blob.size_bytes {
            return Ok(Box::new(io::empty()));
        }
        self.source
            .open(self.blob, self.from_byte)
            .map_err(|error| {
                let shown = io::Error::other(error.to_string());
                self.failed.replace(Some(error));
                shown
            })
    }
}
