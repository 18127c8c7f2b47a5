//! From the text of a `Packages` file to an [`Index`].

use kiln_oci::Digest;
use memchr::{memchr, memmem};

use super::{FIELDS, Field, Index, Provide, Record, Span};
use crate::relation::{self, RelationError};

/// Largest uncompressed index read, in bytes; that of Debian's largest component is a tenth of it.
const INDEX_BYTES: u64 = 512 << 20;
/// Longest description of one package; Debian's longest have some tens of kilobytes.
const PARAGRAPH_BYTES: usize = 16 << 20;

/// An index that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[must_use]
pub enum IndexError {
    /// Not UTF-8, or too large.
    #[error("the package index cannot be read: {0}")]
    Text(&'static str),
    /// A package is described wrongly.
    #[error("the package index is wrong in the paragraph before line {line}: {problem}")]
    Paragraph {
        /// The line after the paragraph, counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

/// The fields of the paragraph being read, where they are in the input.
#[derive(Default)]
struct Draft<'a> {
    values: [&'a str; FIELDS],
    size: &'a str,
    sha256: &'a str,
    essential: bool,
    has_fields: bool,
}

/// An index that is being read, from pieces of any length: the text of Debian's largest is never there as a whole.
#[derive(Debug, Default)]
pub struct Parser {
    index: Index,
    /// The beginning of a paragraph whose end has not come.
    held: Vec<u8>,
    lines: usize,
    bytes: u64,
}

impl Parser {
    /// Reads on.
    ///
    /// # Errors
    /// [`IndexError`] with the first paragraph that is wrong.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), IndexError> {
        self.bytes += piece.len() as u64;
        if self.bytes > INDEX_BYTES {
            return Err(IndexError::Text("it is larger than any index should be"));
        }
        // An empty line that began with the last piece ends there, too.
        let known = self.held.len().saturating_sub(1);
        self.held.extend_from_slice(piece);
        let Some(end) = memmem::rfind(&self.held[known..], b"\n\n") else {
            if self.held.len() > PARAGRAPH_BYTES {
                let problem = "a package is described by more than any should be";
                return Err(IndexError::Text(problem));
            }
            return Ok(());
        };
        let rest = self.held.split_off(known + end + 2);
        let paragraphs = std::mem::replace(&mut self.held, rest);
        self.read(&paragraphs)
    }

    /// Ends the index.
    ///
    /// # Errors
    /// As [`add`](Self::add) has.
    pub fn finish(mut self) -> Result<Index, IndexError> {
        let last = std::mem::take(&mut self.held);
        self.read(&last)?;
        let Self { mut index, .. } = self;
        index.sort();
        index.collect_provides()?;
        Ok(index)
    }

    /// Reads whole paragraphs.
    fn read(&mut self, paragraphs: &[u8]) -> Result<(), IndexError> {
        let text = std::str::from_utf8(paragraphs);
        let mut rest = text.map_err(|_not_utf8| IndexError::Text("it is not UTF-8"))?;
        let mut draft = Draft::default();
        while !rest.is_empty() {
            self.lines += 1;
            let end = memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
            let (line, after) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            // Long descriptions and lists are none of ours.
            match line.as_bytes().first() {
                None => {
                    self.index.finish(&mut draft, self.lines)?;
                }
                Some(b' ' | b'\t') => {}
                Some(_) => draft.set(line),
            }
            rest = after;
        }
        self.index.finish(&mut draft, self.lines + 1)
    }
}

impl Index {
    fn finish(&mut self, draft: &mut Draft<'_>, line: usize) -> Result<(), IndexError> {
        let draft = std::mem::take(draft);
        if !draft.has_fields {
            return Ok(());
        }
        let refuse = |problem: String| Err(IndexError::Paragraph { line, problem });
        let name = draft.values[Field::Name as usize];
        if !relation::is_package_name(name) {
            return refuse(format!("`{}` is not a package name", cut(name)));
        }
        if draft.values[Field::Version as usize].is_empty() {
            return refuse(format!("`{name}` has no version"));
        }
        let path = draft.values[Field::Filename as usize];
        if !is_plain_path(path) {
            return refuse(format!(
                "`{name}` is at `{}`, which is no path in an archive",
                cut(path)
            ));
        }
        let Ok(size_bytes) = draft.size.parse() else {
            return refuse(format!("`{name}` has the size `{}`", cut(draft.size)));
        };
        let Ok(sha256) = Digest::from_hex(draft.sha256) else {
            return refuse(format!("`{name}` has the SHA-256 `{}`", cut(draft.sha256)));
        };
        let mut spans = [Span::default(); FIELDS];
        for (span, value) in spans.iter_mut().zip(draft.values) {
            *span = self.push(value);
        }
        self.records.push(Record {
            spans,
            size_bytes,
            sha256,
            essential: draft.essential,
        });
        Ok(())
    }

    /// Appends `value` to the text.
    fn push(&mut self, value: &str) -> Span {
        let small = "the input is far below 4 GiB";
        let span = Span {
            start: u32::try_from(self.text.len()).expect(small),
            len: u32::try_from(value.len()).expect(small),
        };
        self.text.push_str(value);
        span
    }

    fn collect_provides(&mut self) -> Result<(), IndexError> {
        let mut found = Vec::new();
        for (number, record) in self.records.iter().enumerate() {
            let span = record.spans[Field::Provides as usize];
            if span.len == 0 {
                continue;
            }
            let record = u32::try_from(number).expect("the input is far below 4 GiB");
            let parsed = relation::parse_flat(self.show(span));
            let parsed = parsed.map_err(|error: RelationError| IndexError::Paragraph {
                line: 0,
                problem: error.to_string(),
            })?;
            for provided in parsed {
                let version = provided.constraint.map(|constraint| constraint.version);
                found.push((provided.name, version.unwrap_or_default(), record));
            }
        }
        found.sort_unstable();
        found.dedup();
        for (name, version, record) in found {
            let provide = Provide {
                name: self.push(&name),
                version: self.push(&version),
                record,
            };
            self.provides.push(provide);
        }
        Ok(())
    }
}

impl<'a> Draft<'a> {
    fn set(&mut self, line: &'a str) {
        let Some((name, value)) = line.split_once(':') else {
            return;
        };
        let value = value.trim();
        self.has_fields = true;
        let field = match name {
            "Package" => Field::Name,
            "Version" => Field::Version,
            "Architecture" => Field::Architecture,
            "Priority" => Field::Priority,
            "Pre-Depends" => Field::PreDepends,
            "Depends" => Field::Depends,
            "Conflicts" => Field::Conflicts,
            "Breaks" => Field::Breaks,
            "Provides" => Field::Provides,
            "Filename" => Field::Filename,
            "Essential" => {
                self.essential = value == "yes";
                return;
            }
            "Size" => {
                self.size = value;
                return;
            }
            "SHA256" => {
                self.sha256 = value;
                return;
            }
            _ => return,
        };
        self.values[field as usize] = value;
    }
}

/// Whether a path is safe below an archive's root: relative, without `..`, of plain letters.
pub(crate) fn is_plain_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._~:/%=@,".contains(&byte);
    !path.is_empty()
        && path.len() <= 1024
        && path.bytes().all(plain)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Index {
        pub(crate) fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
            let mut parser = Parser::default();
            parser.add(bytes)?;
            parser.finish()
        }
    }

    const SHA: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn paragraph(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nFilename: pool/{name}_{version}.deb\n\
             Size: 7\nSHA256: {SHA}\nDescription: x\n Depends: not-a-field\n{more}\n"
        )
    }

    #[test]
    fn packages_are_found_by_name_and_by_what_they_provide() {
        let text = paragraph("b", "1", "Provides: v (= 2), w\nDepends: a (>= 1) | c\n")
            + &paragraph(
                "a",
                "1.9",
                "Essential: yes\nPriority: required\nProvides: v\n",
            )
            + &paragraph("a", "1.10", "");
        let index = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(index.len(), 3);
        let versions: Vec<&str> = index.by_name("a").map(|one| one.version()).collect();
        assert_eq!(versions, ["1.10", "1.9"]);
        assert_eq!(index.by_name("c").count(), 0);
        let old = index.by_name("a").nth(1).unwrap();
        assert!(old.is_essential() && old.priority() == "required");
        assert_eq!(old.path(), "pool/a_1.9.deb");
        assert_eq!((old.size_bytes(), old.sha256().hex().as_str()), (7, SHA));
        let providers: Vec<_> = index
            .providers("v")
            .map(|(package, version)| (package.name(), version))
            .collect();
        assert_eq!(providers, [("a", None), ("b", Some("2"))]);
        let b = index.by_name("b").next().unwrap();
        assert_eq!(relation::show(&b.depends().unwrap()[0]), "a (>= 1) | c");
        assert!(b.conflicts().unwrap().is_empty());
    }

    #[test]
    fn wrong_paragraphs_are_refused() {
        let good = paragraph("a", "1", "");
        for (from, to) in [
            ("Package: a", "Package: ../a"),
            ("Version: 1\n", ""),
            ("Size: 7", "Size: -7"),
            ("Size: 7", "Size: 99999999999999999999"),
            ("SHA256: e3", "SHA256: xx"),
            ("Filename: pool/", "Filename: /pool/"),
            ("Filename: pool/", "Filename: pool/../"),
            ("Filename: pool/", "Filename: http://evil/?"),
            ("Filename: pool/a_1.deb\n", ""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(bad, good, "{from}");
            let error = Index::parse(bad.as_bytes()).unwrap_err();
            assert!(
                matches!(error, IndexError::Paragraph { .. }),
                "{to}: {error}"
            );
        }
        assert!(Index::parse(b"Package: \xff").is_err());
        assert!(Index::parse(b"").unwrap().is_empty());
    }
    #[test]
    fn pieces_of_any_length_are_the_same_index() {
        let text = paragraph("b", "1", "Provides: v (= 2), w\n")
            + "\n"
            + &paragraph("c", "1", "")
            + &paragraph("a", "1", "Description: größer\n")
            + "\n\n";
        let whole = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(whole.len(), 3);
        for length in 1..text.len() {
            let mut parser = Parser::default();
            for piece in text.as_bytes().chunks(length) {
                parser.add(piece).unwrap();
            }
            assert_eq!(parser.finish().unwrap(), whole, "{length}");
        }
    }

    #[test]
    fn the_line_of_a_wrong_paragraph_is_counted_over_all_pieces() {
        let text =
            paragraph("a", "1", "") + "\n" + &paragraph("b", "1", "").replace("Size: 7", "Size: x");
        let line = text.lines().count();
        for length in [1, 50, text.len()] {
            let mut parser = Parser::default();
            let mut pieces = text.as_bytes().chunks(length);
            let outcome = pieces.try_for_each(|piece| parser.add(piece));
            let error = outcome.and_then(|()| parser.finish()).unwrap_err();
            assert!(
                matches!(&error, IndexError::Paragraph { line: told, .. } if *told == line),
                "{error}"
            );
        }
    }

    #[test]
    fn a_paragraph_without_end_is_refused_before_it_fills_the_memory() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 20];
        let error = (0..64).find_map(|_| parser.add(&piece).err()).unwrap();
        assert!(matches!(error, IndexError::Text(_)), "{error}");
    }
}
