//! A package file: an `ar` archive of a format number, the control members and the tree (deb(5)).
//!
//! ```text
//! !<arch>
//! debian-binary     "2.0\n"
//! control.tar[.*]   control, md5sums, conffiles, triggers, scripts
//! data.tar[.*]      the files
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::compression::Compression;

/// An opened package file.
#[derive(Debug)]
pub(crate) struct Deb {
    file: Arc<File>,
    control: Member,
    data: Member,
}

/// Where a member is.
#[derive(Debug, Clone)]
struct Member {
    name: String,
    offset: u64,
    len: u64,
    compression: Compression,
}

/// A file that is no package.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum DebError {
    /// It cannot be read.
    #[error("cannot read the package file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("`{}` is not a Debian package: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
}

const GLOBAL_HEADER: &[u8; 8] = b"!<arch>\n";
const HEADER_BYTES: usize = 60;

/// Members looked at; there are three, and a signature at most.
const MAX_MEMBERS: usize = 16;

impl Deb {
    /// Opens a package file and finds its members.
    ///
    /// # Errors
    /// See [`DebError`].
    pub(crate) fn open(path: &Path) -> Result<Self, DebError> {
        let read = |source| DebError::Read {
            path: path.to_owned(),
            source,
        };
        let malformed = |problem| DebError::Malformed {
            path: path.to_owned(),
            problem,
        };
        let file = File::open(path).map_err(read)?;
        let file_len = file.metadata().map_err(read)?.len();
        let mut start = [0; GLOBAL_HEADER.len()];
        if file_len < start.len() as u64 {
            return Err(malformed("it is too short"));
        }
        file.read_exact_at(&mut start, 0).map_err(read)?;
        if start != *GLOBAL_HEADER {
            return Err(malformed("it does not start with `!<arch>`"));
        }
        let mut offset = start.len() as u64;
        let (mut version, mut control, mut data) = (None, None, None);
        for _ in 0..MAX_MEMBERS {
            if offset + HEADER_BYTES as u64 > file_len {
                break;
            }
            let mut header = [0; HEADER_BYTES];
            file.read_exact_at(&mut header, offset).map_err(read)?;
            let member = Member::parse(&header, offset + HEADER_BYTES as u64)
                .ok_or_else(|| malformed("a member has a damaged header"))?;
            let end = member.offset.checked_add(member.len);
            let end = end.filter(|end| *end <= file_len);
            let end = end.ok_or_else(|| malformed("a member reaches past the end of the file"))?;
            offset = end + (end & 1);
            let name = member.name.as_str();
            if version.is_none() {
                let mut number = [0; 2];
                if name != "debian-binary" || member.len < 4 {
                    return Err(malformed("it does not start with a format number"));
                }
                file.read_exact_at(&mut number, member.offset)
                    .map_err(read)?;
                if number != *b"2." {
                    return Err(malformed("it has a format number other than 2"));
                }
                version = Some(number);
            } else if name.starts_with("control.tar") && control.is_none() {
                control = Some(member);
            } else if name.starts_with("data.tar") && data.is_none() {
                data = Some(member);
            } else if !name.starts_with('_') {
                return Err(malformed("it has a member that is none of a package"));
            }
        }
        Ok(Self {
            file: Arc::new(file),
            control: control.ok_or_else(|| malformed("it has no control members"))?,
            data: data.ok_or_else(|| malformed("it has no files"))?,
        })
    }

    /// Returns the control members as an uncompressed tar.
    ///
    /// # Errors
    /// If the first bytes cannot be read.
    pub(crate) fn control(&self) -> io::Result<Box<dyn Read + Send>> {
        self.control.compression.reader(self.raw(&self.control))
    }

    /// Returns the tree as an uncompressed tar.
    ///
    /// # Errors
    /// If the first bytes cannot be read.
    pub(crate) fn data(&self) -> io::Result<Box<dyn Read + Send>> {
        self.data.compression.reader(self.raw(&self.data))
    }

    /// Returns the name and the bytes of the control member, as they are in the file.
    pub(crate) fn raw_control(&self) -> (&str, u64, impl Read + use<>) {
        let member = &self.control;
        (&member.name, member.len, self.raw(member))
    }

    fn raw(&self, member: &Member) -> Part {
        Part {
            file: Arc::clone(&self.file),
            offset: member.offset,
            left: member.len,
        }
    }
}

impl Member {
    /// Reads a member's header; its content starts at `offset`.
    fn parse(header: &[u8; HEADER_BYTES], offset: u64) -> Option<Self> {
        if header[58..] != *b"`\n" {
            return None;
        }
        let name = std::str::from_utf8(&header[..16]).ok()?.trim_end();
        let name = name.strip_suffix('/').unwrap_or(name);
        let len = std::str::from_utf8(&header[48..58]).ok()?.trim_end();
        let extension = name
            .strip_prefix("control.tar")
            .or_else(|| name.strip_prefix("data.tar"))
            .unwrap_or_default();
        Some(Self {
            name: name.to_owned(),
            offset,
            len: len.parse().ok()?,
            compression: Compression::of_extension(extension)?,
        })
    }
}

/// A part of a file, read without moving the file's own position.
#[derive(Debug)]
struct Part {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Returns the header of an `ar` member.
pub(crate) fn member_header(name: &str, len: u64) -> Vec<u8> {
    format!(
        "{name:<16}{:<12}{:<6}{:<6}{:<8}{len:<10}`\n",
        0, 0, 0, "100644"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = GLOBAL_HEADER.to_vec();
        for (name, content) in members {
            bytes.extend(member_header(name, content.len() as u64));
            bytes.extend_from_slice(content);
            if content.len() % 2 == 1 {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    fn open(bytes: &[u8]) -> Result<Deb, DebError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Deb::open(file.path())
    }

    fn text(mut reader: impl Read) -> String {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn members_are_found() {
        let deb = open(&archive(&[
            ("debian-binary", b"2.0\n"),
            ("_gpgbuilder", b"sig"),
            ("control.tar", b"abc"),
            ("data.tar/", b"defg"),
        ]))
        .unwrap();
        assert_eq!(text(deb.control().unwrap()), "abc");
        assert_eq!(text(deb.data().unwrap()), "defg");
        let (name, len, raw) = deb.raw_control();
        assert_eq!((name, len, text(raw).as_str()), ("control.tar", 3, "abc"));
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let good: &[(&str, &[u8])] = &[
            ("debian-binary", b"2.0\n"),
            ("control.tar", b"abcd"),
            ("data.tar", b"efgh"),
        ];
        let bytes = archive(good);
        assert!(open(&bytes).is_ok());
        for len in 0..bytes.len() {
            assert!(open(&bytes[..len]).is_err(), "cut to {len}");
        }
        let bad: [(usize, (&str, &[u8])); 5] = [
            (0, ("debian-binary", b"3.0\n")),
            (0, ("control.tar", b"abcd")),
            (1, ("control.tar.br", b"abcd")),
            (1, ("other", b"abcd")),
            (2, ("data.tar.lzma", b"abcd")),
        ];
        for (at, member) in bad {
            let mut members = good.to_vec();
            members[at] = member;
            assert!(open(&archive(&members)).is_err(), "{member:?}");
        }
        let huge = String::from_utf8(bytes)
            .unwrap()
            .replacen("4         `", "9999999999`", 1);
        assert!(open(huge.as_bytes()).is_err());
    }
}
