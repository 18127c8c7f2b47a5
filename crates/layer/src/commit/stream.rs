//! Last step of a commit: what stays is normalised on disk, hashed and written as tar.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use kiln_oci::{DiffId, Hasher};
use kiln_sys::{Errno, xattr};

use super::settle::Kept;
use super::survey::What;
use super::{CommitError, CommitOptions, Ownership};
use crate::content::{Content, TransferError};
use crate::disk::{self, At};
use crate::path::shown;
use crate::read_ahead::{Job, read_ahead};
use crate::tar::TarWriter;
use crate::{
    Committed, ContentHash, Entry, FileError, FileIdentity, FilePool, Metadata, Node, TreeIndex,
    TreePath, Xattrs,
};

impl Job for Kept {
    fn path(&self) -> &TreePath {
        &self.item.path
    }

    fn weight_bytes(&self) -> u64 {
        if matches!(self.item.what, What::File) {
            disk::size_bytes(&self.item.stat)
        } else {
            0
        }
    }
}

/// An entry without the content of its file, and that content.
struct Prepared {
    entry: Entry,
    content: Option<Content>,
}

struct Streamer<'a> {
    epoch: i64,
    ownership: Ownership,
    pool: Option<&'a dyn FilePool>,
    shared: &'a BTreeMap<TreePath, u64>,
}

pub(super) fn stream(
    upper: BorrowedFd<'_>,
    kept: Vec<Kept>,
    options: CommitOptions<'_>,
    shared: &BTreeMap<TreePath, u64>,
) -> Result<Committed, CommitError> {
    let streamer = Streamer {
        epoch: options.epoch,
        ownership: options.ownership,
        pool: options.pool,
        shared,
    };
    let mut nowhere = io::sink();
    let sink: &mut dyn Write = match options.sink {
        Some(sink) => sink,
        None => &mut nowhere,
    };
    let mut tar = TarWriter::new(Hasher::new(sink));
    let mut entries: Vec<Entry> = Vec::with_capacity(kept.len());
    read_ahead(
        upper,
        &kept,
        |kept, parent| streamer.prepare(kept, parent),
        |kept, prepared| {
            let entry = streamer.write(upper, kept, prepared, &mut tar)?;
            entries.push(entry);
            Ok(())
        },
    )?;
    let (_, digest, tar_size_bytes) = tar.finish().map_err(CommitError::Sink)?.finish();
    // Last, since pooling a file changes the time of its directory.
    for (kept, entry) in kept.iter().zip(&entries) {
        if entry.node.is_directory() {
            finish_directory(upper, entry).at("normalise", &kept.item.path)?;
        }
    }
    link_metadata(&mut entries);
    Ok(Committed {
        diff_id: DiffId(digest),
        tar_size_bytes,
        index: TreeIndex::new(entries).expect("a walk has parents first and names in order"),
    })
}

impl Streamer<'_> {
    /// Normalises an item on disk and reads what belongs to it. Runs on many threads.
    fn prepare(&self, kept: &Kept, parent: BorrowedFd<'_>) -> Result<Prepared, CommitError> {
        let item = &kept.item;
        let path = &item.path;
        let name = path.name();
        let mut content = None;
        let mut xattrs = Xattrs::new();
        let node = match &item.what {
            What::Directory {
                metadata,
                below,
                opaque,
            } => {
                let metadata = match below {
                    Some(below) if kept.implied => below.clone(),
                    _ => self.normal(metadata.clone()),
                };
                check_attributes(path, &metadata.xattrs)?;
                return Ok(Prepared {
                    entry: Entry {
                        path: path.clone(),
                        node: Node::Directory {
                            opaque: *opaque,
                            implied: kept.implied,
                        },
                        metadata,
                    },
                    content: None,
                });
            }
            What::File => {
                let size_bytes = disk::size_bytes(&item.stat);
                if let Some(to) = &kept.link_to {
                    Node::Hardlink { to: to.clone() }
                } else {
                    let file = disk::open_file(parent, name).at("open", path)?;
                    xattrs = self.normalise_file(kept, &file).at("normalise", path)?;
                    check_attributes(path, &xattrs)?;
                    content = Some(Content::prepare(file, size_bytes).at("read", path)?);
                    Node::File {
                        size_bytes,
                        content: ContentHash::from_raw([0; 32]),
                    }
                }
            }
            What::Symlink { target } => Node::Symlink {
                target: target.clone(),
            },
            What::Fifo => Node::Fifo,
            What::Device => {
                let (major, minor) = (
                    rustix::fs::major(item.stat.st_rdev),
                    rustix::fs::minor(item.stat.st_rdev),
                );
                if disk::file_type(&item.stat) == rustix::fs::FileType::CharacterDevice {
                    Node::CharDevice { major, minor }
                } else {
                    Node::BlockDevice { major, minor }
                }
            }
            What::Whiteout | What::Socket => {
                return Ok(Prepared {
                    entry: Entry {
                        path: path.clone(),
                        node: Node::Whiteout,
                        metadata: Metadata::root_owned(0),
                    },
                    content: None,
                });
            }
        };
        let metadata = self.normal(disk::metadata(&item.stat, xattrs));
        if !matches!(item.what, What::File) {
            disk::set_time_at(parent, name, metadata.mtime).at("set the time of", path)?;
        }
        let prepared = Prepared {
            entry: Entry {
                path: path.clone(),
                node,
                metadata,
            },
            content,
        };
        if let Some(Content::Small { bytes, hash }) = &prepared.content {
            if bytes.len() as u64 != disk::size_bytes(&item.stat) {
                return Err(CommitError::Changing(path.clone()));
            }
            self.share(kept, &prepared.entry.metadata, *hash, parent)?;
        }
        Ok(prepared)
    }

    fn normal(&self, metadata: Metadata) -> Metadata {
        let mut metadata = metadata;
        metadata.mtime = metadata.mtime.min(self.epoch).max(0);
        if self.ownership == Ownership::Flatten {
            (metadata.uid, metadata.gid) = (0, 0);
        }
        metadata
    }

    /// Sets the time of a file, takes overlay's notes off it, and returns its attributes.
    fn normalise_file(&self, kept: &Kept, file: impl AsFd) -> Result<Xattrs, Errno> {
        let file = file.as_fd();
        let (xattrs, others) = disk::xattrs(file)?;
        if !self.shared.contains_key(&kept.item.path) {
            strip(file, &others)?;
            let stat = &kept.item.stat;
            let mtime = stat.st_mtime.min(self.epoch).max(0);
            if (stat.st_mtime, stat.st_mtime_nsec) != (mtime, 0) {
                disk::set_time(file, mtime)?;
            }
        }
        Ok(xattrs)
    }

    /// Offers a finished file to the pool.
    fn share(
        &self,
        kept: &Kept,
        metadata: &Metadata,
        content: ContentHash,
        parent: BorrowedFd<'_>,
    ) -> Result<(), FileError> {
        let Some(pool) = self.pool else {
            return Ok(());
        };
        // A file with several names must stay one inode.
        if kept.linked || self.shared.contains_key(&kept.item.path) {
            return Ok(());
        }
        let identity = FileIdentity {
            path: &kept.item.path,
            size_bytes: disk::size_bytes(&kept.item.stat),
            content,
            metadata,
        };
        pool.share(&identity, parent, kept.item.path.name())
            .at("share", &kept.item.path)
    }

    /// Writes an item to the tar and returns its finished entry.
    fn write<W: Write>(
        &self,
        upper: BorrowedFd<'_>,
        kept: &Kept,
        prepared: Prepared,
        tar: &mut TarWriter<W>,
    ) -> Result<Entry, CommitError> {
        let Prepared { mut entry, content } = prepared;
        tar.entry(&entry).map_err(CommitError::Sink)?;
        let (
            Some(content),
            Node::File {
                size_bytes,
                content: hash,
            },
        ) = (content, &mut entry.node)
        else {
            return Ok(entry);
        };
        let (written, found) = content
            .write_to(*size_bytes, |bytes| tar.content(bytes))
            .map_err(|error| match error {
                TransferError::Read(source) => FileError::new("read", &entry.path, source).into(),
                TransferError::Write(source) => CommitError::Sink(source),
            })?;
        if written != *size_bytes {
            return Err(CommitError::Changing(entry.path));
        }
        tar.pad(written).map_err(CommitError::Sink)?;
        *hash = found;
        if let Content::Large(_) = content {
            let parent = entry.path.parent().unwrap_or_default();
            let directory = disk::open_path(upper, &parent).at("open", &parent)?;
            self.share(kept, &entry.metadata, found, directory.as_fd())?;
        }
        Ok(entry)
    }
}

/// Gives hard links the metadata of their file, which only its first name was read for.
fn link_metadata(entries: &mut [Entry]) {
    for at in 0..entries.len() {
        if let Node::Hardlink { to } = &entries[at].node {
            let file = entries.binary_search_by(|it| it.path.cmp(to));
            let file = file.expect("the first name of a file is kept with the others");
            entries[at].metadata = entries[file].metadata.clone();
        }
    }
}

fn finish_directory(upper: BorrowedFd<'_>, entry: &Entry) -> Result<(), Errno> {
    let directory = disk::open_path(upper, &entry.path)?;
    let (_, others) = disk::xattrs(&directory)?;
    let opaque = disk::OPAQUE.as_bytes();
    let keep = |name: &Vec<u8>| entry.node.is_opaque() && name == opaque;
    let others: Vec<Vec<u8>> = others.into_iter().filter(|it| !keep(it)).collect();
    strip(directory.as_fd(), &others)?;
    disk::set_time(&directory, entry.metadata.mtime)
}

/// Takes the overlay's notes off a file; labels of the host stay.
fn strip(file: BorrowedFd<'_>, attributes: &[Vec<u8>]) -> Result<(), Errno> {
    for attribute in attributes {
        if attribute.starts_with(b"user.overlay.") || attribute.starts_with(b"trusted.overlay.") {
            xattr::remove(file, disk::name(attribute))?;
        }
    }
    Ok(())
}

fn check_attributes(path: &TreePath, xattrs: &Xattrs) -> Result<(), CommitError> {
    match xattrs.keys().find(|name| name.contains(&b'=')) {
        None => Ok(()),
        Some(name) => Err(CommitError::AttributeName {
            path: path.clone(),
            attribute: shown(name),
        }),
    }
}
