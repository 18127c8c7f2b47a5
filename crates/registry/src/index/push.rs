//! What clients change: blobs arrive, are mounted and let go; manifests come and are deleted.
//!
//! Every reference to a blob is made in the transaction that has looked at, and touched, the live
//! row of that blob. Garbage collection takes a row from live to deleting in such a transaction too
//! ([`super::sweep`]), so no reference can ever be to a copy that is going away.

use rusqlite::{OptionalExtension as _, params};

use super::change::{Change, ensure_repo, find_repo, has_manifest, link, tagged};
use super::{Batch, Index, IndexError, Seconds};
use crate::digest::Digest;
use crate::document::{ChildKind, Document};
use crate::name::{RepoName, Tag};

/// The most repositories that are looked at for a blob to mount.
const MOST_SOURCES: i64 = 200;

/// Whether the bytes of a commit are the ones that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// The copy that was handed in.
    New,
    /// There was one; the one handed in is not needed.
    Already,
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mounted {
    Yes,
    /// No repository that the caller may read has it.
    No,
}

/// How putting a manifest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PutManifest {
    Done,
    /// These are not in the repository; nothing was changed.
    Missing(Vec<Digest>),
}

/// How letting go of a blob ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeleteBlob {
    Done,
    Unknown,
    /// This manifest needs it.
    Needed(String),
}

/// How deleting a manifest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeleteManifest {
    Done,
    Unknown,
    /// This index needs it.
    Needed(String),
}

/// A manifest to be put.
#[derive(Clone, Debug)]
pub(crate) struct NewManifest {
    pub(crate) repo: RepoName,
    pub(crate) digest: Digest,
    pub(crate) document: Document,
    pub(crate) body: Vec<u8>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) by: String,
    /// Whether it may name what the repository does not have.
    pub(crate) may_miss: bool,
}

impl Index {
    /// Gives a repository a blob whose bytes are on disk under `key`.
    pub(crate) async fn commit_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        key: String,
        now: Seconds,
    ) -> Result<Stored, IndexError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.write(move |batch| {
            let db = batch.connection;
            let stored = if touch(batch, &digest, now)? {
                Stored::Already
            } else {
                db.prepare_cached(
                    "INSERT INTO blob (key, digest, size, touched_at, created_at) VALUES (?1, ?2, ?3, ?4, ?4)",
                )?
                .execute(params![key, digest.as_str(), i64::try_from(size).unwrap_or(i64::MAX), now])?;
                Stored::New
            };
            give(batch, &repo, &digest, now)?;
            Ok(stored)
        })
        .await
    }

    /// Gives a repository a blob that the registry has; `false` if it has not.
    pub(crate) async fn link_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        now: Seconds,
    ) -> Result<bool, IndexError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.write(move |batch| {
            if !touch(batch, &digest, now)? {
                return Ok(false);
            }
            give(batch, &repo, &digest, now)?;
            Ok(true)
        })
        .await
    }

    /// Gives a repository a blob of another one: of `from`, or of any that the caller may read.
    pub(crate) async fn mount(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: Option<&RepoName>,
        may_read: impl Fn(&str) -> bool + Send + 'static,
        now: Seconds,
    ) -> Result<Mounted, IndexError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        let from = from.map(|from| from.as_str().to_owned());
        self.write(move |batch| {
            let db = batch.connection;
            let mut statement = db.prepare_cached(
                "SELECT repo.name FROM link JOIN repo ON repo.id = link.repo
                 WHERE link.digest = ?1 AND (?2 IS NULL OR repo.name = ?2) LIMIT ?3",
            )?;
            let sources: Vec<String> = statement
                .query_map(params![digest.as_str(), from, MOST_SOURCES], |row| {
                    row.get(0)
                })?
                .collect::<Result<_, _>>()?;
            if !sources.iter().any(|source| may_read(source)) || !touch(batch, &digest, now)? {
                return Ok(Mounted::No);
            }
            give(batch, &repo, &digest, now)?;
            Ok(Mounted::Yes)
        })
        .await
    }

    /// Notes that a client was told that a repository has a blob, and may rely on it for a while.
    pub(crate) async fn renew_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        now: Seconds,
    ) -> Result<bool, IndexError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.write(move |batch| {
            let db = batch.connection;
            let Some(repo) = find_repo(db, repo.as_str())? else {
                return Ok(false);
            };
            let linked = db
                .prepare_cached("UPDATE link SET at = max(at, ?3) WHERE repo = ?1 AND digest = ?2")?
                .execute(params![repo, digest.as_str(), now])?;
            Ok(linked > 0 && touch(batch, &digest, now)?)
        })
        .await
    }

    /// Puts a manifest and points tags at it.
    pub(crate) async fn put_manifest(
        &self,
        new: NewManifest,
        now: Seconds,
    ) -> Result<PutManifest, IndexError> {
        self.write(move |batch| {
            let missing = missing_children(batch, &new, now)?;
            if !missing.is_empty() && !new.may_miss {
                return Ok(PutManifest::Missing(missing));
            }
            batch.change(Change::Manifest {
                repo: new.repo.as_str().to_owned(),
                digest: new.digest.as_str().to_owned(),
                media_type: new.document.media_type,
                body: new.body,
                tags: new.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
                at: now,
                by: new.by,
            })?;
            Ok(PutManifest::Done)
        })
        .await
    }

    /// Moves a tag to the trash; `false` if there is none.
    pub(crate) async fn untag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        by: &str,
        now: Seconds,
    ) -> Result<bool, IndexError> {
        let (repo, tag, by) = (
            repo.as_str().to_owned(),
            tag.as_str().to_owned(),
            by.to_owned(),
        );
        self.write(move |batch| {
            let Some(id) = find_repo(batch.connection, &repo)? else {
                return Ok(false);
            };
            if tagged(batch.connection, id, &tag)?.is_none() {
                return Ok(false);
            }
            batch.change(Change::Untag {
                repo,
                tag,
                at: now,
                by,
            })?;
            Ok(true)
        })
        .await
    }

    /// Moves a manifest and its tags to the trash.
    pub(crate) async fn delete_manifest(
        &self,
        repo: &RepoName,
        digest: &Digest,
        by: &str,
        now: Seconds,
    ) -> Result<DeleteManifest, IndexError> {
        let (repo, by) = (repo.as_str().to_owned(), by.to_owned());
        let digest = digest.as_str().to_owned();
        self.write(move |batch| {
            let db = batch.connection;
            let Some(id) = find_repo(db, &repo)? else {
                return Ok(DeleteManifest::Unknown);
            };
            if !has_manifest(db, id, &digest)? {
                return Ok(DeleteManifest::Unknown);
            }
            if let Some(parent) = needed_by(batch, id, &digest, 1)? {
                return Ok(DeleteManifest::Needed(parent));
            }
            batch.change(Change::Delete {
                repo,
                digest,
                at: now,
                by,
            })?;
            Ok(DeleteManifest::Done)
        })
        .await
    }

    /// Takes a blob from a repository that no manifest of it needs.
    pub(crate) async fn delete_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        now: Seconds,
    ) -> Result<DeleteBlob, IndexError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.write(move |batch| {
            let db = batch.connection;
            let Some(repo) = find_repo(db, repo.as_str())? else {
                return Ok(DeleteBlob::Unknown);
            };
            if let Some(parent) = needed_by(batch, repo, digest.as_str(), 0)? {
                return Ok(DeleteBlob::Needed(parent));
            }
            let gone = db
                .prepare_cached("DELETE FROM link WHERE repo = ?1 AND digest = ?2")?
                .execute(params![repo, digest.as_str()])?;
            if gone == 0 {
                return Ok(DeleteBlob::Unknown);
            }
            batch.replaces();
            review(batch, 0, &digest, now)?;
            Ok(DeleteBlob::Done)
        })
        .await
    }
}

/// Says that a blob is relied on; `false` if no live copy of it is there.
fn touch(batch: &Batch<'_>, digest: &Digest, now: Seconds) -> Result<bool, IndexError> {
    let mut statement = batch.connection.prepare_cached(
        "UPDATE blob SET touched_at = max(touched_at, ?2) WHERE digest = ?1 AND deleting = 0",
    )?;
    Ok(statement.execute(params![digest.as_str(), now])? > 0)
}

/// Lets a repository have a blob of which there is a live copy.
fn give(
    batch: &Batch<'_>,
    repo: &RepoName,
    digest: &Digest,
    now: Seconds,
) -> Result<(), IndexError> {
    let repo = ensure_repo(batch.connection, repo.as_str(), now)?;
    link(batch.connection, repo, digest.as_str(), now)?;
    review(batch, repo, digest, now)
}

/// Asks garbage collection to look at a blob one day.
fn review(batch: &Batch<'_>, repo: i64, digest: &Digest, at: Seconds) -> Result<(), IndexError> {
    batch
        .connection
        .prepare_cached("INSERT OR REPLACE INTO review (repo, digest, at) VALUES (?1, ?2, ?3)")?
        .execute(params![repo, digest.as_str(), at])?;
    Ok(())
}

/// Touches what a manifest needs, in the order of digests, and says what of it is missing.
fn missing_children(
    batch: &Batch<'_>,
    new: &NewManifest,
    now: Seconds,
) -> Result<Vec<Digest>, IndexError> {
    let repo = find_repo(batch.connection, new.repo.as_str())?;
    let mut missing = Vec::new();
    for child in &new.document.children {
        let digest = child.digest.as_str();
        let is_there = match (repo, child.kind) {
            (None, _) => false,
            (Some(repo), ChildKind::Manifest) => has_manifest(batch.connection, repo, digest)?,
            (Some(repo), ChildKind::Blob) => has_blob(batch, repo, &child.digest, now)?,
            (Some(repo), ChildKind::Either) => {
                has_manifest(batch.connection, repo, digest)?
                    || has_blob(batch, repo, &child.digest, now)?
            }
        };
        if !is_there {
            missing.push(child.digest.clone());
        }
    }
    Ok(missing)
}

fn has_blob(
    batch: &Batch<'_>,
    repo: i64,
    digest: &Digest,
    now: Seconds,
) -> Result<bool, IndexError> {
    let mut statement = batch
        .connection
        .prepare_cached("SELECT 1 FROM link WHERE repo = ?1 AND digest = ?2")?;
    // What another repository has is not this one's: else its name would be enough to read it.
    Ok(statement.exists(params![repo, digest.as_str()])? && touch(batch, digest, now)?)
}

/// A manifest that is not in the trash and needs this one or this blob.
fn needed_by(
    batch: &Batch<'_>,
    repo: i64,
    child: &str,
    kind: i64,
) -> Result<Option<String>, IndexError> {
    let mut statement = batch.connection.prepare_cached(
        "SELECT ref.parent FROM ref JOIN manifest m ON m.repo = ref.repo AND m.digest = ref.parent
         WHERE ref.child = ?2 AND ref.repo = ?1 AND ref.kind = ?3 AND m.deleted_at IS NULL LIMIT 1",
    )?;
    Ok(statement
        .query_row(params![repo, child, kind], |row| row.get(0))
        .optional()?)
}
