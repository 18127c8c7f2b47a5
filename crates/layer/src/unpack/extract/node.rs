//! Entries that are not directories: files, links, pipes and devices.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use kiln_sys::Errno;
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::Extractor;
use crate::disk::{self, At};
use crate::holes::HoleWriter;
use crate::tar::{Kind, TarEntry, TarReader};
use crate::unpack::{Devices, UnpackError};
use crate::{ContentHash, Entry, FileIdentity, Metadata, Node, TreePath};

impl Extractor<'_> {
    /// Makes anything but a directory.
    pub(super) fn add_other<R: Read>(
        &mut self,
        path: TreePath,
        metadata: Metadata,
        entry: TarEntry,
        tar: &mut TarReader<R>,
    ) -> Result<(), UnpackError> {
        self.check_new(&path, &entry)?;
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            if entry.kind == Kind::CharDevice && entry.device == (0, 0) {
                return Err(UnpackError::Forged {
                    path,
                    what: "a character device 0:0",
                });
            }
            match self.options.devices {
                Devices::Refuse => return Err(UnpackError::Device(path)),
                Devices::Skip => return Ok(()),
                Devices::Make => {}
            }
        }
        let parent = self.directory(&path.parent().unwrap_or_default(), &path)?;
        self.take_whiteout(&path)?;
        let (major, minor) = entry.device;
        let (node, metadata) = match entry.kind {
            Kind::File => {
                let node = self.make_file(&path, &parent, &metadata, tar)?;
                (node, metadata)
            }
            Kind::Hardlink => self.make_link(&path, &parent, &entry.link)?,
            Kind::Symlink => {
                if entry.link.is_empty() || entry.link.len() > crate::MAX_PATH_BYTES {
                    return Err(UnpackError::Symlink(path));
                }
                let (target, name) = (disk::name(&entry.link), disk::name(path.name()));
                fs::symlinkat(target, &parent, name).at("make", &path)?;
                let target = entry.link;
                (Node::Symlink { target }, metadata)
            }
            Kind::CharDevice => (Node::CharDevice { major, minor }, metadata),
            Kind::BlockDevice => (Node::BlockDevice { major, minor }, metadata),
            Kind::Fifo | Kind::Directory => (Node::Fifo, metadata),
        };
        if let Some(kind) = special(&node) {
            let device = fs::makedev(major, minor);
            let name = disk::name(path.name());
            fs::mknodat(&parent, name, kind, Mode::empty(), device).at("make", &path)?;
        }
        if special(&node).is_some() || matches!(node, Node::Symlink { .. }) {
            let owner = self.owner(&metadata);
            finish_special(&parent, &path, &node, &metadata, owner)
                .at("set the metadata of", &path)?;
        }
        self.remember(path, node, metadata)
    }

    /// Refuses a path that is taken.
    fn check_new(&self, path: &TreePath, entry: &TarEntry) -> Result<(), UnpackError> {
        match self.entries.get(path) {
            None
            | Some(Entry {
                node: Node::Whiteout,
                ..
            }) => Ok(()),
            Some(earlier) => Err(UnpackError::Duplicate {
                path: path.clone(),
                first: earlier.node.kind_name(),
                second: match entry.kind {
                    Kind::File => "file",
                    Kind::Hardlink => "hard link",
                    Kind::Symlink => "symbolic link",
                    Kind::Directory => "directory",
                    Kind::CharDevice | Kind::BlockDevice => "device",
                    Kind::Fifo => "named pipe",
                },
            }),
        }
    }

    fn make_file<R: Read>(
        &mut self,
        path: &TreePath,
        parent: &OwnedFd,
        metadata: &Metadata,
        tar: &mut TarReader<R>,
    ) -> Result<Node, UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let name = path.name();
        let file =
            fs::openat(parent, disk::name(name), flags | OFlags::CLOEXEC, mode).at("make", path)?;
        let mut hasher = blake3::Hasher::new();
        let mut writer = HoleWriter::new(file.as_fd());
        loop {
            let read = tar.content(&mut self.buffer)?;
            if read == 0 {
                break;
            }
            let chunk = &self.buffer[..read];
            hasher.update(chunk);
            writer.add(chunk).at("write", path)?;
        }
        let size_bytes = writer.finish().at("write", path)?;
        disk::set_metadata(&file, metadata, self.owner(metadata))
            .at("set the metadata of", path)?;
        disk::set_time(&file, metadata.mtime).at("set the time of", path)?;
        drop(file);
        let content: ContentHash = hasher.finalize().into();
        if let Some(pool) = self.options.pool {
            let identity = FileIdentity {
                path,
                size_bytes,
                content,
                metadata,
            };
            pool.share(&identity, parent.as_fd(), name)
                .at("share", path)?;
        }
        Ok(Node::File {
            size_bytes,
            content,
        })
    }

    /// Makes a hard link to an earlier file; returns it with that file's metadata.
    fn make_link(
        &self,
        path: &TreePath,
        parent: &OwnedFd,
        target: &[u8],
    ) -> Result<(Node, Metadata), UnpackError> {
        let to = TreePath::in_root(target)?;
        let found = self.entries.get(&to);
        let to = match found.map(|entry| &entry.node) {
            Some(Node::File { .. }) => to,
            Some(Node::Hardlink { to }) => to.clone(),
            _ => {
                return Err(UnpackError::Hardlink {
                    path: path.clone(),
                    to,
                });
            }
        };
        let file = &self.entries[&to];
        let holder = to.parent().unwrap_or_default();
        let holder = disk::open_path(self.root, &holder).at("open", &holder)?;
        let (from, name) = (disk::name(to.name()), disk::name(path.name()));
        // Without a flag to follow links this is the file itself.
        fs::linkat(&holder, from, parent, name, AtFlags::empty()).at("link", path)?;
        let metadata = file.metadata.clone();
        Ok((Node::Hardlink { to }, metadata))
    }
}

fn special(node: &Node) -> Option<FileType> {
    match node {
        Node::Fifo => Some(FileType::Fifo),
        Node::CharDevice { .. } => Some(FileType::CharacterDevice),
        Node::BlockDevice { .. } => Some(FileType::BlockDevice),
        Node::File { .. }
        | Node::Directory { .. }
        | Node::Symlink { .. }
        | Node::Hardlink { .. }
        | Node::Whiteout => None,
    }
}

/// Sets owner, mode and time of what cannot be opened.
fn finish_special(
    parent: &OwnedFd,
    path: &TreePath,
    node: &Node,
    metadata: &Metadata,
    owner: Option<(u32, u32)>,
) -> Result<(), Errno> {
    let name = disk::name(path.name());
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    // A link has no mode. Anything else here was made by us a moment ago and is no link.
    if special(node).is_some() {
        let mode = Mode::from_raw_mode(metadata.mode);
        fs::chmodat(parent, name, mode, AtFlags::empty())?;
    }
    disk::set_time_at(parent, path.name(), metadata.mtime)
}
