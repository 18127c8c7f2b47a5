//! What is in the files that a build takes: from the cache where they have not changed since, else read.

use std::collections::BTreeMap;
use std::io;

use kiln_graph::ContentDigest;
use rayon::prelude::*;
use rustix::io::Errno;

use super::scan::{FileCounts, is_at_or_below};
use super::stat_cache::{CachedFile, Draft, Entries};
use super::unreadable::Unreadable;
use super::walk::{Found, FoundKind, Stamp};
use super::{Project, ProjectError, StatCache, content_of};

/// The contents of selected files.
pub(super) struct Contents {
    /// For each file found; `None` for links, for what is not selected and what cannot be read.
    pub(super) digests: Vec<Option<ContentDigest>>,
    /// Files found and selected that cannot be read.
    pub(super) unreadable: BTreeMap<usize, Unreadable>,
    pub(super) warnings: Vec<String>,
    pub(super) counts: FileCounts,
}

impl Contents {
    /// Gets what is not in `known`, which was read from `cache`, and keeps it there.
    pub(super) fn get(
        project: &Project,
        found: &[Found],
        is_selected: &[bool],
        roots: &[Vec<u8>],
        cache: &StatCache,
        known: &Entries,
    ) -> Result<Self, ProjectError> {
        let merged = Merged::of(found, known, roots);
        let mut digests = merged.digests;
        let is_unread = |at: &usize| {
            let is_file = matches!(found[*at].kind, FoundKind::File { .. });
            is_file && is_selected[*at] && digests[*at].is_none()
        };
        let unread: Vec<usize> = (0..found.len()).filter(is_unread).collect();
        let selected = is_selected.iter().filter(|selected| **selected).count();
        let counts = FileCounts {
            selected,
            read: unread.len(),
        };
        let mut warnings = Vec::new();
        let mut unreadable = BTreeMap::new();
        if unread.is_empty() && !merged.has_left_overs {
            return Ok(Self {
                digests,
                unreadable,
                warnings,
                counts,
            });
        }
        let mut warn = |error: io::Error| {
            warnings.push(format!(
                "cannot keep what was read of the project for the next build: {error}"
            ));
        };
        let draft = cache.begin().unwrap_or_else(|error| {
            warn(error);
            None
        });
        for (at, content) in read(project, found, &unread)? {
            match content {
                Ok(digest) => digests[at] = Some(digest),
                Err(error) => {
                    let path = found[at].path.clone();
                    let is_folder = false;
                    let it = Unreadable {
                        path,
                        is_folder,
                        error,
                    };
                    unreadable.insert(at, it);
                }
            }
        }
        if let Some(draft) = draft {
            let kept = kept_files(&draft, found, &digests, &unread, known, &merged.elsewhere);
            draft.finish(kept.into_iter()).unwrap_or_else(warn);
        }
        Ok(Self {
            digests,
            unreadable,
            warnings,
            counts,
        })
    }
}

/// What the cache says about the files found.
struct Merged {
    digests: Vec<Option<ContentDigest>>,
    /// Entries of the cache about paths that this walk did not look at.
    elsewhere: Vec<usize>,
    /// Whether the cache has entries about files that are gone or other ones now.
    has_left_overs: bool,
}

impl Merged {
    /// Goes through both at once: both are sorted by path.
    fn of(found: &[Found], known: &Entries, roots: &[Vec<u8>]) -> Self {
        let mut merged = Self {
            digests: vec![None; found.len()],
            elsewhere: Vec::new(),
            has_left_overs: false,
        };
        let mut at = 0;
        for entry_at in 0..known.len() {
            let entry = known.entry(entry_at);
            while at < found.len() && found[at].path.as_slice() < entry.path {
                at += 1;
            }
            let stamp = match found.get(at) {
                Some(Found {
                    path,
                    kind: FoundKind::File { stamp, .. },
                }) if path == entry.path => Some(stamp),
                Some(_) | None => None,
            };
            if stamp == Some(&entry.stamp) {
                merged.digests[at] = Some(entry.content);
            } else if stamp.is_none() && !roots.iter().any(|root| is_at_or_below(entry.path, root))
            {
                merged.elsewhere.push(entry_at);
            } else {
                merged.has_left_overs = true;
            }
        }
        merged
    }
}

/// A file by its position, and what is in it, or what the system said.
type Content = (usize, Result<ContentDigest, Errno>);

/// Reads files.
fn read(
    project: &Project,
    found: &[Found],
    unread: &[usize],
) -> Result<Vec<Content>, ProjectError> {
    let read = |buffer: &mut Vec<u8>, &at: &usize| {
        let path = &found[at].path;
        let file = match project.open_file(path) {
            Ok(file) => file,
            Err(ProjectError::Io { error, .. }) => return Ok((at, Err(error))),
            Err(error) => return Err(error),
        };
        let digest = match content_of(&file, buffer) {
            Ok((digest, _)) => digest,
            Err(error) => {
                let errno = Errno::from_io_error(&error);
                return Ok((at, Err(errno.unwrap_or(Errno::IO))));
            }
        };
        let shown = || String::from_utf8_lossy(path).into_owned();
        let stat = rustix::fs::fstat(&file).map_err(|error| ProjectError::Io {
            doing: "look at",
            path: shown(),
            error,
        })?;
        match &found[at].kind {
            FoundKind::File { stamp, .. } if Stamp::of(&stat) == *stamp => Ok((at, Ok(digest))),
            FoundKind::File { .. } | FoundKind::Link { .. } => {
                Err(ProjectError::Changed { path: shown() })
            }
        }
    };
    if let [only] = unread {
        return Ok(vec![read(&mut vec![0; 64 * 1024], only)?]);
    }
    unread
        .par_iter()
        .map_init(|| vec![0; 64 * 1024], read)
        .collect()
}

/// Returns what the next build may believe, sorted by path.
fn kept_files<'a>(
    draft: &Draft,
    found: &'a [Found],
    digests: &[Option<ContentDigest>],
    read: &[usize],
    known: &'a Entries,
    elsewhere: &[usize],
) -> Vec<CachedFile<'a>> {
    let mut kept: Vec<CachedFile<'a>> = elsewhere.iter().map(|&at| known.entry(at)).collect();
    for (at, found) in found.iter().enumerate() {
        if let (FoundKind::File { stamp, .. }, Some(content)) = (&found.kind, digests[at])
            // What was not read now came from the cache, where it was settled already.
            && (read.binary_search(&at).is_err() || draft.is_settled(stamp))
        {
            kept.push(CachedFile {
                path: &found.path,
                stamp: *stamp,
                content,
            });
        }
    }
    kept.sort_by(|one, other| one.path.cmp(other.path));
    kept
}
