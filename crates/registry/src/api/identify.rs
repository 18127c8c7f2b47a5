//! Who asks, and what they are told when they may not.

use http::StatusCode;
use http::header::{AUTHORIZATION, HOST};

use super::Asked;
use super::error::ApiError;
use crate::access::bearer::SERVICE;
use crate::access::login::parse_basic;
use crate::access::{Action, Caller, LoginError};
use crate::name::RepoName;

impl Asked {
    /// Finds out who asks.
    ///
    /// # Errors
    /// What was shown is wrong; showing nothing is not.
    pub(super) async fn identify(&self) -> Result<Caller, ApiError> {
        let access = &self.registry.access;
        if !access.needs_login {
            return Ok(Caller::everybody());
        }
        let Some(shown) = self.header(AUTHORIZATION) else {
            return Ok(Caller::nobody(&access.public));
        };
        let now = self.registry.now();
        if let Some((scheme, token)) = shown.split_once(' ')
            && scheme.eq_ignore_ascii_case("bearer")
        {
            return access
                .check(token.trim(), now)
                .ok_or_else(|| self.challenge(None));
        }
        let Some((user, password)) = parse_basic(shown) else {
            return Err(self.challenge(None));
        };
        self.log_in(&user, &password).await
    }

    /// Tries a password.
    pub(super) async fn log_in(&self, user: &str, password: &str) -> Result<Caller, ApiError> {
        let access = &self.registry.access;
        let from = self.peer.address.to_string();
        let now = self.registry.now();
        match access.log_in(user, password, &from, now).await {
            Ok(caller) => Ok(caller),
            Err(LoginError::Wrong) => Err(self.challenge(None)),
            Err(LoginError::Wait(seconds)) => {
                let message = "too many wrong passwords; wait a little";
                let error =
                    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message);
                Err(error.with_header("retry-after", seconds.to_string()))
            }
        }
    }

    /// What a caller is told that may not do something. It does not depend on what exists.
    pub(super) fn refused(&self, action: Action, repo: &RepoName) -> ApiError {
        let could = self.caller.could(action, repo.as_str());
        if self.caller.is_known() && !could {
            let message = format!("{} may not {} {repo}", self.caller.name, action.as_str());
            return ApiError::new(StatusCode::FORBIDDEN, "DENIED", message);
        }
        let actions = match action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
            Action::Delete => "delete",
        };
        self.challenge(Some(format!("repository:{repo}:{actions}")))
    }

    /// Asks who it is.
    pub(super) fn challenge(&self, scope: Option<String>) -> ApiError {
        let mut value = format!(
            "Bearer realm=\"{}/token\",service=\"{SERVICE}\"",
            self.base_url()
        );
        if let Some(scope) = scope {
            value.push_str(&format!(",scope=\"{scope}\""));
        }
        let message = "this needs an account: log in, or ask for access";
        ApiError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
            .with_header("www-authenticate", value)
    }

    /// The URL by which the client knows the registry.
    fn base_url(&self) -> String {
        let config = &self.registry.config;
        if let Some(url) = &config.external_url {
            return url.trim_end_matches('/').to_owned();
        }
        let is_tls = self.peer.tls
            || (config.access.behind_tls_proxy
                && self.header("x-forwarded-proto") == Some("https"));
        let scheme = if is_tls { "https" } else { "http" };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
        let host = self.header(HOST).filter(|host| host.bytes().all(is_plain));
        format!("{scheme}://{}", host.unwrap_or("localhost"))
    }
}
