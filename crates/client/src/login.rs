//! Logging in: a credential is tried before it is kept.
//!
//! Knows nothing of where passwords come from: the caller reads one from a prompt or from standard
//! input. Nor does it keep anything; that is [`CredentialFiles::store`](crate::CredentialFiles::store).

use kiln_http::{
    BodyText, Cancel, Cancelled, Client, Error as HttpError, Patience, Request, Response, Url,
};
use kiln_oci::{MAX_DOCUMENT_BYTES, Reference};

use crate::challenge::Challenge;
use crate::credentials::Credential;
use crate::place::host;
use crate::registry::Registry;
use crate::report::said;
use crate::token::{Answer, Wanted, basic};

/// What a registry said to a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// It is good; this is what to keep: a token in place of the password, where the registry gives one.
    Accepted(Credential),
    /// The registry lets everybody in, so that nobody knows whether it is good.
    NotAsked,
}

/// Why a credential was not accepted. Never holds a password or token.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum LoginError {
    /// The name is not that of a registry.
    #[error("`{name}` is not the name of a registry: write `host` or `host:port`")]
    Name {
        /// The name.
        name: String,
    },
    /// The name of the user cannot be told to any registry.
    #[error("the name of a user cannot hold `:`")]
    UserName,
    /// The registry does not know the user with that password.
    #[error("`{registry}` does not accept the password or token of `{user}`{said}")]
    Refused {
        /// The registry.
        registry: String,
        /// The user.
        user: String,
        /// What the registry, or its token server, said.
        said: BodyText,
    },
    /// There is something else.
    #[error("`{registry}` is no registry: it answers {status} to `/v2/`")]
    NotARegistry {
        /// The name.
        registry: String,
        /// The HTTP status.
        status: u16,
    },
    /// The registry wants to know who asks in a way that kiln does not know.
    #[error("`{registry}` wants to know who asks by: {}", schemes.join(", "))]
    Scheme {
        /// The registry.
        registry: String,
        /// What it offers.
        schemes: Vec<String>,
    },
    /// The network, or what came from it.
    #[error("cannot log in to `{registry}`: {source}")]
    Http {
        /// The registry.
        registry: String,
        /// What happened.
        source: Box<HttpError>,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Registry {
    /// Tries a credential at `registry` (`docker.io`, `localhost:5000`). Blocks.
    ///
    /// # Errors
    /// Every [`LoginError`].
    pub fn log_in(
        &self,
        registry: &str,
        credential: &Credential,
        cancel: &Cancel,
    ) -> Result<Login, LoginError> {
        let name = Reference::new(registry, "name", None, None);
        name.map_err(|_what_repositories_are| LoginError::Name {
            name: registry.chars().take(200).collect(),
        })?;
        if credential.user().contains(':') {
            return Err(LoginError::UserName);
        }
        let attempt = Attempt {
            http: &self.inner().http,
            registry,
            credential,
            cancel,
        };
        let secure = self.is_secure(host(registry), Patience::FULL, cancel);
        let url = secure
            .and_then(|secure| {
                Url::from_parts(secure, host(registry), "/v2/").map_err(HttpError::Url)
            })
            .map_err(|error| attempt.failed(error))?;
        attempt.run(&url)
    }
}

/// One credential at one registry.
struct Attempt<'a> {
    http: &'a Client,
    registry: &'a str,
    credential: &'a Credential,
    cancel: &'a Cancel,
}

impl Attempt<'_> {
    fn run(&self, url: &Url) -> Result<Login, LoginError> {
        let open = self.ask(url, None)?;
        match open.status {
            200..=299 => return Ok(Login::NotAsked),
            401 => {}
            status => {
                return Err(LoginError::NotARegistry {
                    registry: self.registry.to_owned(),
                    status,
                });
            }
        }
        // The password goes where the registry says, and not where something on the way does.
        if !open.url.same_origin(url) {
            return Err(self.refused(&open));
        }
        let challenge = Challenge::choose(open.headers("www-authenticate"));
        let challenge = challenge.map_err(|schemes| LoginError::Scheme {
            registry: self.registry.to_owned(),
            schemes,
        })?;
        let (authorization, kept) = self.authorization(&challenge)?;
        let response = self.ask(url, Some(authorization))?;
        match response.status {
            200..=299 => Ok(Login::Accepted(kept)),
            401 | 403 => Err(self.refused(&response)),
            status => Err(LoginError::NotARegistry {
                registry: self.registry.to_owned(),
                status,
            }),
        }
    }

    /// Returns what to show the registry, and what to keep.
    fn authorization(&self, challenge: &Challenge) -> Result<(String, Credential), LoginError> {
        let (realm, service) = match (challenge, self.credential) {
            (Challenge::Basic, Credential::Password { user, password }) => {
                let authorization = basic(user, password.reveal());
                return Ok((authorization, self.credential.clone()));
            }
            (Challenge::Basic, Credential::Identity(_) | Credential::Access(_)) => {
                return Err(LoginError::Scheme {
                    registry: self.registry.to_owned(),
                    schemes: vec!["a user name and a password".to_owned()],
                });
            }
            (Challenge::Bearer { .. }, Credential::Access(token)) => {
                let authorization = format!("Bearer {}", token.reveal());
                return Ok((authorization, self.credential.clone()));
            }
            (Challenge::Bearer { realm, service, .. }, _) => (realm, service),
        };
        let wanted = Wanted {
            realm,
            service: service.as_deref(),
            scope: "",
            lasting: true,
        };
        let answer = wanted
            .fetch(
                self.http,
                Some(self.credential),
                Patience::FULL,
                self.cancel,
            )
            .map_err(|error| self.failed(error))?;
        match answer {
            Answer::Token(token) => {
                let kept = token.identity.map(Credential::Identity);
                let kept = kept.unwrap_or_else(|| self.credential.clone());
                Ok((format!("Bearer {}", token.access.reveal()), kept))
            }
            Answer::Refused(said) => Err(LoginError::Refused {
                registry: self.registry.to_owned(),
                user: self.credential.user().to_owned(),
                said,
            }),
        }
    }

    fn ask(&self, url: &Url, authorization: Option<String>) -> Result<Response, LoginError> {
        let mut request = Request::get(url.clone());
        if let Some(authorization) = authorization {
            request = request.authorization(authorization);
        }
        self.http
            .fetch(&request, MAX_DOCUMENT_BYTES, self.cancel)
            .map_err(|error| self.failed(error))
    }

    fn refused(&self, response: &Response) -> LoginError {
        LoginError::Refused {
            registry: self.registry.to_owned(),
            user: self.credential.user().to_owned(),
            said: said(&String::from_utf8_lossy(&response.body)),
        }
    }

    fn failed(&self, error: HttpError) -> LoginError {
        if let HttpError::Cancelled(cancelled) = error {
            return LoginError::Cancelled(cancelled);
        }
        LoginError::Http {
            registry: self.registry.to_owned(),
            source: Box::new(error),
        }
    }
}
