//! Does the object store do what a registry needs? Asked once, before anything relies on it.

use std::io;

use bytes::Bytes;
use http::Method;

use super::ask::{Ask, Attempts, CRC32, content_crc32, refusal};
use super::sign::UNSIGNED;
use super::{Objects, Seal};
use crate::blobs::BlobError;
use crate::digest::{Algorithm, Digest, hex};
use crate::secret;

/// The least bytes of a part that is not the last one.
const LEAST_PART: usize = 5 << 20;

/// How often it is tested before it is said to be wrong.
const MOST_TESTS: u32 = 3;

/// What the store does wrong.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub(crate) enum Unfit {
    #[error("{0}")]
    Failed(#[from] BlobError),
    #[error("an object that was put a moment ago {0}")]
    Wrong(&'static str),
}

impl Unfit {
    /// Whether the next test may find otherwise: an answer may break off or be wrong on its way. What was asked for
    /// again and again already, or is forbidden, stays.
    fn may_pass(&self) -> bool {
        match self {
            Self::Failed(error) => {
                !error.is_unavailable() && error.source.kind() != io::ErrorKind::PermissionDenied
            }
            Self::Wrong(_) => true,
        }
    }
}

impl Objects {
    /// Puts, reads, lists and deletes a few objects under `self-test/`, and finds out how the store guards what it is
    /// sent.
    ///
    /// # Errors
    /// The first thing that does not work, several times in a row.
    pub(crate) async fn test(&self) -> Result<(), Unfit> {
        let mut outcome = Ok(());
        for _ in 0..MOST_TESTS {
            outcome = self.test_once().await;
            if !outcome.as_ref().is_err_and(Unfit::may_pass) {
                break;
            }
        }
        outcome
    }

    async fn test_once(&self) -> Result<(), Unfit> {
        let folder = format!("self-test/{}/", hex(&secret::random::<8>()));
        let outcome = self.test_in(&folder).await;
        let (whole, parts) = (format!("{folder}whole"), format!("{folder}parts"));
        let cleaned = self.delete_all(&[whole.clone(), parts]).await;
        outcome?;
        cleaned?;
        if self.head(&whole).await?.is_some() {
            return Err(Unfit::Wrong("and deleted is still there"));
        }
        if !self.list(&folder, None).await?.0.is_empty() {
            return Err(Unfit::Wrong("and deleted is still listed"));
        }
        Ok(())
    }

    async fn test_in(&self, folder: &str) -> Result<(), Unfit> {
        let whole = format!("{folder}whole");
        let bytes = Bytes::from_static(b"kiln asks whether this comes back as it was");
        self.put(&whole, bytes.clone(), None).await?;
        if self.get(&whole, 1024).await?.as_ref() != Some(&bytes) {
            return Err(Unfit::Wrong("does not come back as it was"));
        }
        if self.head(&whole).await? != Some(bytes.len() as u64) {
            return Err(Unfit::Wrong("is said to have another size"));
        }
        if self.read_range(&whole, 5, 4, bytes.len() as u64).await? != bytes[5..9] {
            return Err(Unfit::Wrong(
                "comes back whole or wrong when a part of it is asked for",
            ));
        }
        if !self.lists(folder, &whole).await? {
            return Err(Unfit::Wrong("is not in the list of objects"));
        }
        if self.seal.get().is_none() {
            let found = self.find_seal(&whole).await?;
            self.seal.get_or_init(|| found);
        }
        self.test_parts(&format!("{folder}parts")).await
    }

    /// Sends what is not what the request says it is, and looks which of its claims the store checks.
    async fn find_seal(&self, key: &str) -> Result<Seal, BlobError> {
        let (other, mut ask) = (b"something else", Ask::new("put", Method::PUT, key));
        ask.body = Bytes::from_static(b"not what was signed");
        let wrong = Digest::of(Algorithm::Sha256, other);
        if self.is_refused(&ask, wrong.hex()).await? {
            return Ok(Seal::Sha256);
        }
        ask.headers = vec![(CRC32, content_crc32(other))];
        if self.is_refused(&ask, UNSIGNED).await? {
            ask.headers = vec![(CRC32, content_crc32(&ask.body))];
            if !self.is_refused(&ask, UNSIGNED).await? {
                return Ok(Seal::Crc32);
            }
        }
        let right = Digest::of(Algorithm::Sha256, &ask.body);
        ask.headers = vec![("content-md5", super::content_md5(other))];
        if self.is_refused(&ask, right.hex()).await? {
            return Ok(Seal::Md5);
        }
        Ok(Seal::ReadBack)
    }

    async fn is_refused(&self, ask: &Ask<'_>, payload: &str) -> Result<bool, BlobError> {
        let mut attempts = Attempts(0);
        loop {
            let failure = match self.once(ask, payload).await {
                Ok((head, reading)) => {
                    let refusal = refusal(&head, reading).await;
                    if head.status.is_success() || head.status.is_client_error() {
                        return Ok(!head.status.is_success());
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

    async fn lists(&self, folder: &str, key: &str) -> Result<bool, BlobError> {
        let (objects, _) = self.list(folder, None).await?;
        Ok(objects.iter().any(|object| object.key == key))
    }

    async fn test_parts(&self, key: &str) -> Result<(), Unfit> {
        let first: Bytes = secret::random::<64>().repeat(LEAST_PART / 64).into();
        let last = Bytes::from_static(b"the end");
        let size = (first.len() + last.len()) as u64;
        let upload = self.begin_parts(key).await?;
        let mut parts = Vec::new();
        // Numbers need not follow one another, and are not put in their order.
        parts.push(self.put_part(key, &upload, 7, last.clone()).await?);
        if self.head(key).await?.is_some() {
            return Err(Unfit::Wrong("in parts is there before it is complete"));
        }
        parts.insert(0, self.put_part(key, &upload, 2, first.clone()).await?);
        if !self.complete_parts(key, &upload, &parts).await? {
            return Err(Unfit::Wrong("in parts cannot be completed"));
        }
        if self.head(key).await? != Some(size) {
            return Err(Unfit::Wrong("in parts has another size"));
        }
        let at = first.len() as u64 - 3;
        let middle = [&first[first.len() - 3..], &last[..3]].concat();
        if self.read_range(key, at, 6, size).await? != middle {
            return Err(Unfit::Wrong("in parts does not come back as it was"));
        }
        let upload = self.begin_parts(key).await?;
        self.put_part(key, &upload, 1, last).await?;
        self.abort_parts(key, &upload).await?;
        Ok(())
    }

    async fn read_range(
        &self,
        key: &str,
        first: u64,
        bytes: u64,
        size: u64,
    ) -> Result<Vec<u8>, BlobError> {
        let mut read = Vec::new();
        if let Some(mut stream) = self.open(key, first, bytes, size).await? {
            let failed =
                |error| BlobError::new("get", std::path::Path::new(&self.place(key)), error);
            while let Some(piece) = stream.next().await.map_err(failed)? {
                read.extend_from_slice(&piece);
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use kiln_peers::ObjectStore;

    use super::super::ask::content_md5;
    use super::*;
    use crate::config::Storage;

    #[expect(
        clippy::disallowed_methods,
        reason = "the store compares its clock with ours"
    )]
    fn objects(store: &ObjectStore) -> Objects {
        let text = format!(
            "endpoint = \"http://{}\"\nbucket = \"{}\"\ncredentials = \"{}\"\n",
            store.host(),
            ObjectStore::BUCKET,
            store.credentials().display()
        );
        let settings: Storage = toml::from_str(&text).unwrap();
        Objects::new(&settings, Arc::new(SystemTime::now)).unwrap()
    }

    #[test]
    fn sums_are_as_others_have_them() {
        assert_eq!(content_crc32(b"123456789"), "y/Q5Jg==");
        assert_eq!(content_md5(b""), "1B2M2Y8AsgTpgAmY7PhCfg==");
    }

    #[tokio::test]
    async fn a_store_that_passes_over_digests_compares_sums() {
        let space = tempfile::tempdir().unwrap();
        let store = ObjectStore::start(&space.path().join("store")).unwrap();
        let tested = objects(&store);
        tested.test().await.unwrap();
        assert_eq!(tested.seal(), Seal::Crc32);
        let (meant, changed) = (Bytes::from_static(b"meant"), Bytes::from_static(b"other"));
        tested.put("x", meant.clone(), None).await.unwrap();
        assert_eq!(tested.get("x", 1024).await.unwrap(), Some(meant.clone()));
        // As if it had become something else on its way; of one that was not tested nothing comes in between.
        let sent = objects(&store);
        let upload = sent.begin_parts("y").await.unwrap();
        let part = [("partNumber", "1"), ("uploadId", upload.as_str())];
        for (key, query) in [("x", &[][..]), ("y", &part)] {
            for (body, is_refused) in [(&changed, true), (&meant, false)] {
                let mut ask = Ask::new("put", Method::PUT, key);
                ask.query = query;
                ask.headers = vec![(CRC32, content_crc32(&meant))];
                ask.body = body.clone();
                let refused = sent.is_refused(&ask, UNSIGNED).await.unwrap();
                assert_eq!(refused, is_refused, "{key}");
            }
        }
    }
}
