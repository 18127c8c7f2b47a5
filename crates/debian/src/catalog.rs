//! All packages of a suite: the verified indexes of its archives, taken together.
//!
//! ```text
//! for each archive of the set, at once
//!   dists/<suite>/InRelease ─verify→ Release ─digest→ Packages.xz ─verify→ Index  (or from the cache)
//! ```

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::thread;

use jiff::Timestamp;
use kiln_oci::Digest;

use crate::compression::Compression;
use crate::fetch::{FetchError, Outside};
use crate::index::{Index, IndexError, Package, Parser};
use crate::keyring::Keyring;
use crate::lock::{LockedPackage, SnapshotTime};
use crate::release::{RELEASE_BYTES, Release, ReleaseError, ReleaseFile};
use crate::sources::{Archive, ArchiveSet};
use crate::{Architecture, version};

/// Largest compressed index read, in bytes.
const COMPRESSED_BYTES: u64 = 256 << 20;

/// How much of an index is unpacked at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Size of an xz index, in bytes, from which the gzip one is read instead: a third larger, and unpacked five times
/// faster. Together they take less time from some 60 Mbit/s on.
const GZIP_FROM_BYTES: u64 = 2 << 20;

/// The packages of a suite, for one architecture.
#[derive(Debug, Clone)]
pub struct Catalog {
    suite: String,
    architecture: Architecture,
    date: SnapshotTime,
    indexes: Vec<Index>,
}

/// Why the packages of a suite cannot be known.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum CatalogError {
    /// No mirror has the suite.
    #[error("there is no Debian suite `{suite}` at {}", tried(mirrors))]
    UnknownSuite {
        /// The suite.
        suite: String,
        /// The mirrors asked.
        mirrors: Vec<String>,
    },
    /// The suite has no packages of this component for this architecture.
    #[error(
        "the suite `{suite}` has no component `{component}` for the architecture `{architecture}`"
    )]
    NoIndex {
        /// The suite.
        suite: String,
        /// The component.
        component: String,
        /// The architecture.
        architecture: Architecture,
    },
    /// A file could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The signed list of files cannot be trusted.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// An index is not the one that was signed.
    #[error(
        "`{url}` is not the file that `InRelease` lists (sha256:{expected}): the mirror is being updated, try again; or it is damaged"
    )]
    WrongIndex {
        /// Where it came from.
        url: String,
        /// The digest it must have, in hex.
        expected: String,
    },
    /// An index cannot be unpacked.
    #[error("`{url}` cannot be unpacked")]
    Unpack {
        /// Where it came from.
        url: String,
        /// What the decoder says.
        #[source]
        source: io::Error,
    },
    /// An index does not say what it must.
    #[error("`{url}` cannot be used")]
    Index {
        /// Where it came from.
        url: String,
        /// What is wrong.
        #[source]
        source: IndexError,
    },
    /// The folder for parsed indexes cannot be used.
    #[error("cannot use the cache file `{}`", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
}

fn tried(mirrors: &[String]) -> String {
    let quoted: Vec<String> = mirrors.iter().map(|mirror| format!("`{mirror}`")).collect();
    quoted.join(" or ")
}

/// What all archives of a set are read with.
struct Reader<'a> {
    components: &'a [String],
    architecture: Architecture,
    keyring: &'a Keyring,
    outside: Outside<'a>,
    cache: Option<&'a Path>,
    now: Timestamp,
}

impl Catalog {
    /// Reads the packages of `set`. Blocks on the network.
    ///
    /// Parsed indexes are kept in the folder `cache`, by the digest of what they were parsed from.
    /// Time limits in signed files are judged by `now`, or by the moment the set is frozen at.
    ///
    /// # Errors
    /// [`CatalogError`], with the address.
    pub fn open(
        set: &ArchiveSet,
        architecture: Architecture,
        keyring: &Keyring,
        outside: Outside<'_>,
        cache: Option<&Path>,
        now: Timestamp,
    ) -> Result<Self, CatalogError> {
        let reader = Reader {
            components: &set.components,
            architecture,
            keyring,
            outside,
            cache,
            now: set.frozen_at.map_or(now, SnapshotTime::timestamp),
        };
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = set
                .archives
                .iter()
                .map(|archive| scope.spawn(|| reader.archive(archive)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("reading an archive does not panic"))
                .collect()
        });
        let mut catalog = Self {
            suite: set.suite.clone(),
            architecture,
            date: SnapshotTime::from(Timestamp::UNIX_EPOCH),
            indexes: Vec::new(),
        };
        for result in results {
            if let Some((release, indexes)) = result? {
                catalog.date = catalog.date.max(SnapshotTime::from(release.date));
                catalog.indexes.extend(indexes);
            }
        }
        Ok(catalog)
    }

    /// Makes a catalog of indexes that were read otherwise.
    pub fn from_indexes(
        suite: &str,
        architecture: Architecture,
        date: SnapshotTime,
        indexes: Vec<Index>,
    ) -> Self {
        Self {
            suite: suite.to_owned(),
            architecture,
            date,
            indexes,
        }
    }

    /// Returns the suite, as it was asked for.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// Returns the architecture.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Returns the date of the newest signed index in it.
    pub fn date(&self) -> SnapshotTime {
        self.date
    }

    /// Returns all packages, in no order that means anything.
    pub fn packages(&self) -> impl Iterator<Item = Package<'_>> {
        self.indexes.iter().flat_map(Index::packages)
    }

    /// Returns the versions of a package, newest first, each once.
    pub fn versions(&self, name: &str) -> Vec<Package<'_>> {
        let mut found: Vec<Package<'_>> = self
            .indexes
            .iter()
            .flat_map(|index| index.by_name(name))
            .filter(|package| self.fits(package))
            .collect();
        found.sort_by(|one, other| other.compare_version(one));
        found.dedup_by(|one, other| one.compare_version(other).is_eq());
        found
    }

    /// Returns the packages that provide `name`, by their names, with the version they provide; of
    /// each only the newest version.
    pub fn providers(&self, name: &str) -> Vec<(Package<'_>, Option<&str>)> {
        let mut newest: BTreeMap<&str, (Package<'_>, Option<&str>)> = BTreeMap::new();
        for (package, provided) in self.indexes.iter().flat_map(|index| index.providers(name)) {
            if !self.fits(&package) {
                continue;
            }
            let known = newest.entry(package.name()).or_insert((package, provided));
            if version::compare(package.version(), known.0.version()).is_gt() {
                *known = (package, provided);
            }
        }
        newest.retain(|name, (package, _)| {
            let versions = self.versions(name);
            versions
                .first()
                .is_some_and(|first| first.compare_version(package).is_eq())
        });
        newest.into_values().collect()
    }

    fn fits(&self, package: &Package<'_>) -> bool {
        let architecture = package.architecture();
        architecture == "all" || architecture == self.architecture.name()
    }
}

impl Package<'_> {
    /// Returns what the lock file keeps of this package.
    pub fn locked(&self) -> LockedPackage {
        LockedPackage {
            name: self.name().to_owned(),
            version: self.version().to_owned(),
            architecture: self.architecture().to_owned(),
            size_bytes: self.size_bytes(),
            sha256: self.sha256(),
            path: self.path().to_owned(),
        }
    }
}

impl Reader<'_> {
    /// Reads one archive; `None` if it does not exist and need not.
    fn archive(&self, archive: &Archive) -> Result<Option<(Release, Vec<Index>)>, CatalogError> {
        let mut last_error = None;
        for mirror in &archive.mirrors {
            let base = format!("{mirror}/dists/{}", archive.suite);
            let url = format!("{base}/InRelease");
            match self.outside.read(&url, RELEASE_BYTES) {
                Ok(bytes) => {
                    let release =
                        Release::verify(&url, &bytes, &archive.suite, self.keyring, self.now)?;
                    let indexes = self.indexes(archive, &base, &release)?;
                    return Ok(Some((release, indexes)));
                }
                Err(FetchError::NotFound { .. }) => {}
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) => Err(error.into()),
            None if archive.required => Err(CatalogError::UnknownSuite {
                suite: archive.suite.clone(),
                mirrors: archive.mirrors.clone(),
            }),
            None => Ok(None),
        }
    }

    fn indexes(
        &self,
        archive: &Archive,
        base: &str,
        release: &Release,
    ) -> Result<Vec<Index>, CatalogError> {
        let own = self.architecture.name();
        let mut indexes = Vec::new();
        for component in self.components {
            let mut architectures = vec![own];
            if !release.all_in_each && release.architectures.iter().any(|name| name == "all") {
                architectures.push("all");
            }
            let mut found = false;
            for architecture in architectures {
                let path = format!("{component}/binary-{architecture}/Packages");
                if let Some(index) = self.index(base, release, &path)? {
                    found = true;
                    indexes.push(index);
                }
            }
            if !found && archive.required {
                return Err(CatalogError::NoIndex {
                    suite: archive.suite.clone(),
                    component: component.clone(),
                    architecture: self.architecture,
                });
            }
        }
        Ok(indexes)
    }

    /// Reads one index; `None` if the release lists none of this name.
    fn index(
        &self,
        base: &str,
        release: &Release,
        path: &str,
    ) -> Result<Option<Index>, CatalogError> {
        let mut missing = None;
        for (extension, file) in candidates(release, path) {
            match self.read_index(base, release, path, extension, file) {
                // Releases list files that no mirror has.
                Err(CatalogError::Fetch(error @ FetchError::NotFound { .. })) => {
                    missing.get_or_insert(error);
                }
                result => return result.map(Some),
            }
        }
        missing.map_or(Ok(None), |error| Err(error.into()))
    }

    /// Reads one file that the release lists.
    fn read_index(
        &self,
        base: &str,
        release: &Release,
        path: &str,
        extension: &str,
        file: ReleaseFile,
    ) -> Result<Index, CatalogError> {
        let cached = self
            .cache
            .map(|folder| folder.join(format!("packages-{}", file.sha256.hex())));
        let cache_error = |path: &Path| {
            let path = path.to_owned();
            |source| CatalogError::Cache { path, source }
        };
        if let Some(cached) = &cached
            && let Some(index) = Index::load(cached).map_err(cache_error(cached))?
        {
            return Ok(index);
        }
        let (url, compressed) = self.index_file(base, release, path, extension, file)?;
        let index = parse(&url, extension, compressed)?;
        if let Some(cached) = &cached {
            index.save(cached).map_err(cache_error(cached))?;
        }
        Ok(index)
    }

    /// Gets one file that the release lists, by its digest where the mirror can do that.
    fn index_file(
        &self,
        base: &str,
        release: &Release,
        path: &str,
        extension: &str,
        file: ReleaseFile,
    ) -> Result<(String, Vec<u8>), CatalogError> {
        let plain = format!("{base}/{path}{extension}");
        let mut urls = Vec::new();
        if release.by_hash
            && let Some((folder, _)) = path.rsplit_once('/')
        {
            urls.push(format!(
                "{base}/{folder}/by-hash/SHA256/{}",
                file.sha256.hex()
            ));
        }
        urls.push(plain.clone());
        let limit = file.size_bytes.min(COMPRESSED_BYTES);
        let progress = self.outside.progress;
        progress.download_started(&plain, file.size_bytes);
        let mut last_error = None;
        for url in urls {
            match self.outside.read(&url, limit) {
                Ok(bytes)
                    if bytes.len() as u64 == file.size_bytes
                        && Digest::of(&bytes) == file.sha256 =>
                {
                    progress.download_finished(&plain);
                    return Ok((url, bytes));
                }
                Ok(_other_bytes) => {
                    return Err(CatalogError::WrongIndex {
                        url,
                        expected: file.sha256.hex(),
                    });
                }
                Err(error) => last_error = Some(error),
            }
        }
        Err(last_error.expect("there is at least one address").into())
    }
}

/// Returns the files that the release lists for an index, by what comes behind its path, the best first.
fn candidates(release: &Release, path: &str) -> Vec<(&'static str, ReleaseFile)> {
    let listed = |extension: &'static str| {
        let file = release.files.get(&format!("{path}{extension}"))?;
        Some((extension, *file))
    };
    let mut files: Vec<_> = [".xz", ".gz", ""].into_iter().filter_map(listed).collect();
    if let [(".xz", xz), (".gz", _), ..] = files[..]
        && xz.size_bytes >= GZIP_FROM_BYTES
    {
        files.swap(0, 1);
    }
    files
}

/// Reads an index whose digest is right, while it is unpacked.
fn parse(url: &str, extension: &str, compressed: Vec<u8>) -> Result<Index, CatalogError> {
    let unpack_error = |source| CatalogError::Unpack {
        url: url.to_owned(),
        source,
    };
    let index_error = |source| CatalogError::Index {
        url: url.to_owned(),
        source,
    };
    let mut text = unpacked(extension, compressed).map_err(unpack_error)?;
    let mut parser = Parser::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match text.read(&mut piece) {
            Ok(0) => return parser.finish().map_err(index_error),
            Ok(length) => parser.add(&piece[..length]).map_err(index_error)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unpack_error(error)),
        }
    }
}

fn unpacked(extension: &str, compressed: Vec<u8>) -> io::Result<Box<dyn Read + Send>> {
    let compression = Compression::of_extension(extension)
        .ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    let compressed = Cursor::new(compressed);
    if compression == Compression::Xz {
        // Debian's largest index comes in blocks, which can be unpacked at the same time.
        let workers = thread::available_parallelism().map_or(1, |count| count.get().min(4));
        let workers = u32::try_from(workers).expect("at most four");
        let reader = lzma_rust2::XzReaderMt::new(compressed, true, workers)?;
        return Ok(Box::new(reader));
    }
    if extension.is_empty() {
        return Ok(Box::new(compressed));
    }
    compression.reader(compressed)
}
