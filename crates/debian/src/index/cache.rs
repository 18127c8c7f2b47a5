//! The form an [`Index`] has on disk.
//!
//! ```text
//! magic   16 bytes, with the version of the format
//! sha256  32 bytes, of all that follows
//! counts  text bytes, records, provides: u32 each, little-endian like all numbers
//! records ten spans of two u32, size u64, digest 32 bytes, essential u8
//! provides two spans, record u32
//! text
//! ```
//!
//! A file that is not exactly this is no cache: the index is then parsed again. Changing any of it
//! needs a new magic.

use std::fs;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use kiln_oci::{Digest, Hasher};

use super::{FIELDS, Index, Provide, Record, Span};

const MAGIC: &[u8; 16] = b"kiln-packages-1\n";
const DIGEST_BYTES: usize = 32;
const RECORD_BYTES: usize = FIELDS * 8 + 8 + 32 + 1;
const PROVIDE_BYTES: usize = 20;

impl Index {
    /// Reads the form that [`save`](Self::save) wrote; `None` if there is none, or it is damaged.
    ///
    /// # Errors
    /// What the file system says, but for a file that is not there.
    pub(crate) fn load(path: &Path) -> io::Result<Option<Self>> {
        match fs::read(path) {
            Ok(bytes) => Ok(decode(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the index to `path`, under another name first.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        self.write(file.as_file_mut())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Writes the form, whose digest is known when the rest of it is written.
    fn write(&self, mut file: impl Write + Seek) -> io::Result<()> {
        file.write_all(MAGIC)?;
        file.write_all(&[0; DIGEST_BYTES])?;
        let mut body = BufWriter::new(Hasher::new(file));
        self.write_body(&mut body)?;
        let (mut file, digest, _) = body.into_inner()?.finish();
        file.seek(SeekFrom::Start(MAGIC.len() as u64))?;
        file.write_all(&digest.to_raw())
    }

    fn write_body(&self, body: &mut impl Write) -> io::Result<()> {
        for count in [self.text.len(), self.records.len(), self.provides.len()] {
            let count = u32::try_from(count).expect("an index is far below 4 GiB");
            body.write_all(&count.to_le_bytes())?;
        }
        let bytes = |span: Span| (u64::from(span.len) << 32 | u64::from(span.start)).to_le_bytes();
        for record in &self.records {
            for span in record.spans {
                body.write_all(&bytes(span))?;
            }
            body.write_all(&record.size_bytes.to_le_bytes())?;
            body.write_all(&record.sha256.to_raw())?;
            body.write_all(&[u8::from(record.essential)])?;
        }
        for provide in &self.provides {
            body.write_all(&bytes(provide.name))?;
            body.write_all(&bytes(provide.version))?;
            body.write_all(&provide.record.to_le_bytes())?;
        }
        body.write_all(self.text.as_bytes())
    }
}

/// Takes numbers off the front of bytes.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a span and checks that it is a part of `text`.
    fn span(&mut self, text: &str) -> Option<Span> {
        let span = Span {
            start: self.number()?,
            len: self.number()?,
        };
        let start = span.start as usize;
        text.get(start..start.checked_add(span.len as usize)?)?;
        Some(span)
    }
}

fn decode(bytes: &[u8]) -> Option<Index> {
    let mut cursor = Cursor(bytes);
    if cursor.array::<16>()? != *MAGIC {
        return None;
    }
    if Digest::from_raw(cursor.array()?) != Digest::of(cursor.0) {
        return None;
    }
    let counts = [cursor.number()?, cursor.number()?, cursor.number()?];
    let [text_bytes, records, provides] = counts.map(|count| count as usize);
    let table = records
        .checked_mul(RECORD_BYTES)?
        .checked_add(provides.checked_mul(PROVIDE_BYTES)?)?;
    let mut table = Cursor(cursor.take(table)?);
    if cursor.0.len() != text_bytes {
        return None;
    }
    let text = String::from_utf8(cursor.0.to_vec()).ok()?;
    let mut index = Index {
        records: Vec::with_capacity(records),
        provides: Vec::with_capacity(provides),
        text: String::new(),
    };
    for _ in 0..records {
        let mut spans = [Span::default(); FIELDS];
        for span in &mut spans {
            *span = table.span(&text)?;
        }
        index.records.push(Record {
            spans,
            size_bytes: u64::from_le_bytes(table.array()?),
            sha256: Digest::from_raw(table.array()?),
            essential: table.array::<1>()? != [0],
        });
    }
    for _ in 0..provides {
        let provide = Provide {
            name: table.span(&text)?,
            version: table.span(&text)?,
            record: table.number()?,
        };
        if provide.record as usize >= records {
            return None;
        }
        index.provides.push(provide);
    }
    index.text = text;
    Some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(index: &Index) -> Vec<u8> {
        let mut bytes = io::Cursor::new(Vec::new());
        index.write(&mut bytes).unwrap();
        bytes.into_inner()
    }

    fn sample() -> Index {
        let text = "Package: a\nVersion: 1\nFilename: pool/a.deb\nSize: 7\n\
            SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\
            Provides: v (= 2), w\nEssential: yes\n";
        Index::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/x");
        assert_eq!(Index::load(&path).unwrap(), None);
        sample().save(&path).unwrap();
        assert_eq!(Index::load(&path).unwrap(), Some(sample()));
    }

    #[test]
    fn a_damaged_file_is_no_index() {
        let bytes = encoded(&sample());
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), None, "cut to {len}");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(decode(&changed), None, "changed at {at}");
        }
    }

    #[test]
    fn numbers_that_lie_are_refused_even_with_the_right_digest() {
        let bytes = encoded(&sample());
        for at in 48..bytes.len() {
            for value in [0, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let digest = Digest::of(&changed[48..]);
                changed[16..48].copy_from_slice(&digest.to_raw());
                // Any answer but a panic, now or when it is used.
                if let Some(index) = decode(&changed) {
                    for package in index.packages() {
                        drop((package.name(), package.version(), package.depends()));
                    }
                    assert!(index.providers("v").count() <= 2);
                }
            }
        }
    }
}
