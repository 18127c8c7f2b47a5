//! One index of packages (`Packages`): parsed once, kept on disk in a form that is read in no time.
//!
//! Only the fields that choosing and fetching packages needs are kept. Field values stay text; they
//! are read when a package is looked at, which is a few hundred times for sixty thousand packages.
//!
//! ```text
//! text      values of all fields kept, one after the other
//! records   for each package, where its fields are in the text; by name, newest version first
//! provides  for each virtual package, who provides it; by name
//! ```

use std::cmp::Ordering;

use kiln_oci::Digest;

use crate::relation::{self, Alternatives, Relation, RelationError};
use crate::version;

mod cache;
mod parse;

pub(crate) use parse::is_plain_path;
pub use parse::{IndexError, Parser};

/// The packages of one component and architecture of a suite.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    text: String,
    records: Vec<Record>,
    provides: Vec<Provide>,
}

/// A part of an index's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Span {
    start: u32,
    len: u32,
}

/// How many spans a record has.
const FIELDS: usize = 10;

/// Where the fields of one package are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    /// By [`Field`].
    spans: [Span; FIELDS],
    size_bytes: u64,
    sha256: Digest,
    essential: bool,
}

/// The fields kept as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Version,
    Architecture,
    Priority,
    PreDepends,
    Depends,
    Conflicts,
    Breaks,
    Provides,
    Filename,
}

/// One entry of one package's `Provides`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Provide {
    name: Span,
    /// Empty if it is without a version.
    version: Span,
    record: u32,
}

/// One package of an index.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    index: &'a Index,
    record: &'a Record,
}

impl Index {
    /// Returns the number of packages.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no packages.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns all packages, by name.
    pub fn packages(&self) -> impl Iterator<Item = Package<'_>> {
        self.records.iter().map(|record| self.package(record))
    }

    /// Returns the packages with this name, newest version first.
    pub fn by_name<'a>(&'a self, name: &str) -> impl Iterator<Item = Package<'a>> + use<'a> {
        let of = |record: &Record| self.show(record.spans[Field::Name as usize]);
        let start = self.records.partition_point(|record| of(record) < name);
        let len = self.records[start..].partition_point(|record| of(record) == name);
        self.records[start..start + len]
            .iter()
            .map(|record| self.package(record))
    }

    /// Returns the packages that provide `name`, each with the version it provides it in.
    pub fn providers<'a>(
        &'a self,
        name: &str,
    ) -> impl Iterator<Item = (Package<'a>, Option<&'a str>)> + use<'a> {
        let start = self
            .provides
            .partition_point(|provide| self.show(provide.name) < name);
        let len = self.provides[start..].partition_point(|provide| self.show(provide.name) == name);
        self.provides[start..start + len].iter().map(|provide| {
            let version = Some(self.show(provide.version)).filter(|text| !text.is_empty());
            (
                self.package(&self.records[provide.record as usize]),
                version,
            )
        })
    }

    fn package<'a>(&'a self, record: &'a Record) -> Package<'a> {
        Package {
            index: self,
            record,
        }
    }

    fn show(&self, span: Span) -> &str {
        let start = span.start as usize;
        &self.text[start..start + span.len as usize]
    }

    /// Puts records and provides in order.
    fn sort(&mut self) {
        let text = &self.text;
        let show = |span: Span| &text[span.start as usize..][..span.len as usize];
        let field = |record: &Record, field: Field| show(record.spans[field as usize]);
        self.records.sort_by(|one, other| {
            field(one, Field::Name)
                .cmp(field(other, Field::Name))
                .then_with(|| {
                    version::compare(field(other, Field::Version), field(one, Field::Version))
                })
        });
    }
}

impl<'a> Package<'a> {
    fn field(&self, field: Field) -> &'a str {
        self.index.show(self.record.spans[field as usize])
    }

    /// Returns the name.
    pub fn name(&self) -> &'a str {
        self.field(Field::Name)
    }

    /// Returns the version.
    pub fn version(&self) -> &'a str {
        self.field(Field::Version)
    }

    /// Returns `all` or the architecture.
    pub fn architecture(&self) -> &'a str {
        self.field(Field::Architecture)
    }

    /// Returns the priority; empty if there is none.
    pub fn priority(&self) -> &'a str {
        self.field(Field::Priority)
    }

    /// Returns where the package is, relative to the archive's root.
    pub fn path(&self) -> &'a str {
        self.field(Field::Filename)
    }

    /// Returns the size of the package file in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.record.size_bytes
    }

    /// Returns the digest of the package file.
    pub fn sha256(&self) -> Digest {
        self.record.sha256
    }

    /// Whether it must be in every root file system.
    pub fn is_essential(&self) -> bool {
        self.record.essential
    }

    /// Returns what must be configured before this is unpacked.
    ///
    /// # Errors
    /// [`RelationError`] if the field cannot be read.
    pub fn pre_depends(&self) -> Result<Vec<Alternatives>, RelationError> {
        relation::parse(self.field(Field::PreDepends))
    }

    /// Returns what must be configured before this is.
    ///
    /// # Errors
    /// [`RelationError`] if the field cannot be read.
    pub fn depends(&self) -> Result<Vec<Alternatives>, RelationError> {
        relation::parse(self.field(Field::Depends))
    }

    /// Returns what cannot be installed beside this: `Conflicts` and `Breaks`.
    ///
    /// # Errors
    /// [`RelationError`] if a field cannot be read.
    pub fn conflicts(&self) -> Result<Vec<Relation>, RelationError> {
        let mut all = relation::parse_flat(self.field(Field::Conflicts))?;
        all.extend(relation::parse_flat(self.field(Field::Breaks))?);
        Ok(all)
    }

    /// Returns the virtual packages that this is, too.
    ///
    /// # Errors
    /// [`RelationError`] if the field cannot be read.
    pub fn provides(&self) -> Result<Vec<Relation>, RelationError> {
        relation::parse_flat(self.field(Field::Provides))
    }

    /// Orders two packages of one name by their version.
    pub fn compare_version(&self, other: &Package<'_>) -> Ordering {
        version::compare(self.version(), other.version())
    }
}
