//! Tar bytes to entries, for archives that somebody hostile may have written.
//!
//! Reads ustar, pax and GNU long names. Where tools disagree on what an archive means (a size on a
//! directory, a path in a global header, sparse files), it is refused rather than guessed, so that
//! nothing can be smuggled past one reader to another. Does not look at what paths mean.

mod pax;

use std::io::{self, Read};

use super::{BLOCK, writer::padding};
use crate::Xattrs;
use crate::path::shown;
use pax::Overrides;

/// Largest pax header or GNU long name read, in bytes.
const MAX_EXTENSION_BYTES: u64 = 1024 * 1024;

/// What kind of thing an archive entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry as the archive has it, nothing about it checked but its form.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TarEntry {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) size_bytes: u64,
    pub(crate) link: Vec<u8>,
    pub(crate) device: (u32, u32),
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) xattrs: Xattrs,
}

/// Bytes that are not a tar archive kiln reads. Offsets are into the uncompressed archive.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum TarError {
    /// The bytes could not be had.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
    /// It ends inside an entry.
    #[error("archive is truncated: it ends inside an entry at byte {0}")]
    Truncated(u64),
    /// It ends without the two zero blocks that say so.
    #[error("archive is truncated: there is no end mark at byte {0}")]
    NoEnd(u64),
    /// Something follows the end.
    #[error("archive has data after its end, at byte {0}")]
    AfterEnd(u64),
    /// A header's checksum is wrong.
    #[error("not a tar header at byte {0}: its checksum does not match")]
    Checksum(u64),
    /// A number is malformed or too large.
    #[error("tar header at byte {at} has an impossible `{field}`")]
    Number {
        /// Where the header is.
        at: u64,
        /// Which number.
        field: &'static str,
    },
    /// An extended header is malformed.
    #[error("extended tar header at byte {at}: {reason}")]
    Extended {
        /// Where the header is.
        at: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A kind of entry that no layer needs.
    #[error("`{path}` is {what}, which kiln does not read; make the archive without it")]
    Unsupported {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
}

/// Hands out the entries of an archive one after the other.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    input: R,
    /// Bytes taken from `input`.
    at: u64,
    /// Content of the current entry that was not read yet, and the padding behind it.
    content_left: u64,
    padding_left: u64,
    end_required: bool,
}

impl<R: Read> TarReader<R> {
    /// `end_required`: whether an archive that stops between two entries is an error.
    pub(crate) fn new(input: R, end_required: bool) -> Self {
        Self {
            input,
            at: 0,
            content_left: 0,
            padding_left: 0,
            end_required,
        }
    }

    /// Reads the next piece of the current file's content; 0 at its end.
    pub(crate) fn content(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = usize::try_from(self.content_left).unwrap_or(usize::MAX);
        let want = want.min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let read = self.some(&mut buffer[..want])?;
        if read == 0 {
            return Err(TarError::Truncated(self.at));
        }
        self.content_left -= read as u64;
        Ok(read)
    }

    /// Goes to the next entry, past what is left of the current one. `None` at the end of the
    /// archive, once it is known that nothing but zeros follows.
    pub(crate) fn next(&mut self) -> Result<Option<TarEntry>, TarError> {
        self.skip_rest()?;
        let mut overrides = Overrides::default();
        let mut extended = false;
        loop {
            let start = self.at;
            let Some(block) = self.header_block()? else {
                if extended {
                    return Err(TarError::Truncated(start));
                }
                if self.end_required {
                    return Err(TarError::NoEnd(start));
                }
                return Ok(None);
            };
            if block == [0; BLOCK] {
                if extended {
                    return Err(TarError::Truncated(start));
                }
                return self.end().map(|()| None);
            }
            check_sum(&block, start)?;
            extended = true;
            match block[156] {
                b'x' => overrides.read_pax(&self.extension(&block, start)?, start)?,
                b'g' => pax::check_global(&self.extension(&block, start)?, start)?,
                b'L' => overrides.path = Some(long_name(self.extension(&block, start)?)),
                b'K' => overrides.link = Some(long_name(self.extension(&block, start)?)),
                _ => {
                    let entry = entry(&block, overrides, start)?;
                    self.content_left = entry.size_bytes;
                    self.padding_left = padding(entry.size_bytes) as u64;
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        loop {
            match self.input.read(buffer) {
                Ok(read) => {
                    self.at += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Fills `buffer` as far as the input goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.some(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// `None` if the input ends here.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(TarError::Truncated(self.at)),
        }
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8 * 1024];
        self.content_left += self.padding_left;
        self.padding_left = 0;
        while self.content_left > 0 {
            self.content(&mut buffer)?;
        }
        Ok(())
    }

    /// Reads on after one zero block: another one, then zeros only.
    fn end(&mut self) -> Result<(), TarError> {
        let mut second = [0; BLOCK];
        let filled = self.fill(&mut second)?;
        if filled < BLOCK && self.end_required {
            return Err(TarError::NoEnd(self.at));
        }
        let mut buffer = [0; 8 * 1024];
        let mut rest = &second[..filled];
        loop {
            if rest.iter().any(|byte| *byte != 0) {
                return Err(TarError::AfterEnd(self.at - rest.len() as u64));
            }
            match self.some(&mut buffer)? {
                0 => return Ok(()),
                read => rest = &buffer[..read],
            }
        }
    }

    /// Reads the content of an extension header.
    fn extension(&mut self, block: &[u8; BLOCK], at: u64) -> Result<Vec<u8>, TarError> {
        let size_bytes = size(block, at)?;
        if size_bytes > MAX_EXTENSION_BYTES {
            return Err(TarError::Extended {
                at,
                reason: "it is larger than 1 MiB",
            });
        }
        let length = usize::try_from(size_bytes).expect("at most 1 MiB");
        let mut content = vec![0; length + padding(size_bytes)];
        if self.fill(&mut content)? < content.len() {
            return Err(TarError::Truncated(self.at));
        }
        content.truncate(length);
        Ok(content)
    }
}

fn check_sum(block: &[u8; BLOCK], at: u64) -> Result<(), TarError> {
    let sum = |range: std::ops::Range<usize>| -> i64 {
        block[range].iter().map(|byte| i64::from(*byte)).sum()
    };
    let expected = sum(0..148) + 8 * i64::from(b' ') + sum(156..BLOCK);
    if number(&block[148..156]) == Some(expected) {
        return Ok(());
    }
    Err(TarError::Checksum(at))
}

/// Reads a numeric field: octal digits between spaces and NULs, or GNU's base 256.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        // Bit 6 is the sign of a two's complement number that fills the rest of the field.
        let sign = if field[0] & 0x40 == 0 { 0 } else { -1 };
        let first = i128::from(field[0] & 0x7f) | if sign < 0 { !0x7f } else { 0 };
        let value = field[1..].iter().try_fold(first, |value, byte| {
            Some(value.checked_mul(256)? | i128::from(*byte))
        })?;
        return i64::try_from(value).ok();
    }
    let end = field.iter().rposition(|it| !matches!(it, 0 | b' '));
    let start = field.iter().position(|it| !matches!(it, 0 | b' '));
    let (Some(start), Some(end)) = (start, end) else {
        return Some(0);
    };
    field[start..=end].iter().try_fold(0i64, |value, digit| {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))
    })
}

fn size(block: &[u8; BLOCK], at: u64) -> Result<u64, TarError> {
    let value = number(&block[124..136]);
    value
        .and_then(|it| u64::try_from(it).ok())
        // So that adding padding never overflows.
        .filter(|it| *it <= i64::MAX as u64 / 2)
        .ok_or(TarError::Number { at, field: "size" })
}

/// Text up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

fn long_name(mut content: Vec<u8>) -> Vec<u8> {
    let length = text(&content).len();
    content.truncate(length);
    content
}

fn entry(block: &[u8; BLOCK], overrides: Overrides, at: u64) -> Result<TarEntry, TarError> {
    let mut path = text(&block[..100]).to_vec();
    // GNU's own format keeps other things where POSIX has the prefix.
    if &block[257..263] == b"ustar\0" && block[345] != 0 {
        path = [text(&block[345..500]), b"/", &path].concat();
    }
    let path = overrides.path.unwrap_or(path);
    let unsupported = |what| TarError::Unsupported {
        path: shown(&path),
        what,
    };
    let kind = match block[156] {
        0 if path.last() == Some(&b'/') => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(unsupported("a sparse file")),
        b'M' => return Err(unsupported("a part of a multi-volume archive")),
        b'V' => return Err(unsupported("a volume label")),
        _ => return Err(unsupported("an entry of an unknown kind")),
    };
    if overrides.sparse {
        return Err(unsupported("a sparse file"));
    }
    let size_bytes = match overrides.size_bytes {
        Some(size_bytes) => size_bytes,
        None => size(block, at)?,
    };
    if kind != Kind::File && size_bytes != 0 {
        // Some readers skip that many bytes here and others none.
        return Err(TarError::Number { at, field: "size" });
    }
    let id = |from: std::ops::Range<usize>, over: Option<u32>, field| {
        over.or_else(|| u32::try_from(number(&block[from])?).ok())
            .ok_or(TarError::Number { at, field })
    };
    let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let device_number = |from, field| if device { id(from, None, field) } else { Ok(0) };
    Ok(TarEntry {
        kind,
        size_bytes,
        link: overrides
            .link
            .unwrap_or_else(|| text(&block[157..257]).to_vec()),
        device: (
            device_number(329..337, "major number")?,
            device_number(337..345, "minor number")?,
        ),
        mode: id(100..108, None, "mode")? & 0o7777,
        uid: id(108..116, overrides.uid, "uid")?,
        gid: id(116..124, overrides.gid, "gid")?,
        mtime: overrides
            .mtime
            .or_else(|| number(&block[136..148]))
            .ok_or(TarError::Number { at, field: "mtime" })?,
        xattrs: overrides.xattrs,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_tar_programs_write_them() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"12345678", None),
            (b"-1      ", None),
            (b"1 2     ", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
