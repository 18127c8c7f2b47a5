//! Copying files whose content is known before they are opened: those that the pool has are linked,
//! and neither opened nor read.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::copy::{CopyOverrides, Origin, Pending};
use super::{Draft, DraftError, Place};
use crate::disk::{self, At};
use crate::{ContentHash, Metadata, TreePath};

/// Files copied at once: enough that the threads seldom meet in one directory.
const BATCH: usize = 1024;
/// Directories held open by one batch.
const BATCH_DIRECTORIES: usize = 128;

/// A file or link of a tree that was looked at before, by its path in that tree.
#[derive(Debug, Clone)]
pub struct KnownFile {
    /// Relative to the tree.
    pub path: TreePath,
    /// What is there.
    pub kind: KnownKind,
}

/// What a known tree has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownKind {
    /// A regular file.
    File {
        /// Length in bytes.
        size_bytes: u64,
        /// Hash of its content.
        content: ContentHash,
        /// Permission bits it gets, at most `0o7777`.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it points.
        target: Vec<u8>,
    },
}

/// Opens the file of a tree that is at a place of its list. An error of reading it must tell if the
/// content is not what the list says.
pub type OpenKnown<'a> = &'a (dyn Fn(usize) -> io::Result<Box<dyn Read>> + Sync);

/// Where a directory of the tree is copied to.
#[derive(Clone)]
struct Entered {
    place: Arc<Place>,
    /// Whether it has nothing but what this copy puts there.
    is_fresh: bool,
}

impl Draft<'_> {
    /// Copies a tree of known `files` to `to`, in parallel. Each path is there once, and none is
    /// below another.
    ///
    /// Directories are made as needed, with mode `0755`; those that are there keep their look.
    /// Everything gets the draft's time, and belongs to root unless `overrides` says otherwise.
    ///
    /// # Errors
    /// See [`DraftError`]; some of the files may be in the draft then.
    pub fn copy_known(
        &mut self,
        files: &[KnownFile],
        open: OpenKnown<'_>,
        to: &TreePath,
        overrides: CopyOverrides,
    ) -> Result<(), DraftError> {
        let root = self.enter_known(to, overrides)?;
        // Where each directory of the tree went; open is only the last.
        let mut entered =
            BTreeMap::from([(TreePath::root(), (root.place.path.clone(), root.is_fresh))]);
        let mut last = (TreePath::root(), root);
        let mut pending: Vec<Pending<'_>> = Vec::new();
        let mut directories = 0;
        for (number, file) in files.iter().enumerate() {
            let parent = file.path.parent().unwrap_or_default();
            if last.0 != parent {
                directories += 1;
                let here = self.enter_below(&mut entered, &parent, overrides)?;
                last = (parent, here);
            }
            if pending.len() >= BATCH || directories >= BATCH_DIRECTORIES {
                self.copy_pending(&pending)?;
                pending.clear();
                directories = 0;
            }
            let Entered { place, is_fresh } = &last.1;
            let at = place.path.join(file.path.name())?;
            let (place, at) = if *is_fresh {
                (place.clone(), at)
            } else {
                self.place(&at)?
            };
            match &file.kind {
                KnownKind::File {
                    size_bytes,
                    content,
                    mode,
                } => pending.push(Pending {
                    origin: Origin::Known {
                        number,
                        open,
                        size_bytes: *size_bytes,
                        content: *content,
                    },
                    place,
                    at,
                    metadata: self.copied(&self.known(*mode), overrides, true),
                }),
                KnownKind::Link { target } => {
                    let metadata = self.copied(&self.known(0o777), overrides, false);
                    self.put_link(&place, &at, target, &metadata)?;
                    self.last = None;
                }
            }
        }
        self.copy_pending(&pending)
    }

    fn known(&self, mode: u32) -> Metadata {
        Metadata {
            mtime: self.options.epoch,
            ..Metadata::root_owned(mode)
        }
    }

    /// Opens the place of a directory of the tree, after making it and those above it.
    fn enter_below(
        &mut self,
        entered: &mut BTreeMap<TreePath, (TreePath, bool)>,
        directory: &TreePath,
        overrides: CopyOverrides,
    ) -> Result<Entered, DraftError> {
        let mut missing = Vec::new();
        let mut at = directory.clone();
        let real = loop {
            if let Some((real, is_fresh)) = entered.get(&at) {
                if missing.is_empty() {
                    let is_fresh = *is_fresh;
                    let place = self.directory(&real.clone())?;
                    return Ok(Entered { place, is_fresh });
                }
                break real.clone();
            }
            let parent = at.parent().unwrap_or_default();
            missing.push(std::mem::replace(&mut at, parent));
        };
        let mut real = real;
        loop {
            let next = missing.pop().expect("something was missing");
            let here = self.enter_known(&real.join(next.name())?, overrides)?;
            real = here.place.path.clone();
            entered.insert(next, (real.clone(), here.is_fresh));
            if missing.is_empty() {
                return Ok(here);
            }
        }
    }

    /// Opens a directory of the draft, made if nothing is there.
    fn enter_known(
        &mut self,
        to: &TreePath,
        overrides: CopyOverrides,
    ) -> Result<Entered, DraftError> {
        let is_new = !self.view.exists(to)?;
        let place = self.directory(to)?;
        if is_new {
            let metadata = self.copied(
                &self.known(crate::entry::DEFAULT_DIRECTORY_MODE),
                overrides,
                false,
            );
            disk::set_metadata(&place.directory, &metadata, self.owner(&metadata))
                .at("set the metadata of", &place.path)?;
            self.times.insert(place.path.clone(), metadata.mtime);
        }
        let is_fresh = is_new && place.below.is_absent();
        Ok(Entered { place, is_fresh })
    }
}
