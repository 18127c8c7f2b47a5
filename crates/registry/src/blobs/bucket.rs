//! Copies as objects of one bucket.
//!
//! ```text
//! data/<name>     bytes: of a copy, or of an upload; never written again
//! map/<key>       says that those are a copy; empty, for its name says all
//! quarantine/     what was found damaged, or what nothing knew; nothing removes it by itself
//! ```
//!
//! Bytes have a name before anybody knows their digest, so nothing is ever copied when an upload
//! ends; the second object makes it possible to find out from a list alone what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{BlobError, Found, create_file, key, remove_file, sync_folder};
use crate::digest::{Algorithm, Digest, Hasher, hex};
use crate::index::Seconds;
use crate::log::rfc3339;
use crate::objects::{Listed, MOST_COPIED, Objects, Stream, Unfinished};
use crate::secret;

/// Bytes of a part of a large object; see [`part_bytes`].
const PART_BYTES: usize = 8 << 20;

/// A bucket, and what blocking callers wait with.
#[derive(Debug)]
pub(crate) struct Bucket {
    pub(crate) objects: Arc<Objects>,
    handle: Handle,
}

/// Bytes of the part after so many: small ones first, and no more than 10,000 for the largest blob.
pub(crate) fn part_bytes(parts: usize) -> usize {
    PART_BYTES << (parts / 1000).min(3)
}

/// A name for bytes that nothing had before.
pub(crate) fn new_name() -> String {
    hex(&secret::random::<16>())
}

/// The object with the bytes of that name.
pub(crate) fn data(name: &str) -> String {
    format!("data/{name}")
}

/// The object with the bytes of a copy.
fn data_of(copy: &str) -> String {
    match key::name(copy) {
        Some(name) => data(name),
        // It was a file before it came here.
        None => data(&copy.replace('/', "-")),
    }
}

fn map(copy: &str) -> String {
    format!("map/{copy}")
}

impl Bucket {
    pub(crate) fn new(objects: Arc<Objects>, handle: Handle) -> Self {
        Self { objects, handle }
    }

    /// Waits for what is asked of the store. For threads that may block.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }

    /// A key for a copy whose bytes have that name.
    pub(crate) fn new_key(digest: &Digest, now: Seconds, name: &str) -> String {
        let count = u32::from_ne_bytes(secret::random::<4>());
        key::named(digest, now, count, name)
    }

    /// Says that there is a copy; before that its bytes are nothing.
    pub(crate) async fn declare(&self, copy: &str) -> Result<(), BlobError> {
        self.objects.put(&map(copy), Bytes::new(), None).await
    }

    /// Takes back that there is a copy, and leaves its bytes, which may be somebody's upload.
    pub(crate) async fn take_back(&self, copy: &str) -> Result<(), BlobError> {
        self.objects.delete(&map(copy)).await
    }

    /// Begins to read bytes of a copy; `None` if it is gone.
    pub(crate) async fn open(
        &self,
        copy: &str,
        first: u64,
        length: u64,
        size: u64,
    ) -> Result<Option<Stream>, BlobError> {
        self.objects.open(&data_of(copy), first, length, size).await
    }

    /// A URL with which anybody may read a copy for some seconds.
    pub(crate) fn presigned(&self, copy: &str, seconds: u64) -> String {
        self.objects.presigned(&data_of(copy), seconds)
    }

    /// Removes a copy; it is no failure if it is gone.
    pub(crate) async fn remove(&self, copy: &str) -> Result<(), BlobError> {
        self.objects.delete_all(&[map(copy), data_of(copy)]).await
    }

    pub(super) fn place(&self, copy: &str) -> String {
        self.objects.place(&data_of(copy))
    }

    pub(super) fn size_of(&self, copy: &str) -> Result<Option<u64>, BlobError> {
        self.wait(self.objects.head(&data_of(copy)))
    }

    pub(super) fn remove_all(&self, copies: &[String]) -> Result<(), BlobError> {
        let objects: Vec<String> = copies
            .iter()
            .flat_map(|copy| [map(copy), data_of(copy)])
            .collect();
        self.wait(self.objects.delete_all(&objects))
    }

    pub(super) fn read(&self, copy: &str, each: &mut dyn FnMut(&[u8])) -> Result<bool, BlobError> {
        self.wait(self.read_object(&data_of(copy), each))
    }

    /// Reads an object from beginning to end; `false` if it is gone.
    pub(crate) async fn read_object<F: FnMut(&[u8]) + ?Sized>(
        &self,
        object: &str,
        each: &mut F,
    ) -> Result<bool, BlobError> {
        let Some(size) = self.objects.head(object).await? else {
            return Ok(false);
        };
        let mut at = 0;
        let mut broken = 0;
        while at < size || size == 0 {
            let opened = self.objects.open(object, at, size - at, size).await?;
            let Some(mut stream) = opened else {
                return Ok(false);
            };
            let before = at;
            let failure = loop {
                match stream.next().await {
                    Ok(Some(bytes)) => {
                        each(&bytes);
                        at += bytes.len() as u64;
                    }
                    Ok(None) => break None,
                    Err(error) => break Some(error),
                }
            };
            // It goes on where it broke off, as long as that brings anything.
            broken = if at > before { 0 } else { broken + 1 };
            if let Some(error) = failure
                && broken > 3
            {
                return Err(BlobError::new(
                    "read",
                    Path::new(&self.objects.place(object)),
                    error,
                ));
            }
            if size == 0 {
                break;
            }
        }
        Ok(true)
    }

    pub(super) fn copy_out(&self, copy: &str, to: &Path) -> Result<(), BlobError> {
        let failed = |error| BlobError::new("write", to, error);
        let draft = to.with_extension("part");
        remove_file(&draft)?;
        let mut file = create_file(&draft)?;
        let digest = key::parse(copy).map(|(digest, _)| digest);
        let mut hasher = digest
            .as_ref()
            .map(|digest| Hasher::new(digest.algorithm()));
        let mut outcome = Ok(());
        let is_there = self.read(copy, &mut |bytes| {
            if outcome.is_ok() {
                outcome = file.write_all(bytes);
            }
            if let Some(hasher) = &mut hasher {
                hasher.update(bytes);
            }
        })?;
        outcome.map_err(failed)?;
        let actual = hasher.map(Hasher::finish);
        if !is_there || actual != digest {
            remove_file(&draft)?;
            let what = if is_there {
                "it is damaged"
            } else {
                "it is missing"
            };
            let source = io::Error::new(io::ErrorKind::InvalidData, what);
            return Err(BlobError::new("copy", Path::new(&self.place(copy)), source));
        }
        file.sync_all().map_err(failed)?;
        std::fs::rename(&draft, to).map_err(failed)?;
        sync_folder(to.parent().unwrap_or(Path::new(".")))
    }

    pub(super) fn copy_in(&self, from: &Path, copy: &str) -> Result<(), BlobError> {
        let Some((digest, _)) = key::parse(copy) else {
            return Ok(());
        };
        let object = data_of(copy);
        let (_, actual) = self.put_file(from, &object, digest.algorithm())?;
        if actual == digest {
            return self.wait(self.declare(copy));
        }
        self.wait(self.objects.delete(&object))?;
        let source = io::Error::new(io::ErrorKind::InvalidData, format!("it is {actual}"));
        Err(BlobError::new("copy", from, source))
    }

    pub(super) fn take_in(
        &self,
        from: &Path,
        digest: &Digest,
        now: Seconds,
    ) -> Result<Result<(String, u64), Digest>, BlobError> {
        let name = new_name();
        let (size, actual) = self.put_file(from, &data(&name), digest.algorithm())?;
        if actual != *digest {
            self.wait(self.objects.delete(&data(&name)))?;
            return Ok(Err(actual));
        }
        let copy = Self::new_key(digest, now, &name);
        self.wait(self.declare(&copy))?;
        Ok(Ok((copy, size)))
    }

    /// Makes a file an object; returns its bytes and what they are.
    fn put_file(
        &self,
        from: &Path,
        object: &str,
        algorithm: Algorithm,
    ) -> Result<(u64, Digest), BlobError> {
        let failed = |error| BlobError::new("read", from, error);
        let mut file = File::open(from).map_err(failed)?;
        let mut hasher = Hasher::new(algorithm);
        let (mut size, mut parts, mut upload) = (0, Vec::new(), None);
        loop {
            let most = part_bytes(parts.len());
            let mut bytes = Vec::new();
            let read = (&mut file).take(most as u64).read_to_end(&mut bytes);
            let is_last = read.map_err(failed)? < most;
            hasher.update(&bytes);
            size += bytes.len() as u64;
            let bytes = Bytes::from(bytes);
            if is_last && parts.is_empty() {
                self.wait(self.objects.put(object, bytes, None))?;
                break;
            }
            let id = match &upload {
                Some(id) => id,
                None => upload.insert(self.wait(self.objects.begin_parts(object))?),
            };
            if !bytes.is_empty() {
                let number = u32::try_from(parts.len() + 1).unwrap_or(u32::MAX);
                parts.push(self.wait(self.objects.put_part(object, id, number, bytes))?);
            }
            if is_last {
                self.wait(self.objects.complete_parts(object, id, &parts))?;
                break;
            }
        }
        self.wait(self.check_size(object, size))?;
        Ok((size, hasher.finish()))
    }

    /// Checks that an object has so many bytes.
    pub(crate) async fn check_size(&self, object: &str, size: u64) -> Result<(), BlobError> {
        let found = self.objects.head(object).await?;
        if found == Some(size) {
            return Ok(());
        }
        let what = match found {
            Some(found) => format!("it has {found} bytes and should have {size}"),
            None => "it is missing".to_owned(),
        };
        let source = io::Error::new(io::ErrorKind::InvalidData, what);
        Err(BlobError::new(
            "complete",
            Path::new(&self.objects.place(object)),
            source,
        ))
    }

    pub(super) fn quarantine(&self, copy: &str) -> Result<String, BlobError> {
        let from = data_of(copy);
        let to = format!("quarantine/{}", copy.replace('/', "-"));
        self.wait(async {
            let place = Path::new(&self.place(copy)).to_owned();
            let Some(size) = self.objects.head(&from).await? else {
                let gone = io::ErrorKind::NotFound.into();
                return Err(BlobError::new("move to quarantine", &place, gone));
            };
            if size > MOST_COPIED {
                let source = io::Error::other("it is larger than what the store copies at once");
                return Err(BlobError::new("move to quarantine", &place, source));
            }
            self.objects.copy(&from, &to).await?;
            self.check_size(&to, size).await?;
            self.remove(copy).await?;
            Ok(self.objects.place(&to))
        })
    }

    pub(super) fn each(
        &self,
        mut each: impl FnMut(Found) -> Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        // Copies first: the bytes of what is declared meanwhile are not missed.
        let mut copies = Vec::new();
        self.each_object("map/", |object| {
            let copy = object
                .key
                .strip_prefix("map/")
                .unwrap_or_default()
                .to_owned();
            copies.extend(key::parse(&copy).map(|(digest, at)| (copy, digest, at)));
            Ok(())
        })?;
        let mut sizes = BTreeMap::new();
        self.each_object("data/", |object| {
            sizes.insert(object.key, object.size);
            Ok(())
        })?;
        for (key, digest, committed_at) in copies {
            if let Some(size) = sizes.get(&data_of(&key)) {
                each(Found {
                    key,
                    digest,
                    committed_at,
                    size: *size,
                })?;
            }
        }
        Ok(())
    }

    /// Calls `each` for every object whose key begins with `prefix`.
    fn each_object(
        &self,
        prefix: &str,
        mut each: impl FnMut(Listed) -> Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        let mut next: Option<String> = None;
        loop {
            let (objects, further) = self.wait(self.objects.list(prefix, next.as_deref()))?;
            objects.into_iter().try_for_each(&mut each)?;
            match further {
                Some(further) => next = Some(further),
                None => return Ok(()),
            }
        }
    }

    /// Bytes that no copy is made of and that were put before a time; they may be an upload's.
    pub(crate) fn loose_before(&self, before: Seconds) -> Result<BTreeSet<String>, BlobError> {
        let mut loose = BTreeSet::new();
        self.each_object("data/", |object| {
            if is_before(&object.modified, before) {
                loose.insert(object.key);
            }
            Ok(())
        })?;
        if loose.is_empty() {
            return Ok(loose);
        }
        self.each_object("map/", |object| {
            if let Some(copy) = object.key.strip_prefix("map/") {
                loose.remove(&data_of(copy));
            }
            Ok(())
        })?;
        let names = loose.into_iter();
        Ok(names
            .filter_map(|object| object.strip_prefix("data/").map(str::to_owned))
            .collect())
    }

    /// Objects in parts that were begun before a time and are not complete; they may be an upload's.
    pub(crate) fn unfinished_before(&self, before: Seconds) -> Result<Vec<Unfinished>, BlobError> {
        let mut old = Vec::new();
        let mut next = None;
        loop {
            let (page, further) = self.wait(self.objects.list_unfinished(next.as_ref()))?;
            old.extend(page.into_iter().filter(|one| is_before(&one.begun, before)));
            match further {
                // A store that does not move on would be asked for ever.
                Some(further) if next.as_ref() != Some(&further) => next = Some(further),
                Some(_) | None => return Ok(old),
            }
        }
    }

    /// Gives up an object in parts.
    pub(crate) fn give_up(&self, unfinished: &Unfinished) -> Result<(), BlobError> {
        self.wait(
            self.objects
                .abort_parts(&unfinished.key, &unfinished.upload),
        )
    }

    /// Removes bytes by their names.
    pub(crate) fn remove_data(&self, names: &[String]) -> Result<(), BlobError> {
        let objects: Vec<String> = names.iter().map(|name| data(name)).collect();
        self.wait(self.objects.delete_all(&objects))
    }

    /// Whether nothing is in the bucket, as far as it is ours.
    pub(crate) fn is_empty(&self) -> Result<bool, BlobError> {
        let copies = self.wait(self.objects.list("map/", None))?.0;
        let bytes = self.wait(self.objects.list("data/", None))?.0;
        Ok(copies.is_empty() && bytes.is_empty())
    }
}

/// Whether a store's `2026-01-31T12:00:00.000Z` is before a time, in whole seconds.
fn is_before(time: &str, before: Seconds) -> bool {
    let since = std::time::Duration::from_secs(u64::try_from(before).unwrap_or(0));
    let before = rfc3339(std::time::UNIX_EPOCH + since);
    // Both begin in the same form, so their order is that of times.
    time.get(..19) < before.get(..19)
}
