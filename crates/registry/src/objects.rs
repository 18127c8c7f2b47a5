//! An object store that speaks S3: objects are put whole or in parts, read, listed, deleted.
//!
//! Every request may be repeated: keys are never used again, parts have numbers of their own, and
//! what is gone can be deleted once more. So whatever goes wrong on the way is tried again for a
//! while, and only then a failure. Knows nothing of blobs or of what keys mean.

mod answer;
mod ask;
mod connection;
mod credentials;
mod endpoint;
mod multipart;
mod self_test;
mod sign;

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Method, StatusCode, response};

use crate::blobs::BlobError;
use crate::config::{ConfigError, Storage};
use crate::digest::{Algorithm, Digest};
use crate::registry::Clock;

pub(crate) use answer::{Listed, Unfinished};
use ask::{Ask, Attempts, content_md5, length, refusal};
use connection::{Client, Reading};
use credentials::Credentials;
pub(crate) use endpoint::Endpoint;
pub(crate) use multipart::Part;
use sign::{Moment, Signer, encoded};

/// The largest answer that is not an object: a list of 1000 long keys.
const MOST_ANSWER: usize = 4 << 20;
/// Objects that one request deletes; more are refused.
const DELETED_AT_ONCE: usize = 1000;
/// The largest object that the store copies in one request.
pub(crate) const MOST_COPIED: u64 = 5 << 30;

/// How it is made sure that what arrives is what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seal {
    /// The connection is encrypted, which tells of every change.
    Tls,
    /// The store compares each body with its digest.
    Sha256,
    /// The store passes over digests, and compares each body with its CRC-32.
    Crc32,
    /// The store compares each body with its MD5.
    Md5,
    /// It does not: everything is read once more before it counts.
    ReadBack,
}

/// A bucket of an object store, or what is in it under a prefix.
#[derive(Debug)]
pub(crate) struct Objects {
    client: Arc<Client>,
    endpoint: Endpoint,
    credentials: Credentials,
    region: String,
    bucket: String,
    prefix: String,
    clock: HiddenClock,
    seal: OnceLock<Seal>,
}

/// A clock that can be shown.
struct HiddenClock(Clock);

impl std::fmt::Debug for HiddenClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Objects {
    /// Knows where the bucket is; makes no connection yet.
    ///
    /// # Errors
    /// The settings or the file with the credentials cannot be used.
    pub(crate) fn new(settings: &Storage, clock: Clock) -> Result<Self, ConfigError> {
        let endpoint = settings.parsed_endpoint()?;
        Ok(Self {
            client: Arc::new(Client::new(
                endpoint.clone(),
                settings.authority.as_deref(),
            )?),
            credentials: Credentials::read(&settings.credentials, &settings.profile)?,
            seal: if endpoint.is_tls {
                OnceLock::from(Seal::Tls)
            } else {
                OnceLock::new()
            },
            endpoint,
            region: settings.region.clone(),
            bucket: settings.bucket.clone(),
            prefix: settings.prefix.clone(),
            clock: HiddenClock(clock),
        })
    }

    /// What is known of how the store guards what it is sent.
    pub(crate) fn seal(&self) -> Seal {
        self.seal.get().copied().unwrap_or(Seal::ReadBack)
    }

    /// Where an object is, for people.
    pub(crate) fn place(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket, self.prefix)
    }

    /// Puts an object; `digest` is its SHA-256, if that is known.
    pub(crate) async fn put(
        &self,
        key: &str,
        body: Bytes,
        digest: Option<&Digest>,
    ) -> Result<(), BlobError> {
        let mut ask = Ask::new("put", Method::PUT, key);
        ask.payload = digest
            .filter(|digest| digest.algorithm() == Algorithm::Sha256)
            .map(|digest| digest.hex().to_owned());
        ask.body = body;
        self.done(ask).await
    }

    /// The whole of a small object; `None` if there is none.
    pub(crate) async fn get(&self, key: &str, most: usize) -> Result<Option<Bytes>, BlobError> {
        let ask = Ask::new("get", Method::GET, key);
        self.found(ask, most, |head, body| {
            if body.len() as u64 != length(head)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(body)
        })
        .await
    }

    /// Bytes of an object; `None` if there is none.
    pub(crate) async fn head(&self, key: &str) -> Result<Option<u64>, BlobError> {
        let ask = Ask::new("look at", Method::HEAD, key);
        self.found(ask, 0, |head, _| length(head)).await
    }

    /// Begins to read `bytes` bytes of an object of `size` from `first` on; `None` if there is none.
    pub(crate) async fn open(
        &self,
        key: &str,
        first: u64,
        bytes: u64,
        size: u64,
    ) -> Result<Option<Stream>, BlobError> {
        let mut ask = Ask::new("get", Method::GET, key);
        let is_whole = first == 0 && bytes == size;
        if !is_whole {
            let range = format!("bytes={first}-{}", first + bytes - 1);
            ask.headers.push(("range", range));
        }
        let payload = self.payload_of(&ask).await;
        let mut attempts = Attempts(0);
        loop {
            let failure = match self.once(&ask, &payload).await {
                Ok((head, reading)) if head.status.is_success() => {
                    let is_part = head.status == StatusCode::PARTIAL_CONTENT;
                    match length(&head) {
                        Ok(found) if found == bytes && is_part != is_whole => {
                            return Ok(Some(Stream(reading)));
                        }
                        Ok(found) => {
                            let what = format!("the answer has {found} bytes, not {bytes}");
                            io::Error::new(io::ErrorKind::InvalidData, what)
                        }
                        Err(error) => error,
                    }
                }
                Ok((head, reading)) => {
                    let refusal = refusal(&head, reading).await;
                    if refusal.is_missing() {
                        return Ok(None);
                    }
                    if !refusal.may_pass() {
                        return Err(self.refused(&ask, refusal));
                    }
                    io::Error::other(refusal)
                }
                Err(error) => error,
            };
            if !attempts.again().await {
                return Err(self.failed(&ask, &failure));
            }
        }
    }

    /// Deletes objects; those that are gone are no failure. After a failure some may be left.
    pub(crate) async fn delete_all(&self, keys: &[String]) -> Result<(), BlobError> {
        for keys in keys.chunks(DELETED_AT_ONCE) {
            self.delete_some(keys).await?;
        }
        Ok(())
    }

    async fn delete_some(&self, keys: &[String]) -> Result<(), BlobError> {
        if let [key] = keys {
            return self.delete(key).await;
        }
        let mut document = String::from("<Delete><Quiet>true</Quiet>");
        for key in keys {
            let key = answer::escaped(&format!("{}{key}", self.prefix));
            document.push_str(&format!("<Object><Key>{key}</Key></Object>"));
        }
        document.push_str("</Delete>");
        let mut ask = Ask::new("delete objects of", Method::POST, "");
        ask.query = &[("delete", "")];
        ask.headers = vec![
            ("content-md5", content_md5(document.as_bytes())),
            ("content-type", "application/xml".to_owned()),
        ];
        ask.body = document.into();
        let outcome = self
            .whole(
                &ask,
                MOST_ANSWER,
                |_, body| match answer::failed_deletions(&body)?.first() {
                    None => Ok(()),
                    Some((key, code)) => Err(io::Error::other(format!("{key}: {code}"))),
                },
            )
            .await?;
        match outcome {
            Ok(()) => Ok(()),
            // Not every store knows this request.
            Err(refusal) if matches!(refusal.status, 405 | 501) => {
                for key in keys {
                    self.delete(key).await?;
                }
                Ok(())
            }
            Err(refusal) => Err(self.refused(&ask, refusal)),
        }
    }

    /// Deletes an object; it is no failure if it is gone.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), BlobError> {
        let ask = Ask::new("delete", Method::DELETE, key);
        match self.whole(&ask, MOST_ANSWER, |_, _| Ok(())).await? {
            Err(refusal) if !refusal.is_missing() => Err(self.refused(&ask, refusal)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Gives an object a second name, within the store.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<(), BlobError> {
        let source = format!("/{}/{}{from}", self.bucket, self.prefix);
        let mut ask = Ask::new("copy to", Method::PUT, to);
        ask.headers = vec![("x-amz-copy-source", encoded(&source, true))];
        match self
            .whole(&ask, MOST_ANSWER, |_, body| answer::done(&body))
            .await?
        {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.refused(&ask, refusal)),
        }
    }

    /// Some objects whose keys begin with `prefix`, in the order of keys, and where the list goes on.
    pub(crate) async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
    ) -> Result<(Vec<Listed>, Option<String>), BlobError> {
        let prefix = format!("{}{prefix}", self.prefix);
        let mut query = vec![
            ("list-type", "2"),
            ("encoding-type", "url"),
            ("max-keys", "1000"),
            ("prefix", prefix.as_str()),
        ];
        query.extend(from.map(|token| ("continuation-token", token)));
        let mut ask = Ask::new("list", Method::GET, "");
        ask.query = &query;
        let outcome = self
            .whole(&ask, MOST_ANSWER, |_, body| answer::page(&body))
            .await?;
        let mut page = outcome.map_err(|refusal| self.refused(&ask, refusal))?;
        for object in &mut page.objects {
            if let Some(key) = object.key.strip_prefix(&self.prefix) {
                object.key = key.to_owned();
            }
        }
        Ok((page.objects, page.next))
    }

    /// Checks that the store answers and knows us, in one attempt.
    pub(crate) async fn answers(&self) -> Result<(), BlobError> {
        let ask = Ask::new("look at", Method::HEAD, "self-test/ready");
        let payload = self.payload_of(&ask).await;
        let failure = match self.once(&ask, &payload).await {
            Ok((head, _)) if head.status.is_success() || head.status == StatusCode::NOT_FOUND => {
                return Ok(());
            }
            Ok((head, reading)) => io::Error::other(refusal(&head, reading).await),
            Err(error) => error,
        };
        Err(self.failed(&ask, &failure))
    }

    /// A URL with which anybody may read an object for some seconds.
    pub(crate) fn presigned(&self, key: &str, seconds: u64) -> String {
        let path = self.path(key);
        let moment = Moment::of((self.clock.0)());
        let host = &self.endpoint.authority;
        let query = self.signer().query("GET", &path, host, &moment, seconds);
        format!("{}{path}?{query}", self.endpoint.url())
    }

    fn signer(&self) -> Signer<'_> {
        Signer {
            credentials: &self.credentials,
            region: &self.region,
        }
    }

    fn path(&self, key: &str) -> String {
        let (base, bucket) = (&self.endpoint.base, encoded(&self.bucket, false));
        if key.is_empty() {
            return format!("{base}/{bucket}");
        }
        let key = encoded(&format!("{}{key}", self.prefix), true);
        format!("{base}/{bucket}/{key}")
    }

    async fn done(&self, ask: Ask<'_>) -> Result<(), BlobError> {
        match self.whole(&ask, MOST_ANSWER, |_, _| Ok(())).await? {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.refused(&ask, refusal)),
        }
    }

    async fn found<T>(
        &self,
        ask: Ask<'_>,
        most: usize,
        read: impl Fn(&response::Parts, Bytes) -> io::Result<T>,
    ) -> Result<Option<T>, BlobError> {
        match self.whole(&ask, most, read).await? {
            Ok(found) => Ok(Some(found)),
            Err(refusal) if refusal.is_missing() => Ok(None),
            Err(refusal) => Err(self.refused(&ask, refusal)),
        }
    }
}

/// An object that is being read.
#[derive(Debug)]
pub(crate) struct Stream(Reading);

impl Stream {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// What was read is not all.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.0.next().await
    }
}
