//! Entries to tar bytes, the same bytes every time.
//!
//! ```text
//! header = ustar where its fields suffice, else a pax header before it with the fields that do not fit
//! pax records in the order: path linkpath size uid gid mtime, then SCHILY.xattr.* by name
//! names of users and groups empty; access times and inode numbers never written; ends with two zero blocks
//! ```
//! Changing a byte of this is a break of the layer format: every DiffId changes.

use std::io::{self, Write};

use super::{BLOCK, OPAQUE_NAME, WHITEOUT_PREFIX};
use crate::{Entry, Metadata, Node};

const ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Largest number in an octal field of `digits` digits.
const fn octal_max(digits: u32) -> u64 {
    (1 << (3 * digits)) - 1
}

/// Writes layer entries as tar.
#[derive(Debug)]
pub(crate) struct TarWriter<W> {
    out: W,
}

/// One header, before its fields are fitted into a block.
struct Header<'a> {
    path: Vec<u8>,
    kind: u8,
    size_bytes: u64,
    link: &'a [u8],
    device: (u32, u32),
    metadata: &'a Metadata,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes all that comes before an entry's content. A directory that is only implied has nothing.
    pub(crate) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let Entry {
            path,
            node,
            metadata,
        } = entry;
        let mut header = Header {
            path: path.as_bytes().to_vec(),
            kind: b'0',
            size_bytes: 0,
            link: b"",
            device: (0, 0),
            metadata,
        };
        match node {
            Node::File { size_bytes, .. } => header.size_bytes = *size_bytes,
            Node::Hardlink { to } => {
                header.kind = b'1';
                header.link = to.as_bytes();
            }
            Node::Symlink { target } => {
                header.kind = b'2';
                header.link = target;
            }
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                let is_char = matches!(node, Node::CharDevice { .. });
                header.kind = if is_char { b'3' } else { b'4' };
                header.device = (*major, *minor);
            }
            Node::Fifo => header.kind = b'6',
            Node::Whiteout => {
                header.path = marker(path.parent().as_ref(), WHITEOUT_PREFIX, path.name());
            }
            Node::Directory { opaque, implied } => {
                header.kind = b'5';
                let dot: &[u8] = if path.is_root() { b"./" } else { b"/" };
                header.path.extend_from_slice(dot);
                if !implied {
                    self.header(&header)?;
                }
                if !opaque {
                    return Ok(());
                }
                let nobody = Metadata::root_owned(0);
                return self.header(&Header {
                    path: marker(Some(path), OPAQUE_NAME, b""),
                    kind: b'0',
                    metadata: &nobody,
                    ..header
                });
            }
        }
        self.header(&header)
    }

    /// Writes a piece of the content of the file announced last.
    pub(crate) fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends the content of a file of this size.
    pub(crate) fn pad(&mut self, size_bytes: u64) -> io::Result<()> {
        self.out.write_all(&ZEROS[..padding(size_bytes)])
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&ZEROS)?;
        Ok(self.out)
    }

    fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let Header {
            path,
            kind,
            size_bytes,
            link,
            device,
            metadata,
        } = header;
        let mut pax = Vec::new();
        let mut block = [0; BLOCK];
        match split_path(path) {
            Some((prefix, name)) => {
                block[..name.len()].copy_from_slice(name);
                block[345..345 + prefix.len()].copy_from_slice(prefix);
            }
            None => {
                put_record(&mut pax, b"path", path);
                block[..100].copy_from_slice(&path[..100]);
            }
        }
        if link.len() > 100 {
            put_record(&mut pax, b"linkpath", link);
        }
        let link = &link[..link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        let mut number = |at: usize, digits: u32, key: &[u8], value: u64| {
            let fits = value <= octal_max(digits);
            if !fits {
                put_record(&mut pax, key, value.to_string().as_bytes());
            }
            put_octal(&mut block, at, digits, if fits { value } else { 0 });
        };
        number(100, 7, b"mode", u64::from(metadata.mode));
        number(124, 11, b"size", *size_bytes);
        number(108, 7, b"uid", u64::from(metadata.uid));
        number(116, 7, b"gid", u64::from(metadata.gid));
        match u64::try_from(metadata.mtime) {
            Ok(mtime) => number(136, 11, b"mtime", mtime),
            Err(_negative) => {
                put_octal(&mut block, 136, 11, 0);
                put_record(&mut pax, b"mtime", metadata.mtime.to_string().as_bytes());
            }
        }
        // Linux has 12 bits for the major and 20 for the minor number: they always fit.
        put_octal(&mut block, 329, 7, u64::from(device.0));
        put_octal(&mut block, 337, 7, u64::from(device.1));
        // A hard link is its file, so its attributes are there already.
        if *kind != b'1' {
            for (name, value) in &metadata.xattrs {
                put_record(&mut pax, &[b"SCHILY.xattr.", &name[..]].concat(), value);
            }
        }
        if !pax.is_empty() {
            self.pax(&pax)?;
        }
        seal(&mut block, *kind);
        self.out.write_all(&block)
    }

    fn pax(&mut self, records: &[u8]) -> io::Result<()> {
        let mut block = [0; BLOCK];
        let name = b"PaxHeaders/entry";
        block[..name.len()].copy_from_slice(name);
        put_octal(&mut block, 100, 7, 0o644);
        for (at, digits) in [(108, 7), (116, 7), (136, 11), (329, 7), (337, 7)] {
            put_octal(&mut block, at, digits, 0);
        }
        put_octal(&mut block, 124, 11, records.len() as u64);
        seal(&mut block, b'x');
        self.out.write_all(&block)?;
        self.out.write_all(records)?;
        self.pad(records.len() as u64)
    }
}

/// Returns how many zero bytes follow content of this size.
pub(super) fn padding(size_bytes: u64) -> usize {
    let over = size_bytes % BLOCK as u64;
    usize::try_from((BLOCK as u64 - over) % BLOCK as u64).expect("less than a block")
}

/// Returns the path of a marker file in a directory.
fn marker(directory: Option<&crate::TreePath>, prefix: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.map_or(Vec::new(), |it| it.as_bytes().to_vec());
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(prefix);
    path.extend_from_slice(name);
    path
}

/// Splits a path into the prefix and name fields of ustar; `None` if they cannot hold it.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // A directory's final slash stays with its name.
    let end = path.len() - 1;
    let cut = path[..end.min(156)].iter().rposition(|it| *it == b'/')?;
    let (prefix, name) = (&path[..cut], &path[cut + 1..]);
    (!prefix.is_empty() && name.len() <= 100).then_some((prefix, name))
}

fn put_octal(block: &mut [u8; BLOCK], at: usize, digits: u32, value: u64) {
    let mut value = value;
    for digit in (0..digits as usize).rev() {
        block[at + digit] = b'0' + value.to_le_bytes()[0] % 8;
        value /= 8;
    }
}

/// Appends one pax record: its own length, a space, `key=value`, a newline.
fn put_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Fills in kind, magic and checksum.
fn seal(block: &mut [u8; BLOCK], kind: u8) {
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    put_octal(block, 148, 6, sum);
    block[154] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (value, text) in [(&b"x"[..], "6 k=x\n"), (b"xxxxx", "11 k=xxxxx\n")] {
            let mut out = Vec::new();
            put_record(&mut out, b"k", value);
            assert_eq!(out, text.as_bytes());
        }
        for length in 0..1200 {
            let mut out = Vec::new();
            put_record(&mut out, b"key", &vec![b'v'; length]);
            let digits = out.iter().position(|it| *it == b' ').unwrap();
            let said: usize = std::str::from_utf8(&out[..digits])
                .unwrap()
                .parse()
                .unwrap();
            assert_eq!(said, out.len());
        }
    }

    #[test]
    fn long_paths_are_split_where_ustar_can() {
        let name = [b'n'; 100];
        assert_eq!(split_path(&name), Some((&b""[..], &name[..])));
        assert_eq!(split_path(&[b'n'; 101]), None);
        let long = [&[b'p'; 155][..], b"/", &name].concat();
        assert_eq!(split_path(&long), Some((&[b'p'; 155][..], &name[..])));
        let directory = [&[b'p'; 99][..], b"/d/"].concat();
        assert_eq!(split_path(&directory), Some((&[b'p'; 99][..], &b"d/"[..])));
        assert_eq!(split_path(&[&b"/"[..], &[b'n'; 100]].concat()), None);
    }
}
