//! What clients bring: blobs arrive and are mounted, manifests come.
//!
//! Every reference to a blob is made in the transaction that has looked at, and touched, the live
//! row of that blob. Garbage collection takes a row from live to deleting in such a transaction too
//! ([`super::sweep`]), so no reference can ever be to a copy that is going away.
//!
//! Where transactions run beside each other they take rows in this order: the repository's, those
//! of blobs by their digests, then links, references and reviews. Whoever changes tags or manifests
//! has the repository's row for itself, so what is read after that stays true.

use super::change::{Change, ensure_repo, find_repo, has_manifest, is_awaited, link, own_repo};
use super::db::{Lock, together, values};
use super::uploads::{Claim, end};
use super::{Batch, Index, IndexError, Job, Seconds};
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
    /// Somebody else goes on with the upload; nothing was changed.
    Lost,
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
    /// Gives a repository a blob whose bytes are durable under `key`, and ends the upload it came by.
    pub(crate) async fn commit_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        size: u64,
        key: String,
        upload: Option<Claim>,
        now: Seconds,
    ) -> Result<Stored, IndexError> {
        let (repo, digest) = (repo.clone(), digest.clone());
        self.write(CommitBlob {
            repo,
            digest,
            size,
            key,
            upload,
            now,
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
        self.write(LinkBlob { repo, digest, now }).await
    }

    /// Gives a repository a blob of another one: of `from`, or of any that the caller may read.
    pub(crate) async fn mount(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: Option<&RepoName>,
        may_read: impl Fn(&str) -> bool + Send + Sync + 'static,
        now: Seconds,
    ) -> Result<Mounted, IndexError> {
        self.write(Mount {
            repo: repo.clone(),
            digest: digest.clone(),
            from: from.cloned(),
            may_read,
            now,
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
        self.write(RenewBlob { repo, digest, now }).await
    }

    /// Puts a manifest and points tags at it.
    pub(crate) async fn put_manifest(
        &self,
        new: NewManifest,
        now: Seconds,
    ) -> Result<PutManifest, IndexError> {
        self.write(PutJob { new, now }).await
    }
}

struct CommitBlob {
    repo: RepoName,
    digest: Digest,
    size: u64,
    key: String,
    upload: Option<Claim>,
    now: Seconds,
}

impl Job for CommitBlob {
    type Output = Stored;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<Stored, IndexError> {
        if let Some(upload) = &self.upload
            && !end(batch.db, upload).await?
        {
            // It may be this very commit that ended it, made once more because nobody heard of the first time.
            let sql = "SELECT 1 FROM blob WHERE key = ?1 AND deleting = 0";
            let is_done = batch.db.exists(sql, values![&self.key]).await?;
            return Ok(if is_done { Stored::New } else { Stored::Lost });
        }
        let repo = ensure_repo(batch.db, self.repo.as_str(), Lock::Share, self.now).await?;
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        // One statement, because another commit of the same bytes may be under way.
        let row = batch
            .db
            .row(
                "INSERT INTO blob (key, digest, size, touched_at, created_at) VALUES (?1, ?2, ?3, ?4, ?4)
                 ON CONFLICT (digest) WHERE deleting = 0 DO UPDATE SET touched_at = CASE
                     WHEN blob.touched_at < excluded.touched_at THEN excluded.touched_at ELSE blob.touched_at END
                 RETURNING key",
                values![&self.key, self.digest.as_str(), size, self.now],
            )
            .await?;
        let live = row.map(|mut row| row.text(0)).transpose()?;
        give(batch, repo, &self.repo, &self.digest, self.now).await?;
        Ok(if live.as_ref() == Some(&self.key) {
            Stored::New
        } else {
            Stored::Already
        })
    }
}

struct LinkBlob {
    repo: RepoName,
    digest: Digest,
    now: Seconds,
}

impl Job for LinkBlob {
    type Output = bool;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<bool, IndexError> {
        if !touch(batch, &self.digest, self.now).await? {
            return Ok(false);
        }
        let repo = ensure_repo(batch.db, self.repo.as_str(), Lock::Share, self.now).await?;
        give(batch, repo, &self.repo, &self.digest, self.now).await?;
        Ok(true)
    }
}

struct Mount<F> {
    repo: RepoName,
    digest: Digest,
    from: Option<RepoName>,
    may_read: F,
    now: Seconds,
}

impl<F: Fn(&str) -> bool + Send + Sync + 'static> Job for Mount<F> {
    type Output = Mounted;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<Mounted, IndexError> {
        let from = self.from.as_ref().map(RepoName::as_str);
        let rows = batch
            .db
            .rows(
                "SELECT repo.name FROM link JOIN repo ON repo.id = link.repo
                 WHERE link.digest = ?1 AND (CAST(?2 AS TEXT) IS NULL OR repo.name = ?2) LIMIT ?3",
                values![self.digest.as_str(), from, MOST_SOURCES],
            )
            .await?;
        let mut may_read = false;
        for mut row in rows {
            may_read |= (self.may_read)(&row.text(0)?);
        }
        if !may_read || !touch(batch, &self.digest, self.now).await? {
            return Ok(Mounted::No);
        }
        let repo = ensure_repo(batch.db, self.repo.as_str(), Lock::Share, self.now).await?;
        give(batch, repo, &self.repo, &self.digest, self.now).await?;
        Ok(Mounted::Yes)
    }
}

struct RenewBlob {
    repo: RepoName,
    digest: Digest,
    now: Seconds,
}

impl Job for RenewBlob {
    type Output = bool;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<bool, IndexError> {
        let Some(repo) = find_repo(batch.db, self.repo.as_str()).await? else {
            return Ok(false);
        };
        if !touch(batch, &self.digest, self.now).await? {
            return Ok(false);
        }
        let linked = batch
            .db
            .execute(
                "UPDATE link SET at = CASE WHEN at < ?3 THEN ?3 ELSE at END WHERE repo = ?1 AND digest = ?2",
                values![repo, self.digest.as_str(), self.now],
            )
            .await?;
        Ok(linked > 0)
    }
}

struct PutJob {
    new: NewManifest,
    now: Seconds,
}

impl Job for PutJob {
    type Output = PutManifest;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<PutManifest, IndexError> {
        let new = &self.new;
        let repo = own_repo(batch.db, new.repo.as_str()).await?;
        let missing = missing_children(batch, repo, new, self.now).await?;
        if !missing.is_empty() && !new.may_miss {
            return Ok(PutManifest::Missing(missing));
        }
        batch
            .change(Change::Manifest {
                repo: new.repo.as_str().to_owned(),
                digest: new.digest.as_str().to_owned(),
                media_type: new.document.media_type.clone(),
                body: new.body.clone(),
                tags: new.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
                at: self.now,
                by: new.by.clone(),
                missing: missing.iter().map(ToString::to_string).collect(),
            })
            .await?;
        Ok(PutManifest::Done)
    }
}

/// Says that a blob is relied on; `false` if no live copy of it is there.
async fn touch(batch: &Batch<'_>, digest: &Digest, now: Seconds) -> Result<bool, IndexError> {
    let touched = batch
        .db
        .execute(
            "UPDATE blob SET touched_at = CASE WHEN touched_at < ?2 THEN ?2 ELSE touched_at END
             WHERE digest = ?1 AND deleting = 0",
            values![digest.as_str(), now],
        )
        .await?;
    Ok(touched > 0)
}

/// Lets a repository have a blob of which there is a live copy.
async fn give(
    batch: &mut Batch<'_>,
    id: i64,
    repo: &RepoName,
    digest: &Digest,
    now: Seconds,
) -> Result<(), IndexError> {
    if is_awaited(batch.db, id, digest.as_str()).await? {
        let change = Change::Blob {
            repo: repo.as_str().to_owned(),
            digest: digest.as_str().to_owned(),
            at: now,
        };
        batch.change(change).await?;
    } else {
        link(batch.db, id, digest.as_str(), now).await?;
    }
    review(batch, id, digest, now).await
}

/// Asks garbage collection to look at a blob one day.
pub(super) async fn review(
    batch: &Batch<'_>,
    repo: i64,
    digest: &Digest,
    at: Seconds,
) -> Result<(), IndexError> {
    batch
        .db
        .execute(
            "INSERT INTO review (repo, digest, at) VALUES (?1, ?2, ?3)
             ON CONFLICT (repo, digest) DO UPDATE SET at = excluded.at",
            values![repo, digest.as_str(), at],
        )
        .await?;
    Ok(())
}

/// Touches what a manifest needs, in the order of digests, and says what of it is missing.
async fn missing_children(
    batch: &Batch<'_>,
    repo: Option<i64>,
    new: &NewManifest,
    now: Seconds,
) -> Result<Vec<Digest>, IndexError> {
    let children = &new.document.children;
    let are_there = together(children.iter().map(async |child| {
        let digest = child.digest.as_str();
        match (repo, child.kind) {
            (None, _) => Ok(false),
            (Some(repo), ChildKind::Manifest) => has_manifest(batch.db, repo, digest).await,
            (Some(repo), ChildKind::Blob) => has_blob(batch, repo, digest, now).await,
            (Some(repo), ChildKind::Either) => Ok(has_manifest(batch.db, repo, digest).await?
                || has_blob(batch, repo, digest, now).await?),
        }
    }))
    .await?;
    let missing = children.iter().zip(are_there).filter(|(_, there)| !there);
    Ok(missing.map(|(child, _)| child.digest.clone()).collect())
}

/// Says that a blob is relied on which a repository has; `false` if it has not, or no live copy is there.
async fn has_blob(
    batch: &Batch<'_>,
    repo: i64,
    digest: &str,
    now: Seconds,
) -> Result<bool, IndexError> {
    // What another repository has is not this one's: else its name would be enough to read it.
    let touched = batch
        .db
        .execute(
            "UPDATE blob SET touched_at = CASE WHEN touched_at < ?2 THEN ?2 ELSE touched_at END
             WHERE digest = ?1 AND deleting = 0
                 AND EXISTS (SELECT 1 FROM link WHERE repo = ?3 AND digest = ?1)",
            values![digest, now, repo],
        )
        .await?;
    Ok(touched > 0)
}
