//! What is asked, and a reply that fits in memory.

use std::fmt;

use crate::error::{BodyText, Error};
use crate::patience::Patience;
use crate::url::Url;

/// The method of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Asks for a resource.
    Get,
    /// Asks for its headers alone.
    Head,
    /// Sends a body and asks for the answer.
    Post,
    /// Puts a body in the place of a resource.
    Put,
    /// Adds a body to a resource.
    Patch,
    /// Removes a resource.
    Delete,
}

impl Method {
    /// Tells whether asking twice is as good as asking once (RFC 9110, 9.2.2).
    pub fn is_idempotent(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete => true,
            Self::Post | Self::Patch => false,
        }
    }
}

/// One request. Redirects are followed by the client.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) authorization: Option<String>,
    pub(crate) plain_http: bool,
    pub(crate) patience: Patience,
    pub(crate) body: Option<Vec<u8>>,
}

impl Request {
    /// Asks `url` by `method`, without a body of its own: that of an [`Upload`](crate::Upload) may
    /// be added.
    pub fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            authorization: None,
            plain_http: false,
            patience: Patience::FULL,
            body: None,
        }
    }

    /// Asks for `url`.
    pub fn get(url: Url) -> Self {
        Self::new(Method::Get, url)
    }

    /// Asks for the headers of `url`.
    pub fn head(url: Url) -> Self {
        Self::new(Method::Head, url)
    }

    /// Sends `body` to `url`.
    pub fn post(url: Url, content_type: &str, body: Vec<u8>) -> Self {
        let mut request = Self::new(Method::Post, url).header("content-type", content_type);
        request.body = Some(body);
        request
    }

    /// Puts `body`, which is small, at `url`.
    pub fn put(url: Url, content_type: &str, body: Vec<u8>) -> Self {
        let mut request = Self::new(Method::Put, url).header("content-type", content_type);
        request.body = Some(body);
        request
    }

    /// Removes what is at `url`.
    pub fn delete(url: Url) -> Self {
        Self::new(Method::Delete, url)
    }

    /// Adds a header. Secrets belong in [`Self::authorization`].
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the `Authorization` header: sent to this host alone, never after a redirect elsewhere,
    /// and never shown.
    #[must_use]
    pub fn authorization(mut self, value: impl Into<String>) -> Self {
        self.authorization = Some(value.into());
        self
    }

    /// Allows `http` without TLS to any host: for content that is verified by a signature or digest.
    #[must_use]
    pub fn allow_plain_http(mut self) -> Self {
        self.plain_http = true;
        self
    }

    /// Sets what the answer is worth, where that is less than the settings say.
    #[must_use]
    pub fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Returns the address asked.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("headers", &self.headers)
            .field("authorization", &self.authorization.is_some())
            .finish_non_exhaustive()
    }
}

/// A reply, whole.
#[derive(Clone)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The address that answered, after redirects.
    pub url: Url,
    /// The body; empty after `HEAD`. Of a reply that is no success, at most 64 KiB.
    pub body: Vec<u8>,
    pub(crate) headers: Headers,
}

impl Response {
    /// Returns the first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Returns all headers of that name (in lower case).
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.all(name)
    }

    /// Tells whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Returns the reply if its status is 2xx.
    ///
    /// # Errors
    /// [`Error::Status`] with the start of the body otherwise.
    pub fn success(self) -> Result<Self, Error> {
        if self.is_success() {
            Ok(self)
        } else {
            Err(Error::Status {
                url: self.url.shown(),
                status: self.status,
                body: BodyText::of(&self.body),
            })
        }
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and body may hold tokens.
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("url", &self.url)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Header names in lower case and their values; values that are not ASCII text are left out.
#[derive(Clone, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(have, _)| have == name)
            .map(|(_, value)| value.as_str())
    }

    /// Returns a header that is a plain decimal number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim().parse().ok()
    }
}
