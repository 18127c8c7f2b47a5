//! What token servers are asked and what they answer (distribution specification, token).
//!
//! Knows nothing of repositories or of how long anybody keeps a token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_http::{BodyText, Cancel, Client, Error as HttpError, Patience, Request, Url};
use serde::Deserialize;

use crate::credentials::{Credential, Secret};
use crate::report::said;

/// The largest answer of a token server, in bytes.
const LARGEST_ANSWER: u64 = 1 << 20;
/// How long a token lives if its server does not say.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end.
const MARGIN: Duration = Duration::from_secs(10);
/// How kiln calls itself at token servers.
const CLIENT_ID: &str = "kiln";

/// What to ask for.
pub(crate) struct Wanted<'a> {
    /// The token server.
    pub(crate) realm: &'a str,
    /// The name of the registry there.
    pub(crate) service: Option<&'a str>,
    /// What the token is to allow; may be empty.
    pub(crate) scope: &'a str,
    /// Whether a token that lasts is wanted too, to be kept in place of the password.
    pub(crate) lasting: bool,
}

/// A token.
pub(crate) struct Token {
    /// Goes with requests.
    pub(crate) access: Secret,
    /// How long it can be used.
    pub(crate) life: Duration,
    /// The one that lasts, if the server gives out such.
    pub(crate) identity: Option<Secret>,
}

/// What the server says.
pub(crate) enum Answer {
    Token(Token),
    /// It does not know who asks.
    Refused(BodyText),
}

/// Returns the header of a user and a password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

impl Wanted<'_> {
    /// Asks. Blocks.
    pub(crate) fn fetch(
        &self,
        http: &Client,
        credential: Option<&Credential>,
        patience: Patience,
        cancel: &Cancel,
    ) -> Result<Answer, HttpError> {
        let request = self.request(credential)?.patience(patience);
        let response = http.fetch(&request, LARGEST_ANSWER, cancel)?;
        if matches!(response.status, 400 | 401 | 403) {
            let body = String::from_utf8_lossy(&response.body);
            return Ok(Answer::Refused(said(&body)));
        }
        let response = response.success()?;
        read(&response.body)
            .map(Answer::Token)
            .map_err(|reason| HttpError::Protocol {
                url: response.url.shown(),
                reason: format!("the token server {reason}"),
            })
    }

    /// Asks with the password or anonymously by `GET`, with an identity token by `POST` (the OAuth 2
    /// form of the distribution specification).
    fn request(&self, credential: Option<&Credential>) -> Result<Request, HttpError> {
        let realm: Url = self.realm.parse()?;
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        if let Some(service) = self.service {
            pairs.push(("service", service));
        }
        if let Some(Credential::Identity(token)) = credential {
            pairs.extend([
                ("grant_type", "refresh_token"),
                ("client_id", CLIENT_ID),
                ("scope", self.scope),
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
            self.scope
                .split(' ')
                .filter(|scope| !scope.is_empty())
                .map(|scope| ("scope", scope)),
        );
        if self.lasting {
            pairs.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
        }
        Ok(match credential {
            Some(Credential::Password { user, password }) => {
                pairs.push(("account", user));
                Request::get(realm.with_query(pairs)).authorization(basic(user, password.reveal()))
            }
            Some(Credential::Identity(_) | Credential::Access(_)) | None => {
                Request::get(realm.with_query(pairs))
            }
        })
    }
}

/// What token servers write; the two names are of two specifications.
#[derive(Deserialize)]
struct Written {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
}

fn read(body: &[u8]) -> Result<Token, &'static str> {
    let written: Written =
        serde_json::from_slice(body).map_err(|_secret| "did not answer with a token")?;
    let full = |token: &String| !token.is_empty();
    let access = [written.token, written.access_token]
        .into_iter()
        .flatten()
        .find(full)
        .ok_or("answered without a token")?;
    if !access.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("answered with a token that is not one");
    }
    let life = written.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
    Ok(Token {
        access: Secret::new(access),
        // Some servers say 0, or less than a request takes.
        life: life.saturating_sub(MARGIN).max(MARGIN),
        identity: written.refresh_token.filter(full).map(Secret::new),
    })
}
