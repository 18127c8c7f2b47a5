//! `kiln.lock` during a build: what is pinned, what may be resolved, and what was used.
//!
//! Pins are looked up by many steps at once. What is missing is resolved by whoever needs it and
//! pinned here; the file is written once, at the end, and only if something changed.

mod ahead;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_manifest::lock::{
    GitKey, ImagePin, Lock, LockError, PackageKey, SetKey, SuiteKey, SuitePin, UrlPin,
};
use kiln_oci::Digest;

/// The largest `kiln.lock` that is read, in bytes.
const LIMIT_BYTES: u64 = 64 * 1024 * 1024;

/// What may be done about a missing pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockPolicy {
    /// It is resolved and written.
    Update,
    /// It is an error: `--locked`.
    Locked,
    /// It is an error, since nothing is to be changed or asked.
    LookOnly,
    /// Pins are resolved anew, those of these names or all if there are none: `kiln lock --update`.
    Refresh(BTreeSet<String>),
}

/// Trouble with `kiln.lock`.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[must_use]
pub enum LockFileError {
    /// It is not what kiln wrote.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Invalid(#[from] LockError),
    /// The system said no.
    #[error("cannot {doing} `{path}`: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not; part of the message.
        error: io::Error,
    },
    /// There are pins to be written, and the file cannot be. Nothing was built.
    #[error("cannot write `{path}`, where this build has to pin something: {error}")]
    #[diagnostic(help(
        "with `--locked` a build never writes it, and needs one that is complete: run `kiln lock` where the project can be \
         written, and commit `kiln.lock`"
    ))]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not; part of the message.
        error: io::Error,
    },
    /// A pin is missing and must not be resolved.
    #[error("`kiln.lock` has no entry for {what}, and `--locked` forbids adding one")]
    #[diagnostic(help(
        "run `kiln lock` and commit `kiln.lock`; where `CI` is set, `--locked` is the default"
    ))]
    Missing {
        /// What would have to be pinned, in words.
        what: String,
    },
    /// A pin is missing, and nothing is resolved now.
    #[error("`kiln.lock` has no entry for {what} yet: a build or `kiln lock` adds it")]
    Unpinned {
        /// What would have to be pinned, in words.
        what: String,
    },
}

/// The lock of one project, shared by the steps of a build.
#[derive(Debug)]
pub struct LockFile {
    path: PathBuf,
    policy: LockPolicy,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lock: Lock,
    /// The text of the file, `None` if there is none.
    written: Option<String>,
    used: Used,
    /// References that were resolved by this build.
    fresh: BTreeSet<String>,
}

/// Names of pins that this build looked at.
#[derive(Debug, Default)]
struct Used {
    /// References, with the platforms they were looked up for.
    images: BTreeSet<(String, String)>,
    sets: BTreeSet<(SuiteKey, SetKey)>,
    urls: BTreeSet<String>,
    git: BTreeSet<GitKey>,
}

impl Used {
    /// Drops every other pin.
    fn keep_in(&self, lock: &mut Lock) {
        for (name, pin) in &mut lock.images {
            let used = |platform: &String| self.images.contains(&(name.clone(), platform.clone()));
            pin.platforms.retain(|platform, _| used(platform));
        }
        lock.images.retain(|_, pin| !pin.platforms.is_empty());
        lock.urls.retain(|url, _| self.urls.contains(url));
        lock.git.retain(|key, _| self.git.contains(key));
        for (suite, pin) in &mut lock.debian {
            pin.sets
                .retain(|set, _| self.sets.contains(&(suite.clone(), set.clone())));
            let needed: BTreeSet<&PackageKey> = pin.sets.values().flatten().collect();
            pin.packages.retain(|package, _| needed.contains(package));
        }
        lock.debian.retain(|_, pin| !pin.sets.is_empty());
    }
}

impl LockFile {
    /// Reads the lock at `path`; a missing file is an empty lock.
    ///
    /// # Errors
    /// [`LockFileError::Invalid`] and [`LockFileError::Io`].
    pub fn open(path: &Path, policy: LockPolicy, layer_format: u32) -> Result<Self, LockFileError> {
        let io = |error| LockFileError::Io {
            doing: "read",
            path: path.to_owned(),
            error,
        };
        let written = match std::fs::File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                io::Read::take(file, LIMIT_BYTES)
                    .read_to_string_fully(&mut text)
                    .map_err(io)?;
                Some(text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        let lock = match &written {
            Some(text) => Lock::parse("kiln.lock", text)?,
            None => Lock::new(layer_format),
        };
        Ok(Self {
            path: path.to_owned(),
            policy,
            state: Mutex::new(State {
                lock,
                written,
                used: Used::default(),
                fresh: BTreeSet::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the pin of `name` is to be resolved anew although it may be there.
    ///
    /// Only the first time it is asked for in a build: `used` says whether that was before.
    fn refreshed(&self, names: &[&str], used: bool) -> bool {
        match &self.policy {
            LockPolicy::Refresh(wanted) => {
                !used && (wanted.is_empty() || names.iter().any(|name| wanted.contains(*name)))
            }
            LockPolicy::Update | LockPolicy::Locked | LockPolicy::LookOnly => false,
        }
    }

    /// Says that `what` is missing, if that is an error, as it is where it cannot be written.
    fn missing<T>(&self, what: impl FnOnce() -> String) -> Result<Option<T>, LockFileError> {
        match self.policy {
            LockPolicy::Locked => Err(LockFileError::Missing { what: what() }),
            LockPolicy::LookOnly => Err(LockFileError::Unpinned { what: what() }),
            LockPolicy::Update | LockPolicy::Refresh(_) => self.try_write().map(|()| None),
        }
    }

    /// Checks that the file can be replaced, as [`LockFile::save`] does it.
    ///
    /// # Errors
    /// [`LockFileError::Unwritable`].
    fn try_write(&self) -> Result<(), LockFileError> {
        let draft = self.draft().map_err(|error| LockFileError::Unwritable {
            path: self.path.clone(),
            error: plain(error),
        })?;
        drop(draft);
        Ok(())
    }

    /// Makes a file beside this one, which goes again unless it takes its place.
    fn draft(&self) -> io::Result<tempfile::NamedTempFile> {
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        tempfile::Builder::new()
            .prefix(".kiln.lock.")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
    }

    /// Returns the manifest pinned for `reference` (its full name) on `platform`.
    ///
    /// # Errors
    /// [`LockFileError::Missing`].
    pub fn image(
        &self,
        reference: &str,
        platform: &str,
    ) -> Result<Option<(Digest, Digest)>, LockFileError> {
        let mut state = self.state();
        let used = (reference.to_owned(), platform.to_owned());
        let used = !state.used.images.insert(used);
        if !self.refreshed(&[reference], used)
            && let Some(pin) = state.lock.images.get(reference)
            && let Some(manifest) = pin.platforms.get(platform)
        {
            return Ok(Some((pin.digest, *manifest)));
        }
        self.missing(|| format!("the image `{reference}` on {platform}"))
    }

    /// Returns the index that is pinned for other platforms of `reference`: by this build, or by an earlier one
    /// unless it is being resolved anew.
    pub fn pinned_index(&self, reference: &str, platform: &str) -> Option<Digest> {
        let state = self.state();
        let pin = state.lock.images.get(reference)?;
        let fresh = || state.fresh.contains(reference);
        let others = pin.platforms.keys().any(|pinned| pinned != platform);
        (others && (fresh() || !self.refreshed(&[reference], false))).then_some(pin.digest)
    }

    /// Pins `manifest` for `reference` on `platform`; `digest` is what the reference itself names.
    pub fn pin_image(&self, reference: &str, platform: &str, digest: Digest, manifest: Digest) {
        let mut state = self.state();
        let used = (reference.to_owned(), platform.to_owned());
        state.used.images.insert(used);
        let pin = state
            .lock
            .images
            .entry(reference.to_owned())
            .or_insert_with(|| ImagePin {
                digest,
                platforms: Default::default(),
            });
        if pin.digest != digest {
            pin.platforms.clear();
            pin.digest = digest;
        }
        pin.platforms.insert(platform.to_owned(), manifest);
        state.fresh.insert(reference.to_owned());
    }

    /// Returns the pin of a download.
    ///
    /// # Errors
    /// [`LockFileError::Missing`].
    pub fn url(&self, url: &str) -> Result<Option<UrlPin>, LockFileError> {
        let mut state = self.state();
        let used = !state.used.urls.insert(url.to_owned());
        if !self.refreshed(&[url], used)
            && let Some(pin) = state.lock.urls.get(url)
        {
            return Ok(Some(pin.clone()));
        }
        self.missing(|| format!("the download `{url}`"))
    }

    /// Pins a download.
    pub fn pin_url(&self, url: &str, pin: UrlPin) {
        let mut state = self.state();
        state.used.urls.insert(url.to_owned());
        state.lock.urls.insert(url.to_owned(), pin);
    }

    /// Returns the commit pinned for a reference of a repository.
    ///
    /// # Errors
    /// [`LockFileError::Missing`].
    pub fn commit(&self, key: &GitKey) -> Result<Option<String>, LockFileError> {
        let mut state = self.state();
        let used = !state.used.git.insert(key.clone());
        if !self.refreshed(&[&key.url], used)
            && let Some(commit) = state.lock.git.get(key)
        {
            return Ok(Some(commit.clone()));
        }
        self.missing(|| format!("`{}` of the repository `{}`", key.reference, key.url))
    }

    /// Pins a commit.
    pub fn pin_commit(&self, key: GitKey, commit: String) {
        let mut state = self.state();
        state.used.git.insert(key.clone());
        state.lock.git.insert(key, commit);
    }

    /// Returns everything pinned for a suite, if anything is, and whether `set` is among it.
    ///
    /// Where a suite is being refreshed its old pins are not seen until they are made anew.
    ///
    /// # Errors
    /// [`LockFileError::Missing`] if the set is not pinned.
    pub fn suite(&self, suite: &SuiteKey, set: &SetKey) -> Result<Option<SuitePin>, LockFileError> {
        let mut state = self.state();
        let first_of_suite = !state.used.sets.iter().any(|(used, _)| used == suite);
        state.used.sets.insert((suite.clone(), set.clone()));
        if self.refreshed(&[&suite.suite], !first_of_suite) {
            state.lock.debian.remove(suite);
        }
        let pin = state.lock.debian.get(suite).cloned();
        if pin.as_ref().is_some_and(|pin| pin.sets.contains_key(set)) {
            return Ok(pin);
        }
        let request: Vec<&str> = set.request.iter().map(String::as_str).collect();
        let what = || format!("the packages {} of `{}`", request.join(", "), suite.suite);
        Ok(self.missing(what)?.or(pin))
    }

    /// Pins a set of packages of a suite, as a whole new pin of the suite.
    ///
    /// Sets of the suite that other threads pinned meanwhile are kept.
    pub fn pin_suite(&self, suite: SuiteKey, pin: SuitePin) {
        let mut state = self.state();
        match state.lock.debian.get_mut(&suite) {
            None => {
                state.lock.debian.insert(suite, pin);
            }
            Some(known) => {
                known.snapshot = known.snapshot.clone().max(pin.snapshot);
                known.packages.extend(pin.packages);
                known.sets.extend(pin.sets);
            }
        }
    }

    /// Drops the pins that this build did not look at; for a build of everything in the file.
    pub fn prune(&self) {
        let mut state = self.state();
        let State { lock, used, .. } = &mut *state;
        used.keep_in(lock);
    }

    /// Returns the pins that were looked at.
    pub fn used(&self) -> Lock {
        let state = self.state();
        let mut lock = state.lock.clone();
        state.used.keep_in(&mut lock);
        lock
    }

    /// Writes the lock if it changed, all or nothing; returns whether it did.
    ///
    /// A lock without any pin is not written where there is no file, and none is where the policy forbids it.
    ///
    /// # Errors
    /// [`LockFileError::Io`]; the file is as it was.
    pub fn save(&self) -> Result<bool, LockFileError> {
        match self.policy {
            LockPolicy::Locked | LockPolicy::LookOnly => return Ok(false),
            LockPolicy::Update | LockPolicy::Refresh(_) => {}
        }
        let mut state = self.state();
        let text = state.lock.to_text();
        let empty = text == Lock::new(state.lock.layer_format).to_text();
        if state.written.as_deref() == Some(&text) || (state.written.is_none() && empty) {
            return Ok(false);
        }
        let io = |error| LockFileError::Io {
            doing: "write",
            path: self.path.clone(),
            error: plain(error),
        };
        let mut file = self.draft().map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&self.path).map_err(|error| io(error.error))?;
        state.written = Some(text);
        Ok(true)
    }
}

/// Reading a bounded file to its end, or failing.
trait ReadFully {
    fn read_to_string_fully(&mut self, text: &mut String) -> io::Result<()>;
}

impl<R: io::Read> ReadFully for io::Take<R> {
    fn read_to_string_fully(&mut self, text: &mut String) -> io::Result<()> {
        io::Read::read_to_string(self, text)?;
        if self.limit() == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }
}

/// What the system said, without the path of a temporary file, which `tempfile` puts behind it.
fn plain(error: io::Error) -> io::Error {
    match error.to_string().split_once(" at path ") {
        Some((said, _path)) => io::Error::new(error.kind(), said.to_owned()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin() -> UrlPin {
        UrlPin {
            sha256: digest(),
            size_bytes: 4,
        }
    }

    fn digest() -> Digest {
        Digest::of(b"four")
    }

    fn open(path: &Path, policy: LockPolicy) -> LockFile {
        LockFile::open(path, policy, 1).unwrap()
    }

    #[test]
    fn a_pin_is_written_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.lock");
        let lock = open(&path, LockPolicy::Update);
        assert!(!lock.save().unwrap() && !path.exists());
        assert!(lock.url("https://localhost/a").unwrap().is_none());
        lock.pin_url("https://localhost/a", pin());
        assert!(lock.save().unwrap());
        assert!(!lock.save().unwrap());
        let again = open(&path, LockPolicy::Locked);
        assert_eq!(again.url("https://localhost/a").unwrap(), Some(pin()));
        assert!(!again.save().unwrap());
        let error = again.url("https://localhost/b").unwrap_err();
        assert!(error.to_string().contains("https://localhost/b"), "{error}");
    }

    #[test]
    fn what_could_not_be_written_is_not_resolved() {
        let folder = tempfile::tempdir().unwrap();
        let lock = open(&folder.path().join("none/kiln.lock"), LockPolicy::Update);
        let error = lock.url("https://localhost/a").unwrap_err();
        assert!(matches!(error, LockFileError::Unwritable { .. }), "{error}");
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[test]
    fn a_refreshed_pin_is_missing_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.lock");
        let lock = open(&path, LockPolicy::Update);
        for url in ["https://localhost/a", "https://localhost/b"] {
            lock.pin_url(url, pin());
        }
        lock.save().unwrap();
        let only_a = BTreeSet::from(["https://localhost/a".to_owned()]);
        let lock = open(&path, LockPolicy::Refresh(only_a));
        assert!(lock.url("https://localhost/a").unwrap().is_none());
        lock.pin_url("https://localhost/a", pin());
        assert!(lock.url("https://localhost/a").unwrap().is_some());
        assert!(lock.url("https://localhost/b").unwrap().is_some());
    }

    #[test]
    fn a_lock_that_cannot_be_written_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/kiln.lock");
        let lock = open(&path, LockPolicy::Update);
        lock.pin_url("https://localhost/a", pin());
        let error = lock.save().unwrap_err();
        let said = format!(
            "cannot write `{}`: No such file or directory (os error 2)",
            path.display()
        );
        assert_eq!(error.to_string(), said);
        assert!(std::error::Error::source(&error).is_none());
    }

    #[test]
    fn pruning_keeps_what_was_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiln.lock");
        let lock = open(&path, LockPolicy::Update);
        lock.pin_url("https://localhost/a", pin());
        lock.pin_image("localhost/x:1", "linux/amd64", digest(), digest());
        lock.save().unwrap();
        for policy in [LockPolicy::Locked, LockPolicy::LookOnly] {
            let lock = open(&path, policy);
            lock.prune();
            assert!(!lock.save().unwrap(), "nothing may be written");
        }
        let lock = open(&path, LockPolicy::Update);
        lock.url("https://localhost/a").unwrap();
        lock.prune();
        assert!(lock.save().unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("localhost/a") && !text.contains("localhost/x"),
            "{text}"
        );
    }
}
