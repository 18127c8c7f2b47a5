//! The journal of an index that several processes share: small files beside the bytes of blobs.
//!
//! ```text
//! <first>-<last>-<random>.records    changes, a line each: its number, a space, the change as in `journal`
//! <number>-<part>.snapshot           all up to that number, in parts
//! <number>.complete                  how many parts that snapshot has; written last
//! ```
//!
//! Numbers have 16 hex digits and come from the database, which hands them out in the order in which
//! changes of one repository take effect. A file is written once and never changed. A change may be in
//! several files; it counts once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::IndexError;
use super::change::Change;
use super::journal;
use crate::blobs::BlobError;
use crate::digest::hex;
use crate::objects::{Objects, Seal};
use crate::secret;

/// Where the files are.
#[derive(Clone, Debug)]
pub(crate) enum Records {
    /// In a folder, which all processes see.
    Folder { folder: PathBuf, handle: Handle },
    /// In the bucket of an object store, under `journal/`.
    Bucket {
        objects: Arc<Objects>,
        handle: Handle,
    },
}

/// What the keys of objects begin with.
const PREFIX: &str = "journal/";
/// The most bytes of a file.
const MOST_BYTES: usize = 1 << 30;

/// A change as it is kept: its number, and the change in JSON.
pub(super) type Line = (i64, String);

/// What the files say.
#[derive(Debug, Default)]
struct Listing {
    /// The number of the newest whole snapshot, and its parts.
    snapshot: Option<(i64, usize)>,
    /// Names of files with changes, and the last number in each.
    records: Vec<(String, i64)>,
    all: Vec<String>,
}

impl Records {
    /// The files in the folder of a registry. Blocks.
    pub(crate) fn in_folder(folder: &Path, handle: Handle) -> Result<Self, IndexError> {
        let folder = folder.join("journal");
        fs::create_dir_all(&folder).map_err(|error| IndexError::io(&folder, error))?;
        Ok(Self::Folder { folder, handle })
    }

    /// Writes a file, durably.
    async fn put(&self, name: String, bytes: Vec<u8>) -> Result<(), IndexError> {
        match self {
            Self::Folder { folder, handle } => {
                let path = folder.join(name);
                let written = handle.spawn_blocking(move || write(&path, &bytes));
                written.await.map_err(|_stopped| IndexError::Closed)?
            }
            Self::Bucket { objects, handle } => {
                let (key, bytes) = (object(&name), Bytes::from(bytes));
                let (shared, sent) = (Arc::clone(objects), bytes.clone());
                on(handle, async move { shared.put(&key, sent, None).await }).await?;
                if objects.seal() == Seal::ReadBack && self.get(&name).await?.as_bytes() != bytes {
                    return Err(unreadable(&name, &"it does not come back as it was"));
                }
                Ok(())
            }
        }
    }

    async fn get(&self, name: &str) -> Result<String, IndexError> {
        match self {
            Self::Folder { folder, handle } => {
                let path = folder.join(name);
                let read = handle.spawn_blocking(move || {
                    fs::read_to_string(&path).map_err(|error| IndexError::io(&path, error))
                });
                read.await.map_err(|_stopped| IndexError::Closed)?
            }
            Self::Bucket { objects, handle } => {
                let (shared, key) = (Arc::clone(objects), object(name));
                let bytes = on(handle, async move { shared.get(&key, MOST_BYTES).await }).await?;
                let bytes = bytes.ok_or_else(|| unreadable(name, &"it is missing"))?;
                String::from_utf8(bytes.into()).map_err(|error| unreadable(name, &error))
            }
        }
    }

    async fn names(&self) -> Result<Vec<String>, IndexError> {
        match self {
            Self::Folder { folder, handle } => {
                let folder = folder.clone();
                let list = handle.spawn_blocking(move || {
                    let failed = |error| IndexError::io(&folder, error);
                    let mut names = Vec::new();
                    for entry in fs::read_dir(&folder).map_err(failed)? {
                        names.extend(entry.map_err(failed)?.file_name().into_string());
                    }
                    Ok(names)
                });
                list.await.map_err(|_stopped| IndexError::Closed)?
            }
            Self::Bucket { objects, handle } => {
                let (mut names, mut next) = (Vec::new(), None::<String>);
                loop {
                    let shared = Arc::clone(objects);
                    let list = async move { shared.list(PREFIX, next.as_deref()).await };
                    let (page, further) = on(handle, list).await?;
                    let keys = page.into_iter().map(|object| object.key);
                    names.extend(keys.filter_map(|key| Some(key.strip_prefix(PREFIX)?.to_owned())));
                    match further {
                        Some(further) => next = Some(further),
                        None => return Ok(names),
                    }
                }
            }
        }
    }

    async fn remove(&self, name: &str) -> Result<(), IndexError> {
        match self {
            Self::Folder { folder, handle } => {
                let path = folder.join(name);
                let removed = handle.spawn_blocking(move || match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        Err(IndexError::io(&path, error))
                    }
                    Ok(()) | Err(_) => Ok(()),
                });
                removed.await.map_err(|_stopped| IndexError::Closed)?
            }
            Self::Bucket { objects, handle } => {
                let (shared, key) = (Arc::clone(objects), object(name));
                on(handle, async move { shared.delete(&key).await }).await
            }
        }
    }

    /// Keeps changes, durably.
    pub(super) async fn keep(&self, lines: &BTreeMap<i64, String>) -> Result<(), IndexError> {
        let (Some((first, _)), Some((last, _))) = (lines.first_key_value(), lines.last_key_value())
        else {
            return Ok(());
        };
        let random = hex(&secret::random::<8>());
        let name = format!("{first:016x}-{last:016x}-{random}.records");
        self.put(name, text(lines)).await
    }

    /// Keeps a part of all changes up to `number`.
    pub(super) async fn keep_part(
        &self,
        number: i64,
        part: usize,
        changes: &[Change],
    ) -> Result<(), IndexError> {
        let mut bytes = Vec::new();
        for change in changes {
            change.write_line(&mut bytes);
        }
        let name = format!("{number:016x}-{part:08}.snapshot");
        self.put(name, bytes).await
    }

    /// Ends a snapshot, and removes what it stands for.
    pub(super) async fn complete(&self, number: i64, parts: usize) -> Result<(), IndexError> {
        let name = format!("{number:016x}.complete");
        self.put(name, format!("{parts}\n").into_bytes()).await?;
        let listing = self.listing().await?;
        for (name, last) in &listing.records {
            if *last <= number {
                self.remove(name).await?;
            }
        }
        for name in &listing.all {
            let is_older = number_of(name).is_some_and(|other| other < number);
            if is_older && !name.ends_with(".records") && !name.ends_with(".log") {
                self.remove(name).await?;
            }
        }
        Ok(())
    }

    async fn listing(&self) -> Result<Listing, IndexError> {
        let mut listing = Listing::default();
        let names = self.names().await?;
        for name in &names {
            if let Some(stem) = name.strip_suffix(".records") {
                let last = stem.split('-').nth(1).and_then(number_of);
                listing
                    .records
                    .extend(last.map(|last| (name.clone(), last)));
            }
            if let Some(number) = name.strip_suffix(".complete").and_then(number_of)
                && listing.snapshot.is_none_or(|(other, _)| other < number)
            {
                let parts = self.get(name).await?.trim().parse();
                let parts = parts.map_err(|error| unreadable(name, &error))?;
                listing.snapshot = Some((number, parts));
            }
        }
        listing.all = names;
        Ok(listing)
    }

    /// The greatest number that is kept; 0 if there is a journal of one process only.
    pub(super) async fn newest(&self) -> Result<Option<i64>, IndexError> {
        let listing = self.listing().await?;
        let records = listing.records.iter().map(|(_, last)| *last);
        let newest = records
            .chain(listing.snapshot.map(|(number, _)| number))
            .max();
        if newest.is_some() {
            return Ok(newest);
        }
        match self {
            Self::Folder { folder, .. } => Ok((journal::size(folder)? > 0).then_some(0)),
            Self::Bucket { .. } => Ok(None),
        }
    }

    /// How many files with changes there are.
    pub(super) async fn count(&self) -> Result<usize, IndexError> {
        Ok(self.listing().await?.records.len())
    }

    /// Calls `each` for every change that is kept, in their order: those of the newest snapshot, then those
    /// that came after it. Where there are none, those of the journal that one process keeps.
    pub(crate) async fn replay(
        &self,
        mut each: impl FnMut(Change) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let listing = self.listing().await?;
        let covered = match listing.snapshot {
            None => match self {
                Self::Folder { folder, .. } if listing.records.is_empty() => {
                    return journal::replay(folder, each);
                }
                Self::Folder { .. } | Self::Bucket { .. } => i64::MIN,
            },
            Some((number, parts)) => {
                for part in 0..parts {
                    let name = format!("{number:016x}-{part:08}.snapshot");
                    for line in self.get(&name).await?.lines() {
                        each(parsed(&name, line)?)?;
                    }
                }
                number
            }
        };
        let mut lines = BTreeMap::new();
        for (name, _) in &listing.records {
            for line in self.get(name).await?.lines() {
                let (number, change) = line
                    .split_once(' ')
                    .and_then(|(number, change)| Some((number_of(number)?, change)))
                    .ok_or_else(|| unreadable(name, &"a line without a number"))?;
                if number > covered {
                    lines.insert(number, parsed(name, change)?);
                }
            }
        }
        lines.into_values().try_for_each(each)
    }
}

/// Asks the object store where its connections are, wherever the caller waits.
async fn on<T: Send + 'static>(
    handle: &Handle,
    asked: impl Future<Output = Result<T, BlobError>> + Send + 'static,
) -> Result<T, IndexError> {
    let answer = handle.spawn(asked).await;
    Ok(answer.map_err(|_stopped| IndexError::Closed)??)
}

fn object(name: &str) -> String {
    format!("{PREFIX}{name}")
}

fn number_of(text: &str) -> Option<i64> {
    i64::from_str_radix(text.get(..16)?, 16).ok()
}

fn parsed(name: &str, line: &str) -> Result<Change, IndexError> {
    serde_json::from_str(line).map_err(|error| unreadable(name, &error))
}

fn unreadable(name: &str, why: &dyn std::fmt::Display) -> IndexError {
    IndexError::Row(format!("journal/{name}: {why}"))
}

fn text(lines: &BTreeMap<i64, String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, change) in lines {
        bytes.extend_from_slice(format!("{number:016x} {change}\n").as_bytes());
    }
    bytes
}

/// Writes a file that is there whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), IndexError> {
    let failed = |error| IndexError::io(path, error);
    let draft = path.with_extension(format!("{}.tmp", hex(&secret::random::<4>())));
    File::create(&draft)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&draft, path))
        .map_err(failed)?;
    let folder = path.parent().unwrap_or(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}
