//! Docker's token protocol: a password or a program's token for a bearer token.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CACHE_CONTROL, HeaderValue};
use http::{Method, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use super::error::ApiError;
use super::query::Query;
use super::{Answer, Asked, json as json_answer, receive};
use crate::access::login::parse_basic;
use crate::access::{Caller, Grants};

/// The most bytes of a form.
const MOST_BYTES: u64 = 64 << 10;

/// Answers a request for a token.
pub(super) async fn answer(mut asked: Asked, body: Incoming, name: &mut Arc<str>) -> Answer {
    let access = Arc::clone(&asked.registry.access);
    let (caller, wishes) = match asked.method {
        Method::GET => (with_header(&asked).await?, asked.query.clone()),
        Method::POST => {
            let bytes = receive::all(&asked, body, MOST_BYTES, "the form").await?;
            let form = Query::parse(&String::from_utf8_lossy(&bytes));
            (with_form(&asked, &form).await?, form)
        }
        _ => return Err(ApiError::method("GET, POST")),
    };
    *name = Arc::clone(&caller.name);
    asked.caller = caller;
    let wanted = Grants::parse_scopes(wishes.all("scope"));
    let now = asked.registry.now();
    let life = i64::try_from(asked.registry.config.token_life().as_secs()).unwrap_or(600);
    let token = access.issue(&asked.caller, wanted, now, life);
    let mut response = json_answer(&json!({
        "token": token,
        "access_token": token,
        "expires_in": life,
        "issued_at": crate::log::rfc3339(asked.registry.time()),
    }))?;
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, no_store);
    Ok(response)
}

async fn with_header(asked: &Asked) -> Result<Caller, ApiError> {
    let access = &asked.registry.access;
    if !access.needs_login {
        return Ok(Caller::everybody());
    }
    match asked.header(AUTHORIZATION) {
        None => Ok(Caller::nobody(&access.public)),
        Some(value) => match parse_basic(value) {
            Some((user, password)) => asked.log_in(&user, &password).await,
            None => Err(asked.challenge(None)),
        },
    }
}

async fn with_form(asked: &Asked, form: &Query) -> Result<Caller, ApiError> {
    let access = &asked.registry.access;
    if !access.needs_login {
        return Ok(Caller::everybody());
    }
    match form.get("grant_type") {
        Some("password") => {
            let user = form.get("username").unwrap_or_default();
            asked
                .log_in(user, form.get("password").unwrap_or_default())
                .await
        }
        _ => {
            let message = "the registry knows `grant_type=password` only";
            Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "UNSUPPORTED",
                message,
            ))
        }
    }
}
