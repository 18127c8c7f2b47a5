//! Where the files of a tar are, so that they can be read in any order and by many threads.
//!
//! Names in the tar are keys of a map, never paths. Only regular files count, and the links that
//! `docker save` used to write from one layer to an equal one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kiln_oci::MAX_DOCUMENT_BYTES;
use kiln_store::StoreError;

use crate::error::ImageError;

/// The most entries of an image archive.
const MAX_ENTRIES: usize = 100_000;

#[derive(Debug)]
pub(super) struct TarIndex {
    path: PathBuf,
    file: File,
    members: BTreeMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File {
        start: u64,
        size_bytes: u64,
    },
    /// A link to another member.
    Link(String),
}

/// Reads one file of the tar, beside others who read it too.
#[derive(Debug)]
pub(super) struct MemberReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl TarIndex {
    /// Looks through the headers of `file`; `path` is for messages.
    pub(super) fn read(file: File, path: &Path) -> Result<Self, ImageError> {
        let broken = |reason: String| ImageError::Archive {
            path: path.to_owned(),
            reason,
        };
        let length = file
            .metadata()
            .map_err(|source| ImageError::Read {
                path: path.to_owned(),
                source,
            })?
            .len();
        let mut members = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        // What the reader says of headers that are none says nothing to people, and has their bytes in it.
        let not_a_tar = |_error: io::Error| broken("it is not a tar".to_owned());
        let mut last: Option<String> = None;
        for entry in archive.entries_with_seek().map_err(not_a_tar)? {
            let entry = entry.map_err(|error| match &last {
                Some(last) => broken(format!("it is damaged behind `{}`", shown(last))),
                None => not_a_tar(error),
            })?;
            let kind = entry.header().entry_type();
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name.strip_prefix("./").unwrap_or(&name).to_owned();
            last = Some(name.clone());
            let member = if kind.is_file() {
                let (start, size_bytes) = (entry.raw_file_position(), entry.size());
                if start.checked_add(size_bytes).is_none_or(|end| end > length) {
                    return Err(broken(format!("it ends inside `{}`", shown(&name))));
                }
                Member::File { start, size_bytes }
            } else if kind.is_symlink() {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target);
                match beside(&name, &target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                }
            } else {
                continue;
            };
            if members.len() >= MAX_ENTRIES {
                return Err(broken(format!("it has more than {MAX_ENTRIES} entries")));
            }
            if let Some(_earlier) = members.insert(name.clone(), member) {
                return Err(broken(format!("it has `{}` twice", shown(&name))));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            members,
        })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Opens a file, following one link.
    pub(super) fn open(&self, name: &str) -> Result<MemberReader<'_>, ImageError> {
        let found = match self.members.get(name) {
            Some(Member::Link(target)) => self.members.get(target),
            found => found,
        };
        match found {
            Some(Member::File { start, size_bytes }) => Ok(MemberReader {
                file: &self.file,
                at: *start,
                end: start + size_bytes,
            }),
            Some(Member::Link(_)) | None => Err(StoreError::Missing {
                what: "file in the archive",
                name: shown(name),
            }
            .into()),
        }
    }

    /// Reads a file of bounded size.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let reader = self.open(name)?;
        let size_bytes = reader.end - reader.at;
        if size_bytes > MAX_DOCUMENT_BYTES {
            return Err(ImageError::Archive {
                path: self.path.clone(),
                reason: format!("`{}` in it has {size_bytes} bytes", shown(name)),
            });
        }
        let mut bytes = Vec::new();
        reader
            .take(MAX_DOCUMENT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|source| ImageError::Read {
                path: self.path.clone(),
                source,
            })?;
        Ok(bytes)
    }
}

impl Read for MemberReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        if read == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// Resolves a link's target, relative to the folder of `name`; `None` if it leaves the archive.
fn beside(name: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Cuts hostile text to a length that fits a message, without control characters.
fn shown(text: &str) -> String {
    text.chars()
        .take(80)
        .flat_map(char::escape_default)
        .collect()
}
