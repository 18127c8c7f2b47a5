//! Requests to the store: signed, sent, and repeated while that may help.

use std::io;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use flate2::Crc;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Request, response};
use http_body_util::Full;
use md5::{Digest as _, Md5};

use super::answer::Refusal;
use super::connection::Reading;
use super::sign::{Moment, Signed, UNSIGNED, encoded_query};
use super::{MOST_ANSWER, Objects, Seal};
use crate::blobs::BlobError;
use crate::digest::{Algorithm, Digest};
use crate::secret;

/// How often something is tried.
const MOST_ATTEMPTS: u32 = 7;
/// Waiting before the second attempt; each time it is three times as long.
const FIRST_PAUSE: Duration = Duration::from_millis(30);
/// The longest wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time for an answer to a request without a body.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a body that take a second more.
const BYTES_PER_SECOND: u64 = 256 << 10;

/// The header with the sum of a body.
pub(super) const CRC32: &str = "x-amz-checksum-crc32";

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    /// What an error says cannot be done.
    pub(super) action: &'static str,
    pub(super) method: Method,
    /// Without the prefix; empty for the bucket itself.
    pub(super) key: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Names in lower case.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// SHA-256 of the body in hex, if it is known already.
    pub(super) payload: Option<String>,
}

impl<'a> Ask<'a> {
    pub(super) fn new(action: &'static str, method: Method, key: &'a str) -> Self {
        Self {
            action,
            method,
            key,
            query: &[],
            headers: Vec::new(),
            body: Bytes::new(),
            payload: None,
        }
    }
}

/// A request that is repeated while that may help.
pub(super) struct Attempts(pub(super) u32);

impl Attempts {
    /// Waits until it is time to try again; `false` if it has been tried often enough.
    pub(super) async fn again(&mut self) -> bool {
        self.0 += 1;
        if self.0 >= MOST_ATTEMPTS {
            return false;
        }
        let pause = (FIRST_PAUSE * 3_u32.pow(self.0 - 1)).min(LONGEST_PAUSE);
        // Several who failed together should not come back together.
        let share = u32::from(secret::random::<1>()[0]);
        tokio::time::sleep(pause / 2 + pause * share / 512).await;
        true
    }
}

impl Objects {
    /// Asks until there is an answer; an error of `read` is one of the way there.
    pub(super) async fn whole<T>(
        &self,
        ask: &Ask<'_>,
        most: usize,
        read: impl Fn(&response::Parts, Bytes) -> io::Result<T>,
    ) -> Result<Result<T, Refusal>, BlobError> {
        let payload = self.payload_of(ask).await;
        let mut attempts = Attempts(0);
        loop {
            let failure = match self.once(ask, &payload).await {
                Ok((head, reading)) if head.status.is_success() => {
                    match reading.all(most).await.and_then(|body| read(&head, body)) {
                        Ok(value) => return Ok(Ok(value)),
                        Err(error) => error,
                    }
                }
                Ok((head, reading)) => {
                    let refusal = refusal(&head, reading).await;
                    if !refusal.may_pass() {
                        return Ok(Err(refusal));
                    }
                    io::Error::other(refusal)
                }
                Err(error) => error,
            };
            if !attempts.again().await {
                return Err(self.failed(ask, &failure));
            }
        }
    }

    /// The digest that a request is signed with.
    pub(super) async fn payload_of(&self, ask: &Ask<'_>) -> String {
        if let Some(payload) = &ask.payload {
            return payload.clone();
        }
        let is_sealed = match self.seal() {
            Seal::Tls => true,
            Seal::Crc32 => ask.method == Method::PUT,
            Seal::Sha256 | Seal::Md5 | Seal::ReadBack => false,
        };
        if is_sealed && !ask.body.is_empty() {
            return UNSIGNED.to_owned();
        }
        let body = ask.body.clone();
        let hash = move || Digest::of(Algorithm::Sha256, &body).hex().to_owned();
        if ask.body.len() < 256 << 10 {
            return hash();
        }
        // So much takes milliseconds, which others in this task should not wait for.
        tokio::task::spawn_blocking(hash)
            .await
            .unwrap_or_else(|_stopped| UNSIGNED.to_owned())
    }

    pub(super) async fn once(
        &self,
        ask: &Ask<'_>,
        payload: &str,
    ) -> io::Result<(response::Parts, Reading)> {
        let moment = Moment::of((self.clock.0)());
        let mut headers: Vec<(&str, &str)> = vec![
            ("host", &self.endpoint.authority),
            ("x-amz-content-sha256", payload),
            ("x-amz-date", &moment.text),
        ];
        let sum;
        match self.seal() {
            _ if ask.body.is_empty() => {}
            Seal::Crc32 if ask.method == Method::PUT => {
                sum = content_crc32(&ask.body);
                headers.push((CRC32, &sum));
            }
            // Of a document that completes an object it would be the sum of the object.
            Seal::Crc32 | Seal::Md5 => {
                sum = content_md5(&ask.body);
                headers.push(("content-md5", &sum));
            }
            Seal::Tls | Seal::Sha256 | Seal::ReadBack => {}
        }
        for (name, value) in &ask.headers {
            if headers.iter().all(|(found, _)| found != name) {
                headers.push((name, value));
            }
        }
        if let Some(token) = &self.credentials.token {
            headers.push(("x-amz-security-token", token));
        }
        headers.sort_unstable();
        let path = self.path(ask.key);
        let signed = Signed {
            method: ask.method.as_str(),
            path: &path,
            query: ask.query,
            headers: &headers,
            payload,
        };
        let authorization = self.signer().header(signed, &moment);
        let mut target = path.clone();
        if !ask.query.is_empty() {
            target.push('?');
            target.push_str(&encoded_query(ask.query));
        }
        let mut request = Request::builder().method(ask.method.clone()).uri(target);
        for (name, value) in headers {
            request = request.header(
                name,
                HeaderValue::from_str(value).map_err(io::Error::other)?,
            );
        }
        let mut value = HeaderValue::from_str(&authorization).map_err(io::Error::other)?;
        value.set_sensitive(true);
        let request = request
            .header("authorization", value)
            .header("user-agent", concat!("kiln/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(ask.body.clone()))
            .map_err(io::Error::other)?;
        let patience = PATIENCE + Duration::from_secs(ask.body.len() as u64 / BYTES_PER_SECOND);
        self.client.send(request, patience).await
    }

    pub(super) fn failed(&self, ask: &Ask<'_>, failure: &io::Error) -> BlobError {
        let kind = io::ErrorKind::NetworkDown;
        let source = io::Error::new(kind, with_causes(failure));
        BlobError::new(ask.action, Path::new(&self.place(ask.key)), source)
    }

    pub(super) fn refused(&self, ask: &Ask<'_>, refusal: Refusal) -> BlobError {
        let kind = if refusal.is_full() {
            io::ErrorKind::StorageFull
        } else if refusal.is_missing() {
            io::ErrorKind::NotFound
        } else if refusal.status == 403 {
            io::ErrorKind::PermissionDenied
        } else {
            io::ErrorKind::Other
        };
        let source = io::Error::new(kind, refusal);
        BlobError::new(ask.action, Path::new(&self.place(ask.key)), source)
    }
}

pub(super) async fn refusal(head: &response::Parts, reading: Reading) -> Refusal {
    let body = reading.all(MOST_ANSWER).await.unwrap_or_default();
    Refusal::read(head.status, &body)
}

pub(super) fn length(head: &response::Parts) -> io::Result<u64> {
    let value = head.headers.get(CONTENT_LENGTH);
    value
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no length"))
}

/// The value of the header [`CRC32`].
pub(super) fn content_crc32(bytes: &[u8]) -> String {
    let mut sum = Crc::new();
    sum.update(bytes);
    BASE64.encode(sum.sum().to_be_bytes())
}

pub(super) fn content_md5(bytes: &[u8]) -> String {
    BASE64.encode(Md5::digest(bytes))
}

/// An error and what it says that it comes from.
fn with_causes(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.get_ref().and_then(|inner| inner.source());
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
