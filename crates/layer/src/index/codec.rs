//! The bytes of a [`TreeIndex`](super::TreeIndex) file.
//!
//! ```text
//! "kiln tree 1\n"  count  entry…  BLAKE3 of everything before (32 bytes)
//! entry: shared  length  suffix  kind  [kind's fields]  mode uid gid mtime  xattr count  (name value)…
//! ```
//! Numbers are LEB128, signed ones zigzag; byte strings have their length in front. `shared` is how
//! many bytes of the path before are repeated.

use crate::path::shown;
use crate::{ContentHash, Entry, IndexError, Metadata, Node, PathError, TreePath, Xattrs};

/// First bytes of the file. Changing what follows is a format break and needs another number here.
const MAGIC: &[u8] = b"kiln tree 1\n";

/// Bytes that are not a layer index of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum DecodeError {
    /// Another kind or version of file.
    #[error("not a layer index of version 1: it starts with `{0}`")]
    Magic(String),
    /// The checksum does not fit the content.
    #[error("layer index is damaged: its checksum does not match")]
    Checksum,
    /// The content ends early or has impossible values.
    #[error("layer index is malformed at byte {0}")]
    Malformed(usize),
    /// A path that no layer can hold.
    #[error("layer index is malformed: {0}")]
    Path(#[from] PathError),
    /// Entries that do not describe a layer.
    #[error(transparent)]
    Index(#[from] IndexError),
}

const FILE: u8 = 0;
const DIRECTORY: u8 = 1;
const DIRECTORY_OPAQUE: u8 = 2;
const DIRECTORY_IMPLIED: u8 = 3;
const DIRECTORY_OPAQUE_IMPLIED: u8 = 4;
const SYMLINK: u8 = 5;
const FIFO: u8 = 6;
const CHAR_DEVICE: u8 = 7;
const BLOCK_DEVICE: u8 = 8;
const HARDLINK: u8 = 9;
const WHITEOUT: u8 = 10;

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + entries.len() * 64);
    out.extend_from_slice(MAGIC);
    put_number(&mut out, entries.len() as u64);
    let mut before: &[u8] = b"";
    for Entry {
        path,
        node,
        metadata,
    } in entries
    {
        let bytes = path.as_bytes();
        let shared = bytes.iter().zip(before).take_while(|(a, b)| a == b).count();
        put_number(&mut out, shared as u64);
        put_bytes(&mut out, &bytes[shared..]);
        before = bytes;
        put_node(&mut out, node);
        put_number(&mut out, u64::from(metadata.mode));
        put_number(&mut out, u64::from(metadata.uid));
        put_number(&mut out, u64::from(metadata.gid));
        let zigzag = (metadata.mtime << 1) ^ (metadata.mtime >> 63);
        put_number(&mut out, zigzag.cast_unsigned());
        put_number(&mut out, metadata.xattrs.len() as u64);
        for (name, value) in &metadata.xattrs {
            put_bytes(&mut out, name);
            put_bytes(&mut out, value);
        }
    }
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

fn put_node(out: &mut Vec<u8>, node: &Node) {
    match node {
        Node::File {
            size_bytes,
            content,
        } => {
            out.push(FILE);
            put_number(out, *size_bytes);
            out.extend_from_slice(content.as_raw());
        }
        Node::Directory { opaque, implied } => out.push(match (opaque, implied) {
            (false, false) => DIRECTORY,
            (true, false) => DIRECTORY_OPAQUE,
            (false, true) => DIRECTORY_IMPLIED,
            (true, true) => DIRECTORY_OPAQUE_IMPLIED,
        }),
        Node::Symlink { target } => {
            out.push(SYMLINK);
            put_bytes(out, target);
        }
        Node::Fifo => out.push(FIFO),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            let is_char = matches!(node, Node::CharDevice { .. });
            out.push(if is_char { CHAR_DEVICE } else { BLOCK_DEVICE });
            put_number(out, u64::from(*major));
            put_number(out, u64::from(*minor));
        }
        Node::Hardlink { to } => {
            out.push(HARDLINK);
            put_bytes(out, to.as_bytes());
        }
        Node::Whiteout => out.push(WHITEOUT),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(DecodeError::Malformed(self.at))?;
        self.at += length;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, DecodeError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed(start))
    }

    fn number_u32(&mut self) -> Result<u32, DecodeError> {
        let start = self.at;
        u32::try_from(self.number()?).map_err(|_too_large| DecodeError::Malformed(start))
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let start = self.at;
        usize::try_from(self.number()?).map_err(|_too_large| DecodeError::Malformed(start))
    }

    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        self.take(length)
    }

    fn node(&mut self) -> Result<Node, DecodeError> {
        let start = self.at;
        let directory = |opaque, implied| Node::Directory { opaque, implied };
        Ok(match self.take(1)?[0] {
            FILE => {
                let size_bytes = self.number()?;
                let mut content = [0; 32];
                content.copy_from_slice(self.take(32)?);
                Node::File {
                    size_bytes,
                    content: ContentHash::from_raw(content),
                }
            }
            DIRECTORY => directory(false, false),
            DIRECTORY_OPAQUE => directory(true, false),
            DIRECTORY_IMPLIED => directory(false, true),
            DIRECTORY_OPAQUE_IMPLIED => directory(true, true),
            SYMLINK => Node::Symlink {
                target: self.bytes()?.to_vec(),
            },
            FIFO => Node::Fifo,
            CHAR_DEVICE => Node::CharDevice {
                major: self.number_u32()?,
                minor: self.number_u32()?,
            },
            BLOCK_DEVICE => Node::BlockDevice {
                major: self.number_u32()?,
                minor: self.number_u32()?,
            },
            HARDLINK => Node::Hardlink {
                to: TreePath::parse(self.bytes()?)?,
            },
            WHITEOUT => Node::Whiteout,
            _ => return Err(DecodeError::Malformed(start)),
        })
    }

    fn metadata(&mut self) -> Result<Metadata, DecodeError> {
        let start = self.at;
        let mode = self.number_u32()?;
        if mode > 0o7777 {
            return Err(DecodeError::Malformed(start));
        }
        let (uid, gid) = (self.number_u32()?, self.number_u32()?);
        let zigzag = self.number()?;
        let mtime = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        let mut xattrs = Xattrs::new();
        for _ in 0..self.number()? {
            let name = self.bytes()?.to_vec();
            xattrs.insert(name, self.bytes()?.to_vec());
        }
        Ok(Metadata {
            mode,
            uid,
            gid,
            mtime,
            xattrs,
        })
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    if !bytes.starts_with(MAGIC) {
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        return Err(DecodeError::Magic(shown(start)));
    }
    let split = bytes.len().saturating_sub(32).max(MAGIC.len());
    let (content, checksum) = bytes.split_at(split);
    if blake3::hash(content).as_bytes() != checksum {
        return Err(DecodeError::Checksum);
    }
    let mut cursor = Cursor {
        bytes: content,
        at: MAGIC.len(),
    };
    let count = cursor.length()?;
    // An entry takes at least eight bytes, which bounds what a wrong count could reserve.
    let mut entries = Vec::with_capacity(count.min(content.len() / 8));
    let mut path = Vec::new();
    for _ in 0..count {
        let start = cursor.at;
        let shared = cursor.length()?;
        if shared > path.len() {
            return Err(DecodeError::Malformed(start));
        }
        path.truncate(shared);
        path.extend_from_slice(cursor.bytes()?);
        entries.push(Entry {
            path: TreePath::parse(&path)?,
            node: cursor.node()?,
            metadata: cursor.metadata()?,
        });
    }
    if cursor.at != content.len() {
        return Err(DecodeError::Malformed(cursor.at));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TreeIndex;

    fn sample() -> TreeIndex {
        let path = |text: &str| TreePath::parse(text.as_bytes()).unwrap();
        let entry = |text: &str, node, mtime| Entry {
            path: path(text),
            node,
            metadata: Metadata {
                mode: 0o4755,
                uid: 1000,
                gid: u32::MAX,
                mtime,
                xattrs: Xattrs::from([(b"user.a".to_vec(), vec![0, 255])]),
            },
        };
        let directory = |opaque, implied| Node::Directory { opaque, implied };
        let file = Node::File {
            size_bytes: u64::MAX,
            content: ContentHash::of(b"x"),
        };
        TreeIndex::new(vec![
            entry("", directory(false, true), 0),
            entry("d", directory(true, false), -1),
            entry("d/e", directory(true, true), i64::MIN),
            entry("d/file", file, i64::MAX),
            entry("d/link", Node::Hardlink { to: path("d/file") }, 1),
            entry("dev", Node::CharDevice { major: 1, minor: 3 }, 1),
            entry("dev-b", Node::BlockDevice { major: 8, minor: 0 }, 1),
            entry("fifo", Node::Fifo, 1),
            entry("gone", Node::Whiteout, 0),
            entry(
                "sym",
                Node::Symlink {
                    target: b"/\xff".to_vec(),
                },
                1,
            ),
        ])
        .unwrap()
    }

    #[test]
    fn bytes_round_trip() {
        let bytes = sample().to_bytes();
        assert_eq!(TreeIndex::from_bytes(&bytes), Ok(sample()));
    }

    #[test]
    fn the_format_is_pinned() {
        let hash = blake3::hash(&sample().to_bytes()).to_hex().to_string();
        assert_eq!(
            hash,
            "7a850663c05414092e18781774e0122044e8c34212d83f0e236352a933cc714f"
        );
    }

    #[test]
    fn damage_anywhere_is_found() {
        let bytes = sample().to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(TreeIndex::from_bytes(&damaged).is_err(), "byte {at}");
            assert!(TreeIndex::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn impossible_counts_with_a_good_checksum_are_errors() {
        for tail in [&[0xff; 10][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[1, 5]] {
            let mut bytes = [MAGIC, tail].concat();
            let checksum = blake3::hash(&bytes);
            bytes.extend_from_slice(checksum.as_bytes());
            assert!(matches!(
                TreeIndex::from_bytes(&bytes),
                Err(DecodeError::Malformed(_))
            ));
        }
    }
}
