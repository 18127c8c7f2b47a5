//! Objects in parts: begun, continued by whoever knows the id, completed or given up.

use std::io;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};

use super::ask::Ask;
use super::{MOST_ANSWER, Objects, Unfinished, answer};
use crate::blobs::BlobError;

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// From 1 to 10,000; not every number need be there.
    #[serde(rename = "n")]
    pub(crate) number: u32,
    /// What the store calls it.
    #[serde(rename = "e")]
    pub(crate) etag: String,
    #[serde(rename = "s")]
    pub(crate) size: u64,
}

impl Objects {
    /// Begins an object in parts; returns the id of the upload.
    pub(crate) async fn begin_parts(&self, key: &str) -> Result<String, BlobError> {
        let mut ask = Ask::new("begin", Method::POST, key);
        ask.query = &[("uploads", "")];
        let outcome = self
            .whole(&ask, MOST_ANSWER, |_, body| answer::upload_id(&body))
            .await?;
        outcome.map_err(|refusal| self.refused(&ask, refusal))
    }

    /// Puts a part; one with the same number is replaced.
    pub(crate) async fn put_part(
        &self,
        key: &str,
        upload: &str,
        number: u32,
        body: Bytes,
    ) -> Result<Part, BlobError> {
        let text = number.to_string();
        let query = [("partNumber", text.as_str()), ("uploadId", upload)];
        let mut ask = Ask::new("put a part of", Method::PUT, key);
        ask.query = &query;
        let size = body.len() as u64;
        ask.body = body;
        let outcome = self
            .whole(&ask, MOST_ANSWER, |head, _| {
                let etag = head.headers.get("etag").and_then(|etag| etag.to_str().ok());
                let etag = etag.map(str::to_owned);
                etag.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "the answer has no ETag")
                })
            })
            .await?;
        let etag = outcome.map_err(|refusal| self.refused(&ask, refusal))?;
        Ok(Part { number, etag, size })
    }

    /// Makes an object of parts; `false` if the store knows no such upload, perhaps because an earlier
    /// attempt came through and its answer did not.
    pub(crate) async fn complete_parts(
        &self,
        key: &str,
        upload: &str,
        parts: &[Part],
    ) -> Result<bool, BlobError> {
        let query = [("uploadId", upload)];
        let mut document = String::from("<CompleteMultipartUpload>");
        for part in parts {
            let etag = answer::escaped(&part.etag);
            let number = part.number;
            document.push_str(&format!(
                "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
            ));
        }
        document.push_str("</CompleteMultipartUpload>");
        let mut ask = Ask::new("complete", Method::POST, key);
        ask.query = &query;
        ask.headers = vec![("content-type", "application/xml".to_owned())];
        ask.body = document.into();
        match self
            .whole(&ask, MOST_ANSWER, |_, body| answer::done(&body))
            .await?
        {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.is_missing() => Ok(false),
            Err(refusal) => Err(self.refused(&ask, refusal)),
        }
    }

    /// Gives up an object in parts; it is no failure if it is not known any more.
    pub(crate) async fn abort_parts(&self, key: &str, upload: &str) -> Result<(), BlobError> {
        let query = [("uploadId", upload)];
        let mut ask = Ask::new("give up", Method::DELETE, key);
        ask.query = &query;
        match self.whole(&ask, MOST_ANSWER, |_, _| Ok(())).await? {
            Err(refusal) if !refusal.is_missing() => Err(self.refused(&ask, refusal)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Some objects in parts that are not complete, of all that are ours, and where the list goes on: key and id.
    /// Nothing where the store has no such list.
    pub(crate) async fn list_unfinished(
        &self,
        from: Option<&(String, String)>,
    ) -> Result<(Vec<Unfinished>, Option<(String, String)>), BlobError> {
        let mut query = vec![
            ("uploads", ""),
            ("encoding-type", "url"),
            ("max-uploads", "1000"),
            ("prefix", self.prefix.as_str()),
        ];
        if let Some((key, upload)) = from {
            query.push(("key-marker", key));
            query.push(("upload-id-marker", upload));
        }
        let mut ask = Ask::new("list uploads to", Method::GET, "");
        ask.query = &query;
        let outcome = self
            .whole(&ask, MOST_ANSWER, |_, body| answer::unfinished(&body))
            .await?;
        let page = match outcome {
            Ok(page) => page,
            Err(refusal) if matches!(refusal.status, 405 | 501) => return Ok((Vec::new(), None)),
            Err(refusal) => return Err(self.refused(&ask, refusal)),
        };
        // Not every store obeys the prefix.
        let ours = page.uploads.into_iter().filter_map(|mut one| {
            one.key = one.key.strip_prefix(&self.prefix)?.to_owned();
            Some(one)
        });
        Ok((ours.collect(), page.next))
    }
}
