//! What clients take away: tags and manifests into the trash, blobs out of a repository.

use super::change::{Change, has_manifest, own_repo, tagged};
use super::db::{Lock, values};
use super::push::review;
use super::{Batch, Index, IndexError, Job, Seconds};
use crate::digest::Digest;
use crate::name::{RepoName, Tag};

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

impl Index {
    /// Moves a tag to the trash; `false` if there is none.
    pub(crate) async fn untag(
        &self,
        repo: &RepoName,
        tag: &Tag,
        by: &str,
        now: Seconds,
    ) -> Result<bool, IndexError> {
        self.write(Untag {
            repo: repo.clone(),
            tag: tag.clone(),
            by: by.to_owned(),
            now,
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
        self.write(DeleteManifestJob {
            repo: repo.clone(),
            digest: digest.clone(),
            by: by.to_owned(),
            now,
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
        self.write(DeleteBlobJob { repo, digest, now }).await
    }
}

struct Untag {
    repo: RepoName,
    tag: Tag,
    by: String,
    now: Seconds,
}

impl Job for Untag {
    type Output = bool;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<bool, IndexError> {
        let (repo, tag) = (self.repo.as_str(), self.tag.as_str());
        let Some(id) = own_repo(batch.db, repo).await? else {
            return Ok(false);
        };
        if tagged(batch.db, id, tag).await?.is_none() {
            return Ok(false);
        }
        batch
            .change(Change::Untag {
                repo: repo.to_owned(),
                tag: tag.to_owned(),
                at: self.now,
                by: self.by.clone(),
            })
            .await?;
        Ok(true)
    }
}

struct DeleteManifestJob {
    repo: RepoName,
    digest: Digest,
    by: String,
    now: Seconds,
}

impl Job for DeleteManifestJob {
    type Output = DeleteManifest;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<DeleteManifest, IndexError> {
        let (repo, digest) = (self.repo.as_str(), self.digest.as_str());
        let Some(id) = own_repo(batch.db, repo).await? else {
            return Ok(DeleteManifest::Unknown);
        };
        if !has_manifest(batch.db, id, digest).await? {
            return Ok(DeleteManifest::Unknown);
        }
        if let Some(parent) = needed_by(batch, id, digest, 1).await? {
            return Ok(DeleteManifest::Needed(parent));
        }
        batch
            .change(Change::Delete {
                repo: repo.to_owned(),
                digest: digest.to_owned(),
                at: self.now,
                by: self.by.clone(),
            })
            .await?;
        Ok(DeleteManifest::Done)
    }
}

struct DeleteBlobJob {
    repo: RepoName,
    digest: Digest,
    now: Seconds,
}

impl Job for DeleteBlobJob {
    type Output = DeleteBlob;

    async fn run(&self, batch: &mut Batch<'_>) -> Result<DeleteBlob, IndexError> {
        let digest = self.digest.as_str();
        let Some(repo) = own_repo(batch.db, self.repo.as_str()).await? else {
            return Ok(DeleteBlob::Unknown);
        };
        own_blob(batch, digest).await?;
        if let Some(parent) = needed_by(batch, repo, digest, 0).await? {
            return Ok(DeleteBlob::Needed(parent));
        }
        let gone = batch
            .db
            .execute(
                "DELETE FROM link WHERE repo = ?1 AND digest = ?2",
                values![repo, digest],
            )
            .await?;
        if gone == 0 {
            return Ok(DeleteBlob::Unknown);
        }
        batch.replaces(repo);
        review(batch, 0, &self.digest, self.now).await?;
        Ok(DeleteBlob::Done)
    }
}

/// Takes the live copy of a blob, if there is one, until the transaction ends.
pub(super) async fn own_blob(batch: &Batch<'_>, digest: &str) -> Result<(), IndexError> {
    batch
        .db
        .locked(
            Lock::Change,
            "SELECT key FROM blob WHERE digest = ?1 AND deleting = 0",
            values![digest],
        )
        .await?;
    Ok(())
}

/// A manifest that is not in the trash and needs this one or this blob.
async fn needed_by(
    batch: &Batch<'_>,
    repo: i64,
    child: &str,
    kind: i64,
) -> Result<Option<String>, IndexError> {
    let row = batch
        .db
        .row(
            "SELECT ref.parent FROM ref JOIN manifest m ON m.repo = ref.repo AND m.digest = ref.parent
             WHERE ref.child = ?2 AND ref.repo = ?1 AND ref.kind = ?3 AND m.deleted_at IS NULL LIMIT 1",
            values![repo, child, kind],
        )
        .await?;
    row.map(|mut row| row.text(0)).transpose()
}
