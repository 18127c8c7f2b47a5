//! Uploads to an object store, which any replica may go on with.
//!
//! ```text
//! parts, complete and numbered │ tail: an object │ loose: in memory, gone with this request
//! ```
//!
//! What is in the store and how far the hash is, is a row of the index; each change makes the next version of it, which
//! only one request can make. Parts have numbers, and objects names, that no other request uses, so one that
//! was overtaken and does not know it yet does no harm. A blob comes of an upload in the transaction that ends
//! its row, or not at all. Up to the size of a part, the tail is what will be the blob.

mod end;
mod uploads;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::memory::{Buffer, Memory};
use super::state::{Assembly, State, Tail};
use super::{UploadError, UploadId};
use crate::blobs::bucket::{Bucket, data, new_name, part_bytes};
use crate::blobs::{BlobError, Blobs};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::held::Batch;
use crate::index::Claim;
use crate::objects::Part;
use crate::registry::Registry;
use uploads::remove;
pub(super) use uploads::{Uploads, begin};

/// Parts that are sent at a time, while the next one fills.
const IN_FLIGHT: usize = 2;
/// How long memory may take to fill when others wait for some.
const LONGEST_LOAN: Duration = Duration::from_secs(2);
/// Numbers of parts that a request may have used since the last version of its row.
const WINDOW: u32 = 4;
/// The highest number of a part.
const LAST_PART: u32 = 10_000;

/// A part that is on its way.
#[derive(Debug)]
struct Pending {
    task: JoinHandle<Result<Part, BlobError>>,
    /// The hash after it.
    hash: Vec<u8>,
}

/// The right to write to an upload.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) id: UploadId,
    pub(super) turns: watch::Receiver<u64>,
    _guard: OwnedMutexGuard<Option<()>>,
    registry: Arc<Registry>,
    memory: Memory,
    /// As it is in the row, or will be in the next version.
    state: State,
    /// As it was when the request began.
    before: State,
    /// Of the row; `None` as long as there is none.
    version: Option<i64>,
    /// Of all bytes, those in memory too.
    hasher: Option<Hasher>,
    /// The tail and what came after it.
    loose: Option<Buffer>,
    pending: VecDeque<Pending>,
    /// The next number that this request may use, if it has set some aside.
    number: Option<u32>,
    /// Tails that others took the place of.
    stale: Vec<String>,
    /// The object that has everything.
    whole: Option<Whole>,
}

/// An object with all bytes of an upload.
#[derive(Clone, Debug)]
struct Whole {
    name: String,
    /// Whether it was read, or is known to be what was sent.
    is_sure: bool,
}

fn bucket(registry: &Registry) -> Result<&Bucket, BlobError> {
    match &*registry.blobs {
        Blobs::Bucket(bucket) => Ok(bucket),
        Blobs::Folder(_) => {
            let source = io::Error::other("the registry's blobs are in its folder");
            Err(BlobError::new("write to", Path::new("bucket"), source))
        }
    }
}

impl Turn {
    /// Bytes that are there.
    pub(super) fn offset(&self) -> u64 {
        match &self.loose {
            Some(loose) => self.state.part_bytes() + loose.bytes.len() as u64,
            None => self.state.bytes(),
        }
    }

    /// Takes in pieces until there are no more.
    pub(super) async fn write_all(
        &mut self,
        pieces: mpsc::Receiver<Batch>,
        length: Option<u64>,
    ) -> Result<(), UploadError> {
        let taken = self.take_in(pieces, length).await;
        let outcome = match self.collect(0).await {
            Ok(()) => taken,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.rewind();
        }
        outcome
    }

    /// Forgets what is only in memory, which does not follow on what is in the store.
    fn rewind(&mut self) {
        self.loose = None;
        // If the row did not get its next version, they are not stale.
        self.stale.clear();
        for pending in self.pending.drain(..) {
            pending.task.abort();
        }
        self.hasher = self.state.hasher();
    }

    async fn take_in(
        &mut self,
        mut pieces: mpsc::Receiver<Batch>,
        length: Option<u64>,
    ) -> Result<(), UploadError> {
        let mut left = length;
        while let Some(batch) = self.next_batch(&mut pieces).await? {
            for piece in &batch.pieces {
                let mut rest = &piece[..];
                while !rest.is_empty() {
                    let mut loose = match self.loose.take() {
                        Some(loose) => loose,
                        None => self.new_buffer(left).await?,
                    };
                    let taken = loose.take(rest);
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&rest[..taken]);
                    }
                    rest = &rest[taken..];
                    left = left.map(|left| left.saturating_sub(taken as u64));
                    // One that is full is sent only when there is more: it may be all.
                    if taken == 0 {
                        self.ship(loose).await?;
                    } else {
                        self.loose = Some(loose);
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for more. Memory that fills slowly goes to others if they wait for some.
    async fn next_batch(
        &mut self,
        pieces: &mut mpsc::Receiver<Batch>,
    ) -> Result<Option<Batch>, UploadError> {
        loop {
            let Some(loose) = &self.loose else {
                return Ok(pieces.recv().await);
            };
            let lent_until = loose.since + LONGEST_LOAN;
            tokio::select! {
                biased;
                () = sleep_until(lent_until) => {}
                batch = pieces.recv() => return Ok(batch),
            }
            if self.memory.is_wanted() {
                // What follows comes after the parts that are on their way.
                self.collect(0).await?;
                self.settle().await?;
            } else if let Some(loose) = &mut self.loose {
                loose.since = Instant::now();
            }
        }
    }

    /// Memory for the next part, with the tail in it if there is one.
    async fn new_buffer(&mut self, left: Option<u64>) -> Result<Buffer, UploadError> {
        let most = part_bytes(self.state.parts.len() + self.pending.len());
        // A tail that is on its way as a part is not read again.
        let tail = self.state.tail.clone().filter(|_| self.pending.is_empty());
        let tail_bytes = tail.as_ref().map_or(0, |tail| tail.size);
        let expected = left.map_or(u64::MAX, |left| left.saturating_add(tail_bytes));
        let mut buffer = self.memory.buffer(most, expected).await?;
        if let Some(tail) = tail {
            buffer
                .bytes
                .extend_from_slice(&self.read_tail(&tail).await?);
        }
        Ok(buffer)
    }

    async fn read_tail(&self, tail: &Tail) -> Result<Bytes, UploadError> {
        let objects = &bucket(&self.registry)?.objects;
        let object = data(&tail.name);
        let most = usize::try_from(tail.size).unwrap_or(usize::MAX);
        for _ in 0..3 {
            let Some(bytes) = objects.get(&object, most).await? else {
                return Err(self.gone("its last bytes are missing"));
            };
            if Digest::of(Algorithm::Sha256, &bytes).hex() == tail.sha256 {
                return Ok(bytes);
            }
        }
        Err(self.gone("its last bytes are damaged"))
    }

    fn gone(&self, why: &str) -> UploadError {
        let source = io::Error::new(io::ErrorKind::NotFound, why);
        BlobError::new("go on with upload", Path::new(self.id.as_str()), source).into()
    }

    /// Sends a full part.
    async fn ship(&mut self, buffer: Buffer) -> Result<(), UploadError> {
        let (assembly, number) = self.next_part().await?;
        let objects = Arc::clone(&bucket(&self.registry)?.objects);
        let Buffer { bytes, held, .. } = buffer;
        let task = tokio::spawn(async move {
            let object = data(&assembly.name);
            let part = objects.put_part(&object, &assembly.upload, number, bytes.into());
            let part = part.await;
            drop(held);
            part
        });
        let hash = self.hasher.as_ref().map(Hasher::save).unwrap_or_default();
        self.pending.push_back(Pending { task, hash });
        self.collect(IN_FLIGHT).await
    }

    /// The object in parts, and a number for the next one.
    async fn next_part(&mut self) -> Result<(Assembly, u32), UploadError> {
        let objects = Arc::clone(&bucket(&self.registry)?.objects);
        let assembly = match &self.state.assembly {
            Some(assembly) => assembly.clone(),
            None => {
                let name = new_name();
                let upload = objects.begin_parts(&data(&name)).await?;
                let assembly = Assembly { name, upload };
                self.state.assembly = Some(assembly.clone());
                self.number = None;
                assembly
            }
        };
        let number = match self.number {
            Some(number) => number,
            None => {
                // Whoever had the upload before may have used numbers up to here, and does not use those from here on.
                let number = self.state.next;
                self.state.next = number + WINDOW;
                let recorded = self.record().await;
                if recorded.is_err() && self.state.parts.is_empty() {
                    // If nobody knows of the object, nobody would give it up.
                    let object = data(&assembly.name);
                    self.give_up(&object, &assembly.upload).await;
                }
                recorded?;
                number
            }
        };
        self.number = Some(number + 1);
        if number > LAST_PART {
            let source = io::Error::new(io::ErrorKind::FileTooLarge, "it has too many parts");
            let id = Path::new(self.id.as_str());
            return Err(BlobError::new("go on with upload", id, source).into());
        }
        Ok((assembly, number))
    }

    async fn give_up(&self, object: &str, upload: &str) {
        if let Ok(bucket) = bucket(&self.registry)
            && bucket.objects.abort_parts(object, upload).await.is_err()
        {
            // The store's own rules for what is never completed see to it.
        }
    }

    /// Waits until no more than so many parts are on their way, and notes those that arrived.
    async fn collect(&mut self, most: usize) -> Result<(), UploadError> {
        while self.pending.len() > most {
            let Some(pending) = self.pending.pop_front() else {
                break;
            };
            let part = match pending.task.await {
                Ok(part) => part?,
                Err(stopped) => {
                    let source = io::Error::other(stopped);
                    let id = Path::new(self.id.as_str());
                    return Err(BlobError::new("go on with upload", id, source).into());
                }
            };
            self.state.next = self.state.next.max(part.number + 1 + WINDOW);
            self.state.parts.push(part);
            self.stale
                .extend(self.state.tail.take().map(|tail| tail.name));
            self.state.keep_hash(&pending.hash);
            self.record().await?;
        }
        Ok(())
    }

    /// Makes the next version of the row.
    async fn record(&mut self) -> Result<(), UploadError> {
        let (index, now) = (&self.registry.index, self.registry.now());
        let text = self.state.text();
        self.version = match self.claim() {
            None => {
                index.new_upload(self.id.as_str(), text, now).await?;
                Some(1)
            }
            Some(claim) => {
                if !index.advance_upload(&claim, text, now).await? {
                    return Err(UploadError::TakenOver);
                }
                Some(claim.version + 1)
            }
        };
        Ok(())
    }

    fn claim(&self) -> Option<Claim> {
        self.version.map(|version| Claim {
            id: self.id.as_str().to_owned(),
            version,
        })
    }

    /// Makes sure that another request, on any replica, finds all bytes.
    pub(super) async fn settle(&mut self) -> Result<(), UploadError> {
        if let Some(loose) = self.loose.take() {
            let tail = self.put(loose).await?;
            let tail = self.state.tail.replace(tail);
            self.stale.extend(tail.map(|tail| tail.name));
            let hash = self.hasher.as_ref().map(Hasher::save).unwrap_or_default();
            self.state.keep_hash(&hash);
            // None of the numbers that were set aside is used any more.
            self.state.next = self.number.take().unwrap_or(self.state.next);
            self.record().await?;
        }
        self.remove_stale().await;
        Ok(())
    }

    /// Puts bytes as an object of their own.
    async fn put(&self, loose: Buffer) -> Result<Tail, UploadError> {
        let objects = &bucket(&self.registry)?.objects;
        let bytes = Bytes::from(loose.bytes);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let (name, size) = (new_name(), bytes.len() as u64);
        objects.put(&data(&name), bytes, Some(&digest)).await?;
        drop(loose.held);
        let sha256 = digest.hex().to_owned();
        Ok(Tail { name, size, sha256 })
    }

    async fn remove_stale(&mut self) {
        let objects: Vec<String> = self.stale.drain(..).map(|name| data(&name)).collect();
        if let Ok(bucket) = bucket(&self.registry)
            && !objects.is_empty()
            && bucket.objects.delete_all(&objects).await.is_err()
        {
            // Nothing names them any more; the search for such objects finds them.
        }
    }
}
