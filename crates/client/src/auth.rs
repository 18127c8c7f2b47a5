//! Who asks: tokens and passwords that go with requests, kept until they run out.
//!
//! A registry says in a challenge how it wants to know. The answer is kept for the repository and what
//! is done there, so that one token serves all requests of a pull or push; when it runs out, the first
//! request that notices renews it and the others wait for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_http::{BodyText, Cancel, Client, Request, Url};
use kiln_oci::Reference;
use serde::Deserialize;

use crate::access::Access;
use crate::challenge::Challenge;
use crate::credentials::{Credential, CredentialFiles};
use crate::error::Error;
use crate::place::Place;
use crate::report::said;

/// The largest answer of a token server, in bytes.
const LARGEST_ANSWER: u64 = 1 << 20;
/// How long a token lives if its server does not say (distribution specification, token).
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end.
const MARGIN: Duration = Duration::from_secs(10);
/// How kiln calls itself at token servers.
const CLIENT_ID: &str = "kiln";

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
        let credential = asker.files.find(
            &place.credentials,
            asker.reference.repository(),
            asker.cancel,
        )?;
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
                let request = token_request(
                    asker,
                    realm,
                    service.as_deref(),
                    scope.as_deref(),
                    credential,
                )?;
                let (token, life) = fetch_token(asker, request, &user)?;
                self.expires = Instant::now().checked_add(life);
                format!("Bearer {token}")
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

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Asks for a token: with the password or anonymously by `GET`, with an identity token by `POST`
/// (the OAuth 2 form of the distribution specification).
fn token_request(
    asker: Asker<'_>,
    realm: &str,
    service: Option<&str>,
    scope: Option<&str>,
    credential: Option<Credential>,
) -> Result<Request, Error> {
    let realm: Url = realm
        .parse()
        .map_err(|error| asker.failed(None, kiln_http::Error::Url(error)))?;
    let scope = asker.access.scope(&asker.place.repository, scope);
    let scope = scope.as_str();
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    if let Some(service) = service {
        pairs.push(("service", service));
    }
    if let Some(Credential::Identity(token)) = &credential {
        pairs.extend([
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("scope", scope),
            ("refresh_token", token.reveal()),
        ]);
        let form = kiln_http::form(pairs).into_bytes();
        return Ok(Request::post(
            realm,
            "application/x-www-form-urlencoded",
            form,
        ));
    }
    pairs.extend(
        scope
            .split(' ')
            .filter(|scope| !scope.is_empty())
            .map(|scope| ("scope", scope)),
    );
    let request = match &credential {
        Some(Credential::Password { user, password }) => {
            pairs.push(("account", user));
            Request::get(realm.with_query(pairs)).authorization(basic(user, password.reveal()))
        }
        Some(Credential::Identity(_) | Credential::Access(_)) | None => {
            Request::get(realm.with_query(pairs))
        }
    };
    Ok(request)
}

/// What token servers answer; the two names are of two specifications.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

fn fetch_token(
    asker: Asker<'_>,
    request: Request,
    user: &Option<String>,
) -> Result<(String, Duration), Error> {
    let fail = |error| asker.failed(user.clone(), error);
    let response = asker
        .http
        .fetch(&request, LARGEST_ANSWER, asker.cancel)
        .map_err(fail)?;
    if matches!(response.status, 400 | 401 | 403) {
        let body = String::from_utf8_lossy(&response.body);
        return Err(asker.refused(user.clone(), said(&body)));
    }
    let response = response.success().map_err(fail)?;
    let unusable = |reason: &str| {
        fail(kiln_http::Error::Protocol {
            url: response.url.shown(),
            reason: format!("the token server {reason}"),
        })
    };
    let answer: Answer = serde_json::from_slice(&response.body)
        .map_err(|_secret| unusable("did not answer with a token"))?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty())
        .ok_or_else(|| unusable("answered without a token"))?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(unusable("answered with a token that is not one"));
    }
    let life = answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
    // Some servers say 0, or less than a request takes.
    let life = life.saturating_sub(MARGIN).max(MARGIN);
    Ok((token, life))
}
