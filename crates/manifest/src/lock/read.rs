//! Text to [`Lock`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use kiln_oci::Digest;
use miette::NamedSource;
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::LockError;
use super::{
    GitKey, ImagePin, LOCK_VERSION, Lock, PackageKey, PackagePin, SetKey, SuiteKey, SuitePin,
    UrlPin,
};
use crate::span::SourceText;
use crate::value::is_snapshot_time;

impl Lock {
    /// Reads the text of a lock. `file_name` is only used in errors.
    ///
    /// # Errors
    /// [`LockError`], at the first thing that is wrong.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, LockError> {
        let reader = Reader { file_name, text };
        reader.refuse_conflicts()?;
        let document = DeTable::parse(text).map_err(|error| reader.toml_error(&error))?;
        reader.check_version(document.get_ref())?;
        let written: Written = toml::from_str(text).map_err(|error| reader.toml_error(&error))?;
        reader.lock(written)
    }
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Written {
    #[serde(rename = "version")]
    _version: u32,
    layer_format: u32,
    #[serde(default)]
    image: BTreeMap<String, WrittenImage>,
    #[serde(default)]
    debian: Vec<Spanned<WrittenSuite>>,
    #[serde(default)]
    url: BTreeMap<String, WrittenUrl>,
    #[serde(default)]
    git: Vec<Spanned<WrittenGit>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenImage {
    digest: Spanned<String>,
    #[serde(default)]
    platforms: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WrittenSuite {
    suite: String,
    architecture: String,
    components: BTreeSet<String>,
    snapshot: Spanned<String>,
    #[serde(default)]
    fixed: bool,
    #[serde(default)]
    packages: Vec<Spanned<WrittenPackage>>,
    #[serde(default)]
    set: Vec<Spanned<WrittenSet>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPackage {
    name: Spanned<String>,
    version: Spanned<String>,
    architecture: String,
    size: u64,
    sha256: Spanned<String>,
    path: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSet {
    request: BTreeSet<String>,
    over: Spanned<String>,
    packages: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenUrl {
    sha256: Spanned<String>,
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGit {
    url: String,
    #[serde(rename = "ref")]
    reference: String,
    commit: Spanned<String>,
}

struct Reader<'a> {
    file_name: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn refuse_conflicts(&self) -> Result<(), LockError> {
        let mut offset = 0;
        for line in self.text.split_inclusive('\n') {
            let marker = ["<<<<<<<", "=======", ">>>>>>>"]
                .iter()
                .any(|marker| line.starts_with(marker));
            if marker {
                return Err(LockError::MergeConflict {
                    name: self.file_name.to_owned(),
                    source_code: self.source(),
                    at: (offset, line.trim_end().len()).into(),
                });
            }
            offset += line.len();
        }
        Ok(())
    }

    /// Looked at before the rest, so that a file of another version gets this
    /// message and not one about a key.
    fn check_version(&self, document: &DeTable<'_>) -> Result<(), LockError> {
        let Some(value) = document.get("version") else {
            return Err(self.invalid(0..0, "the key `version` is missing"));
        };
        let version = match value.get_ref() {
            DeValue::Integer(integer) => {
                i64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        let Some(version) = version else {
            return Err(self.invalid(value.span(), "`version` is not a number"));
        };
        if version == i64::from(LOCK_VERSION) {
            return Ok(());
        }
        let help = if version > i64::from(LOCK_VERSION) {
            "use the kiln that wrote it, or delete the file and run `kiln lock` to pin everything anew"
        } else {
            "delete the file and run `kiln lock` to pin everything anew"
        };
        Err(LockError::UnknownVersion {
            name: self.file_name.to_owned(),
            version,
            known: LOCK_VERSION,
            help,
            source_code: self.source(),
            at: value.span().into(),
        })
    }

    fn lock(&self, written: Written) -> Result<Lock, LockError> {
        let mut lock = Lock::new(written.layer_format);
        for (reference, image) in written.image {
            let mut platforms = BTreeMap::new();
            for (platform, digest) in image.platforms {
                platforms.insert(platform, self.digest(&digest)?);
            }
            let digest = self.digest(&image.digest)?;
            lock.images
                .insert(reference, ImagePin { digest, platforms });
        }
        for suite in written.debian {
            let span = suite.span();
            let (key, pin) = self.suite(suite.into_inner())?;
            if lock.debian.insert(key, pin).is_some() {
                return Err(self.invalid(span, "the suite is pinned twice"));
            }
        }
        for (url, pin) in written.url {
            let sha256 = self.hex_digest(&pin.sha256)?;
            let size_bytes = pin.size;
            lock.urls.insert(url, UrlPin { sha256, size_bytes });
        }
        for git in written.git {
            let span = git.span();
            let WrittenGit {
                url,
                reference,
                commit,
            } = git.into_inner();
            if ![40, 64].contains(&commit.get_ref().len()) || !is_lower_hex(commit.get_ref()) {
                return Err(self.invalid(commit.span(), "this is not a commit"));
            }
            let key = GitKey { url, reference };
            if lock.git.insert(key, commit.into_inner()).is_some() {
                return Err(self.invalid(span, "the reference is pinned twice"));
            }
        }
        Ok(lock)
    }

    fn suite(&self, written: WrittenSuite) -> Result<(SuiteKey, SuitePin), LockError> {
        if !is_snapshot_time(written.snapshot.get_ref()) {
            return Err(self.invalid(
                written.snapshot.span(),
                "this is not a time like `20250131T120000Z`",
            ));
        }
        let snapshot = written.snapshot.into_inner();
        let mut packages = BTreeMap::new();
        for package in written.packages {
            let span = package.span();
            let (key, pin) = self.package(package.into_inner())?;
            if packages.insert(key, pin).is_some() {
                return Err(self.invalid(span, "the package is pinned twice"));
            }
        }
        let mut sets = BTreeMap::new();
        for set in written.set {
            let span = set.span();
            let (key, list) = self.set(set.into_inner(), &packages)?;
            if sets.insert(key, list).is_some() {
                return Err(self.invalid(span, "the request is resolved twice"));
            }
        }
        let key = SuiteKey {
            suite: written.suite,
            architecture: written.architecture,
            components: written.components,
            fixed_snapshot: written.fixed.then(|| snapshot.clone()),
        };
        let pin = SuitePin {
            snapshot,
            packages,
            sets,
        };
        Ok((key, pin))
    }

    fn package(&self, written: WrittenPackage) -> Result<(PackageKey, PackagePin), LockError> {
        let name = written.name.get_ref();
        let name_character =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        if name.is_empty() || !name.chars().all(name_character) {
            return Err(self.invalid(written.name.span(), "this is not a package name"));
        }
        let version = written.version.get_ref();
        let version_character = |c: char| c.is_ascii_alphanumeric() || ".+-~:".contains(c);
        if version.is_empty() || !version.chars().all(version_character) {
            return Err(self.invalid(written.version.span(), "this is not a package version"));
        }
        // The path is joined to a mirror's URL, so it must stay below it.
        let path = written.path.get_ref();
        let path_character = |c: char| c.is_ascii_alphanumeric() || "/.+-~_%:".contains(c);
        let stays_below = path.chars().all(path_character)
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !stays_below {
            return Err(self.invalid(
                written.path.span(),
                "this is not a path below an archive's root",
            ));
        }
        let key = PackageKey {
            name: written.name.into_inner(),
            version: written.version.into_inner(),
        };
        let pin = PackagePin {
            architecture: written.architecture,
            size_bytes: written.size,
            sha256: self.hex_digest(&written.sha256)?,
            path: written.path.into_inner(),
        };
        Ok((key, pin))
    }

    fn set(
        &self,
        written: WrittenSet,
        packages: &BTreeMap<PackageKey, PackagePin>,
    ) -> Result<(SetKey, Vec<PackageKey>), LockError> {
        let over = written.over.get_ref();
        if !(12..=64).contains(&over.len()) || !is_lower_hex(over) {
            return Err(self.invalid(
                written.over.span(),
                "this is not a hash of 12 to 64 hex digits",
            ));
        }
        let mut list = Vec::with_capacity(written.packages.len());
        for package in &written.packages {
            let Some((name, version)) = package.get_ref().split_once('=') else {
                return Err(self.invalid(package.span(), "this is not `name=version`"));
            };
            let key = PackageKey {
                name: name.to_owned(),
                version: version.to_owned(),
            };
            if !packages.contains_key(&key) {
                return Err(self.invalid(package.span(), "this is not among the suite's packages"));
            }
            list.push(key);
        }
        let key = SetKey {
            request: written.request,
            over: written.over.into_inner(),
        };
        Ok((key, list))
    }

    fn digest(&self, written: &Spanned<String>) -> Result<Digest, LockError> {
        let parsed = written.get_ref().parse::<Digest>();
        parsed.map_err(|error| self.invalid(written.span(), &error.to_string()))
    }

    fn hex_digest(&self, written: &Spanned<String>) -> Result<Digest, LockError> {
        Digest::from_hex(written.get_ref())
            .map_err(|error| self.invalid(written.span(), &error.to_string()))
    }

    fn toml_error(&self, error: &toml::de::Error) -> LockError {
        self.invalid(error.span().unwrap_or_default(), error.message())
    }

    fn invalid(&self, span: Range<usize>, reason: &str) -> LockError {
        LockError::Invalid {
            name: self.file_name.to_owned(),
            reason: reason.to_owned(),
            source_code: self.source(),
            at: span.into(),
        }
    }

    fn source(&self) -> SourceText {
        Arc::new(NamedSource::new(self.file_name, self.text.to_owned()))
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
