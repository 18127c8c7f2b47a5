//! How uploads to an object store end: as a copy, as nothing, or where the request began.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::super::{Placed, UploadError};
use super::{Turn, Whole, bucket, remove};
use crate::blobs::bucket::{Bucket, data};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::index::Seconds;
use crate::objects::Seal;

impl Turn {
    /// Takes back what this request brought.
    pub(in crate::blobs::upload) async fn cut(&mut self) -> Result<(), UploadError> {
        self.loose = None;
        let mut kept = self.before.clone();
        kept.assembly.clone_from(&self.state.assembly);
        kept.next = self.state.next;
        if kept != self.state {
            let tail = self
                .state
                .tail
                .clone()
                .filter(|tail| Some(tail) != kept.tail.as_ref());
            self.stale = tail.map(|tail| tail.name).into_iter().collect();
            self.state = kept;
            self.record().await?;
        } else {
            self.stale.clear();
        }
        self.hasher = self.state.hasher();
        Ok(())
    }

    /// Ends the upload and frees its bytes.
    pub(in crate::blobs::upload) async fn cancel(mut self) -> Result<(), UploadError> {
        self.loose = None;
        if let Some(claim) = self.claim() {
            self.state.dead = true;
            let (registry, now) = (&self.registry, self.registry.now());
            if !remove(registry, bucket(registry)?, claim, &self.state, now).await? {
                // Somebody else goes on with it, and needs whatever is there.
                return Ok(());
            }
        }
        let name = self.whole.take().map(|whole| whole.name);
        self.stale.extend(name);
        self.remove_stale().await;
        self.forget();
        Ok(())
    }

    fn forget(&self) {
        self.registry.uploads.forget(&self.id);
    }

    /// The digest of all bytes; reads them again if the hash computes another one.
    pub(in crate::blobs::upload) async fn digest(
        &mut self,
        algorithm: Algorithm,
    ) -> Result<Digest, UploadError> {
        if let Some(hasher) = &self.hasher
            && hasher.algorithm() == algorithm
        {
            return Ok(hasher.clone().finish());
        }
        let name = self.assemble().await?.name;
        let digest = self.read_back(&name, algorithm).await?;
        let is_sure = true;
        self.whole = Some(Whole { name, is_sure });
        Ok(digest)
    }

    async fn read_back(&self, name: &str, algorithm: Algorithm) -> Result<Digest, UploadError> {
        let bucket = bucket(&self.registry)?;
        let mut hasher = Hasher::new(algorithm);
        let found = bucket
            .read_object(&data(name), &mut |bytes: &[u8]| hasher.update(bytes))
            .await?;
        if !found {
            return Err(self.gone("its bytes are missing"));
        }
        Ok(hasher.finish())
    }

    /// Makes one object of everything.
    async fn assemble(&mut self) -> Result<Whole, UploadError> {
        if let Some(whole) = &self.whole {
            return Ok(whole.clone());
        }
        let whole = if self.state.assembly.is_some() && !self.state.parts.is_empty() {
            self.complete().await?
        } else {
            let name = match (self.loose.take(), &self.state.tail) {
                (Some(loose), _) => {
                    let size = loose.bytes.len() as u64;
                    let tail = self.put(loose).await?;
                    debug_assert_eq!(tail.size, size, "all of it");
                    self.stale
                        .extend(self.state.tail.take().map(|tail| tail.name));
                    let name = tail.name.clone();
                    self.state.tail = Some(tail);
                    name
                }
                (None, Some(tail)) => tail.name.clone(),
                (None, None) => {
                    let nothing = self.memory.buffer(1, 1).await?;
                    let tail = self.put(nothing).await?;
                    let name = tail.name.clone();
                    self.state.tail = Some(tail);
                    name
                }
            };
            Whole {
                name,
                is_sure: true,
            }
        };
        self.whole = Some(whole.clone());
        Ok(whole)
    }

    /// Completes the object in parts.
    async fn complete(&mut self) -> Result<Whole, UploadError> {
        let size = self.offset();
        let last: Option<Bytes> = match (self.loose.take(), self.state.tail.clone()) {
            (Some(loose), _) => Some(loose.bytes.into()),
            (None, Some(tail)) => Some(self.read_tail(&tail).await?),
            (None, None) => None,
        };
        let objects = Arc::clone(&bucket(&self.registry)?.objects);
        let mut parts = self.state.parts.clone();
        let (assembly, number) = self.next_part().await?;
        let object = data(&assembly.name);
        let mut is_known = true;
        if let Some(last) = last {
            match objects
                .put_part(&object, &assembly.upload, number, last)
                .await
            {
                Ok(part) => parts.push(part),
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => is_known = false,
                Err(error) => return Err(error.into()),
            }
        }
        let is_sure = is_known
            && objects
                .complete_parts(&object, &assembly.upload, &parts)
                .await?;
        // Where the store does not know the upload, an earlier attempt may have completed it; what that sent is looked
        // at before it counts.
        let bucket = bucket(&self.registry)?;
        if !is_sure && objects.head(&object).await? != Some(size) {
            return Err(self.gone("the object store does not know it any more"));
        }
        bucket.check_size(&object, size).await?;
        Ok(Whole {
            name: assembly.name,
            is_sure,
        })
    }

    /// Makes the bytes, which are what `digest` says, a copy, durably.
    pub(in crate::blobs::upload) async fn publish(
        mut self: Box<Self>,
        digest: &Digest,
        now: Seconds,
    ) -> Result<Placed, UploadError> {
        let size = self.offset();
        let whole = self.assemble().await?;
        let bucket = bucket(&self.registry)?;
        if (!whole.is_sure || bucket.objects.seal() == Seal::ReadBack)
            && self.read_back(&whole.name, digest.algorithm()).await? != *digest
        {
            return Err(self.gone("the object store has other bytes than were sent"));
        }
        let key = Bucket::new_key(digest, now, &whole.name);
        bucket.declare(&key).await?;
        let stale = self.stale.iter().map(|name| data(name));
        // A tail that is a part now.
        let tail = self
            .state
            .tail
            .as_ref()
            .filter(|tail| tail.name != whole.name);
        let stale = stale.chain(tail.map(|tail| data(&tail.name))).collect();
        Ok(Placed {
            key,
            size,
            claim: self.claim(),
            stale,
        })
    }
}
