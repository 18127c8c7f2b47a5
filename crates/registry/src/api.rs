//! The HTTP API: from a request to an answer.
//!
//! ```text
//! path ─route→ resource ─access→ caller ─may→ handler ─> answer, counted and written down
//! ```
//!
//! Knows nothing of connections; see [`crate::serve`].

mod blobs;
pub(crate) mod body;
pub(crate) mod error;
mod head;
mod identify;
mod lists;
mod manifests;
mod own;
mod passage;
pub(crate) mod query;
pub(crate) mod range;
mod receive;
pub(crate) mod route;
mod token;
mod uploads;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::access::{Action, Caller};
use crate::index::Moment;
use crate::name::RepoName;
use crate::registry::Registry;
use body::Body;
use error::ApiError;
use query::Query;
use route::{Kind, Route};

/// What becomes of a request.
pub(crate) type Answer = Result<Response<Body>, ApiError>;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether the connection is encrypted.
    pub(crate) tls: bool,
}

/// A request, taken apart.
pub(crate) struct Asked {
    pub(crate) registry: Arc<Registry>,
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    pub(crate) query: Query,
    pub(crate) caller: Caller,
    pub(crate) peer: Peer,
    /// How things stood after the request had come.
    pub(crate) moment: Moment,
}

/// What the log says of a request.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) caller: Arc<str>,
    pub(crate) cause: Option<String>,
    pub(crate) took: Duration,
}

/// Answers a request.
pub(crate) async fn answer(
    registry: &Arc<Registry>,
    request: Request<Incoming>,
    peer: Peer,
) -> (Response<Body>, Noted) {
    let begun = Instant::now();
    let is_head = request.method() == Method::HEAD;
    let method = request.method().clone();
    let route = Route::parse(request.uri().path());
    let kind = route.as_ref().map_or(Kind::Unknown, Route::kind);
    let mut name: Arc<str> = "".into();
    let checked = head::check(request.version(), request.headers());
    let answer = match checked.and(route) {
        Ok(route) => dispatch(registry, request, route, peer, &mut name).await,
        Err(error) => Err(error),
    };
    let mut cause = None;
    let mut response = answer.unwrap_or_else(|error| {
        cause = error.cause().map(str::to_owned);
        failure(&error)
    });
    let headers = response.headers_mut();
    headers.insert(
        "docker-distribution-api-version",
        HeaderValue::from_static("registry/2.0"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    // Whoever pushes says what type a manifest is: a browser must not run it as a page of ours.
    headers.insert(
        "content-security-policy",
        HeaderValue::from_static("sandbox"),
    );
    if is_head {
        // With 304 it would be the size of what was not asked for.
        let is_told = response.headers().contains_key(CONTENT_LENGTH);
        if !is_told && response.status() != StatusCode::NOT_MODIFIED {
            let length = response.body().size();
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        *response.body_mut() = Body::empty();
    }
    let took = begun.elapsed();
    registry
        .metrics
        .count(kind, &method, response.status(), took);
    let noted = Noted {
        caller: name,
        cause,
        took,
    };
    (response, noted)
}

async fn dispatch(
    registry: &Arc<Registry>,
    request: Request<Incoming>,
    route: Route,
    peer: Peer,
    name: &mut Arc<str>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let mut asked = Asked {
        registry: Arc::clone(registry),
        method: parts.method,
        headers: parts.headers,
        query,
        caller: Caller::everybody(),
        peer,
        moment: Moment::default(),
    };
    if matches!(route, Route::Health) {
        return own::health(&asked);
    }
    asked.moment = registry.moment(route.repo()).await?;
    match route {
        Route::Token => return token::answer(asked, body, name).await,
        Route::Health => return own::health(&asked),
        Route::Ready => return own::ready(&asked).await,
        Route::Metrics => return own::metrics(&asked).await,
        Route::Base
        | Route::Catalog
        | Route::Blob(..)
        | Route::Uploads(_)
        | Route::Upload(..)
        | Route::Manifest(..)
        | Route::Tags(_)
        | Route::Referrers(..) => {}
    }
    asked.caller = asked.identify().await?;
    *name = Arc::clone(&asked.caller.name);
    match route {
        Route::Base => lists::base(&asked),
        Route::Catalog => lists::catalog(&asked).await,
        Route::Tags(repo) => lists::tags(&asked, &repo).await,
        Route::Referrers(repo, subject) => lists::referrers(&asked, &repo, &subject).await,
        Route::Blob(repo, digest) => blobs::answer(&asked, &repo, &digest).await,
        Route::Manifest(repo, reference) => {
            manifests::answer(&asked, &repo, &reference, body).await
        }
        Route::Uploads(repo) => uploads::begin(&asked, &repo, body).await,
        Route::Upload(repo, id) => uploads::go_on(&asked, &repo, &id, body).await,
        Route::Token | Route::Health | Route::Ready | Route::Metrics => {
            Err(ApiError::no_such_path())
        }
    }
}

impl Asked {
    /// A header as text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Checks that nothing is to be changed.
    pub(crate) fn only_reads(&self) -> Result<(), ApiError> {
        match self.method {
            Method::GET | Method::HEAD => Ok(()),
            _ => Err(ApiError::method("GET, HEAD")),
        }
    }

    /// Whether changes are refused.
    pub(crate) fn is_read_only(&self) -> bool {
        self.moment.read_only || self.registry.is_read_only()
    }

    /// Checks that the caller may do something, and that changes are taken at all.
    pub(crate) fn allow(&self, action: Action, repo: &RepoName) -> Result<(), ApiError> {
        if self.caller.may(action, repo.as_str()) {
            if action != Action::Pull && self.is_read_only() {
                return Err(ApiError::read_only());
            }
            return Ok(());
        }
        Err(self.refused(action, repo))
    }

    /// Whether the client has the document with this tag already.
    pub(crate) fn has(&self, tag: &str) -> bool {
        self.headers.get_all("if-none-match").iter().any(|value| {
            value.to_str().is_ok_and(|text| {
                text.split(',').any(|one| {
                    let one = one.trim();
                    one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
                })
            })
        })
    }
}

/// An answer without a body.
pub(crate) fn plain(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}

/// Ends an answer; what was put into headers has been checked before.
pub(crate) fn finish(builder: http::response::Builder, body: Body) -> Answer {
    builder
        .body(body)
        .map_err(|error| ApiError::internal(&error))
}

/// An answer in JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(|error| ApiError::internal(&error))?;
    finish(
        plain(StatusCode::OK).header(CONTENT_TYPE, "application/json"),
        bytes.into(),
    )
}

fn failure(error: &ApiError) -> Response<Body> {
    let mut response = Response::new(Body::from(error.body()));
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if error.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    for (name, value) in error.headers() {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.append(*name, value);
        }
    }
    response
}
