//! Does everything fit together; is every byte what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use serde::Serialize;

use super::gc::{LONGEST_WAIT, take_right};
use crate::blobs::BlobError;
use crate::digest::{Digest, Hasher};
use crate::index::Index;
use crate::registry::{Registry, RegistryError};

/// Rows that are read at once.
const AT_ONCE: usize = 1000;
/// Problems that are named; more are only counted.
const MOST_NAMED: usize = 1000;

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Found {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
    pub(crate) manifests: u64,
    /// Files that nothing knows and that are no damage: gc takes them away.
    pub(crate) orphans: u64,
    pub(crate) problem_count: u64,
    pub(crate) problems: Vec<String>,
}

impl Found {
    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < MOST_NAMED {
            self.problems.push(text);
        }
    }
}

/// Compares the index with the files and with itself, and reads the journal. Reads no blob.
pub(crate) fn check(registry: &Registry) -> Result<Found, RegistryError> {
    let _alone = registry
        .upkeep
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let _right = take_right(registry, LONGEST_WAIT)?;
    let mut found = Found::default();
    let mut files = BTreeMap::new();
    registry.blobs.each(|file| {
        files.insert(file.key, file.size);
        Ok(())
    })?;
    each_blob(&registry.index, |key, digest, size| {
        found.blobs += 1;
        found.bytes += size;
        let actual = match files.get(key) {
            Some(actual) => Some(*actual),
            // It may have come since.
            None => registry.blobs.size_of(key)?,
        };
        let place = registry.blobs.place(key);
        match actual {
            Some(actual) if actual == size => {}
            Some(actual) => found.problem(format!(
                "blob {digest}: {place} has {actual} bytes, not {size}"
            )),
            None => found.problem(format!("blob {digest}: {place} is missing")),
        }
        Ok(())
    })?;
    for key in files.keys() {
        found.orphans += u64::from(!registry.index.knows(key)?);
    }
    let mut named = Vec::new();
    registry.index.each_manifest(|repo, digest, body| {
        found.manifests += 1;
        let actual = Digest::of(digest.algorithm(), body);
        if actual != *digest {
            found.problem(format!("{repo}: manifest {digest} is {actual} now"));
        }
        named.push(format!("{repo}@{digest}"));
    })?;
    for problem in registry.index.broken_references()? {
        found.problem(problem);
    }
    // Read after the index: what is pushed meanwhile is no damage.
    registry.index.keep_rest()?;
    let mut remembered = BTreeSet::new();
    registry.index.replay(|change| {
        change.note_manifest(&mut remembered);
        Ok(())
    })?;
    for name in named {
        if !remembered.contains(&name) {
            found.problem(format!("{name} is not in the journal"));
        }
    }
    Ok(found)
}

/// Reads every blob; what is not what its digest says goes into quarantine, so that it is pushed
/// again and not pulled.
pub(crate) fn scrub(registry: &Registry) -> Result<Found, RegistryError> {
    let mut found = Found::default();
    let mut damaged = Vec::new();
    each_blob(&registry.index, |key, digest, size| {
        found.blobs += 1;
        found.bytes += size;
        match hash(registry, key, digest, size) {
            Ok(None) => {}
            Ok(Some(what)) => damaged.push((key.to_owned(), what)),
            Err(error) => found.problem(format!("blob {digest}: {error}")),
        }
        Ok(())
    })?;
    for (key, what) in damaged {
        if !registry.index.condemn(key.clone())? {
            continue;
        }
        let place = match registry.blobs.quarantine(&key) {
            Ok(place) => format!("moved to {place}"),
            Err(error) => error.to_string(),
        };
        found.problem(format!("{what}; {place}"));
    }
    Ok(found)
}

/// Reads a blob; says what is wrong with it, if anything.
fn hash(
    registry: &Registry,
    key: &str,
    digest: &Digest,
    size: u64,
) -> Result<Option<String>, RegistryError> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut total = 0;
    let is_there = registry.blobs.read(key, &mut |bytes| {
        hasher.update(bytes);
        total += bytes.len() as u64;
    })?;
    if !is_there {
        // It may have been collected since.
        let is_known = registry.index.is_live(key)?;
        return Ok(is_known.then(|| format!("blob {digest}: its bytes are missing")));
    }
    let actual = hasher.finish();
    if actual == *digest && total == size {
        return Ok(None);
    }
    Ok(Some(format!(
        "blob {digest}: {total} of {size} bytes, and they are {actual}"
    )))
}

/// Calls `each` for every live blob: key, digest, size.
pub(crate) fn each_blob(
    index: &Index,
    mut each: impl FnMut(&str, &Digest, u64) -> Result<(), BlobError>,
) -> Result<(), RegistryError> {
    let mut last = String::new();
    loop {
        let page = index.live_blobs(&last, AT_ONCE)?;
        let Some((end, _, _)) = page.last() else {
            return Ok(());
        };
        last.clone_from(end);
        for (key, digest, size) in &page {
            each(key, digest, *size)?;
        }
    }
}
