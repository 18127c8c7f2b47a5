//! Who asks: tokens and passwords that go with requests, kept until they run out.
//!
//! A registry says in a challenge how it wants to know. The answer is kept for the repository and what
//! is done there, so that one token serves all requests of a pull or push; when it runs out, the first
//! request that notices renews it and the others wait for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kiln_http::{BodyText, Cancel, Client, Patience};
use kiln_oci::Reference;

use crate::access::Access;
use crate::challenge::Challenge;
use crate::credentials::{Credential, CredentialFiles};
use crate::error::Error;
use crate::place::Place;
use crate::token::{Answer, Wanted, basic};

/// The authorisations in use, by place.
#[derive(Debug, Default)]
pub(crate) struct Auth(Mutex<Sessions>);

/// By authority, repository and what is done there.
type Sessions = BTreeMap<(String, String, Access), Arc<Mutex<Session>>>;

/// What is known of one repository.
#[derive(Default)]
struct Session {
    challenge: Option<Challenge>,
    ticket: Option<Ticket>,
    expires: Option<Instant>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("challenge", &self.challenge)
            .finish_non_exhaustive()
    }
}

/// What goes with a request.
#[derive(Clone)]
pub(crate) struct Ticket {
    /// The value of the `Authorization` header.
    pub(crate) authorization: String,
    /// Who it is for, in messages; `None` for an anonymous token.
    pub(crate) user: Option<String>,
    /// Counts renewals.
    number: u64,
}

/// What all of this needs of its surroundings.
#[derive(Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) http: &'a Client,
    pub(crate) files: &'a CredentialFiles,
    pub(crate) reference: &'a Reference,
    pub(crate) place: &'a Place,
    pub(crate) patience: Patience,
    pub(crate) access: &'a Access,
    pub(crate) cancel: &'a Cancel,
}

impl Auth {
    fn session(&self, place: &Place, access: &Access) -> Arc<Mutex<Session>> {
        let key = (
            place.authority.clone(),
            place.repository.clone(),
            access.clone(),
        );
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sessions.entry(key).or_default())
    }

    /// Returns what goes with the next request; `None` before the first challenge.
    pub(crate) fn current(&self, asker: Asker<'_>) -> Result<Option<Ticket>, Error> {
        let session = self.session(asker.place, asker.access);
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = session
            .expires
            .is_some_and(|expires| expires <= Instant::now());
        // The registry has said once how it wants to know.
        let narrower = asker.access.without_mount();
        if session.challenge.is_none()
            && let Some(narrower) = narrower
        {
            let known = self.session(asker.place, &narrower);
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            session.challenge.clone_from(&known.challenge);
        }
        if expired || (session.ticket.is_none() && session.challenge.is_some()) {
            session.renew(asker)?;
        }
        Ok(session.ticket.clone())
    }

    /// Answers `challenge` (or the last one again) after a request with `refused` was turned down.
    pub(crate) fn answer(
        &self,
        asker: Asker<'_>,
        refused: Option<&Ticket>,
        challenge: Option<Challenge>,
    ) -> Result<Option<Ticket>, Error> {
        let session = self.session(asker.place, asker.access);
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = refused.map_or(0, |ticket| ticket.number);
        // Another thread has done it in the meantime.
        if session
            .ticket
            .as_ref()
            .is_some_and(|ticket| ticket.number > seen)
        {
            return Ok(session.ticket.clone());
        }
        if challenge.is_some() {
            session.challenge = challenge;
        }
        session.renew(asker)?;
        Ok(session.ticket.clone())
    }
}

impl Session {
    fn renew(&mut self, asker: Asker<'_>) -> Result<(), Error> {
        let number = self.ticket.take().map_or(0, |ticket| ticket.number) + 1;
        self.expires = None;
        let Some(challenge) = &self.challenge else {
            return Ok(());
        };
        let place = asker.place;
        let credential = asker
            .files
            .find(&place.credentials, &place.repository, asker.cancel)?;
        let user = credential
            .as_ref()
            .map(|credential| credential.user().to_owned());
        let authorization = match (challenge, credential) {
            (Challenge::Basic, Some(Credential::Password { user, password })) => {
                basic(&user, password.reveal())
            }
            (Challenge::Basic, _) => return Err(asker.refused(user, BodyText::default())),
            (Challenge::Bearer { .. }, Some(Credential::Access(token))) => {
                format!("Bearer {}", token.reveal())
            }
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                credential,
            ) => {
                let wanted = Wanted {
                    realm,
                    service: service.as_deref(),
                    scope: &asker.access.scope(&place.repository, scope.as_deref()),
                    lasting: false,
                };
                let answer = wanted
                    .fetch(
                        asker.http,
                        credential.as_ref(),
                        asker.patience,
                        asker.cancel,
                    )
                    .map_err(|error| asker.failed(user.clone(), error))?;
                match answer {
                    Answer::Token(token) => {
                        self.expires = Instant::now().checked_add(token.life);
                        format!("Bearer {}", token.access.reveal())
                    }
                    Answer::Refused(said) => return Err(asker.refused(user, said)),
                }
            }
        };
        self.ticket = Some(Ticket {
            authorization,
            user,
            number,
        });
        Ok(())
    }
}

impl Asker<'_> {
    pub(crate) fn failed(&self, user: Option<String>, error: kiln_http::Error) -> Error {
        Error::of(self.reference, self.access.doing(), user, error)
    }

    pub(crate) fn refused(&self, user: Option<String>, said: BodyText) -> Error {
        Error::Unauthorised {
            reference: Box::new(self.reference.clone()),
            doing: self.access.doing(),
            user,
            said,
        }
    }
}
