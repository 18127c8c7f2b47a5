//! The changes that must outlive the database, and how each is made.
//!
//! A change is made by the same function when a client asks for it and when the journal is read
//! again; so what the journal says and what the tables say are one thing.

use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::accounts::{Account, Token};
use super::db::{Db, Lock, together, values};
use super::{Batch, IndexError, Seconds};
use crate::document::{ChildKind, Document, Referrer};

/// A line of the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(crate) enum Change {
    /// A manifest is there, under its digest and these tags.
    Manifest {
        repo: String,
        digest: String,
        #[serde(rename = "type")]
        media_type: String,
        #[serde(with = "base64_text")]
        body: Vec<u8>,
        tags: Vec<String>,
        at: Seconds,
        by: String,
        /// Blobs that it names and the repository does not have, whoever else has them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String>,
    },
    /// A blob came that a manifest of the repository was waiting for.
    Blob {
        repo: String,
        digest: String,
        at: Seconds,
    },
    /// A tag went to the trash.
    Untag {
        repo: String,
        tag: String,
        at: Seconds,
        by: String,
    },
    /// A manifest and its tags went to the trash.
    Delete {
        repo: String,
        digest: String,
        at: Seconds,
        by: String,
    },
    /// A manifest came back from the trash; no tag comes with it.
    Restore {
        repo: String,
        digest: String,
        at: Seconds,
    },
    /// A manifest left the trash for good.
    Forget { repo: String, digest: String },
    /// An account is as this says.
    Account(Account),
    /// An account is gone, with its tokens.
    NoAccount { name: String },
    /// A token is as this says.
    Token(Token),
    /// A token is gone.
    NoToken { id: String },
    /// What follows, up to the next of these, is of one transaction; see [`super::journal`].
    Batch { number: i64 },
}

mod base64_text {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use base64::Engine as _;

    use super::BASE64;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text).map_err(serde::de::Error::custom)
    }
}

impl Change {
    /// Appends the change as a line.
    pub(super) fn write_line(&self, lines: &mut Vec<u8>) {
        serde_json::to_writer(&mut *lines, self).expect("a change has only text keys");
        lines.push(b'\n');
    }

    /// The change as a line, without its end.
    pub(super) fn to_line(&self) -> String {
        serde_json::to_string(self).expect("a change has only text keys")
    }

    /// Keeps a set of the manifests that there are, as `repository@digest`, up to date.
    pub(crate) fn note_manifest(&self, manifests: &mut std::collections::BTreeSet<String>) {
        match self {
            Self::Manifest { repo, digest, .. } => {
                manifests.insert(format!("{repo}@{digest}"));
            }
            Self::Forget { repo, digest } => {
                manifests.remove(&format!("{repo}@{digest}"));
            }
            Self::Blob { .. }
            | Self::Untag { .. }
            | Self::Delete { .. }
            | Self::Restore { .. }
            | Self::Account(_)
            | Self::NoAccount { .. }
            | Self::Token(_)
            | Self::NoToken { .. }
            | Self::Batch { .. } => {}
        }
    }

    /// Makes the change.
    pub(crate) async fn apply(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        let db = batch.db;
        match self {
            Self::Manifest {
                repo,
                digest,
                media_type,
                body,
                tags,
                at,
                by,
                missing,
            } => {
                let repo = ensure_repo(db, repo, Lock::Change, *at).await?;
                put_manifest(db, repo, digest, media_type, body, *at, by, missing).await?;
                for tag in tags {
                    point_tag(batch, repo, tag, digest, *at, by).await?;
                }
                Ok(())
            }
            Self::Blob { repo, digest, at } => {
                let repo = ensure_repo(db, repo, Lock::Share, *at).await?;
                link(db, repo, digest, *at).await
            }
            Self::Untag { repo, tag, at, by } => match own_repo(db, repo).await? {
                Some(repo) => untag(batch, repo, tag, *at, by).await,
                None => Ok(()),
            },
            Self::Delete {
                repo,
                digest,
                at,
                by,
            } => match own_repo(db, repo).await? {
                Some(repo) => delete(batch, repo, digest, *at, by).await,
                None => Ok(()),
            },
            Self::Restore { repo, digest, at } => match own_repo(db, repo).await? {
                Some(repo) => restore(batch, repo, digest, *at).await,
                None => Ok(()),
            },
            Self::Forget { repo, digest } => match own_repo(db, repo).await? {
                Some(repo) => forget(batch, repo, digest).await,
                None => Ok(()),
            },
            Self::Account(account) => account.put(batch).await,
            Self::NoAccount { name } => Account::delete(batch, name).await,
            Self::Token(token) => token.put(batch).await,
            Self::NoToken { id } => Token::delete(batch, id).await,
            Self::Batch { number } => note_batch(db, *number).await,
        }
    }
}

/// Notes which transaction of the journal was the last one that was made.
pub(super) async fn note_batch(db: Db<'_>, number: i64) -> Result<(), IndexError> {
    let sql = "INSERT INTO meta (key, value) VALUES ('journal-batch', ?1)
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    let text = number.to_string().into_bytes();
    db.execute(sql, values![text.as_slice()]).await?;
    Ok(())
}

const REPO: &str = "SELECT id FROM repo WHERE name = ?1";

/// The number of a repository, if it exists.
pub(crate) async fn find_repo(db: Db<'_>, name: &str) -> Result<Option<i64>, IndexError> {
    let row = db.row(REPO, values![name]).await?;
    row.map(|row| row.int(0)).transpose()
}

/// The number of a repository, if it exists, for one transaction at a time: whatever changes its tags or
/// manifests, or relies on what they are, begins with this.
pub(super) async fn own_repo(db: Db<'_>, name: &str) -> Result<Option<i64>, IndexError> {
    let rows = db.locked(Lock::Change, REPO, values![name]).await?;
    rows.first().map(|row| row.int(0)).transpose()
}

/// The number of a repository, which exists then, and until the transaction ends.
pub(super) async fn ensure_repo(
    db: Db<'_>,
    name: &str,
    lock: Lock,
    at: Seconds,
) -> Result<i64, IndexError> {
    loop {
        if let Some(row) = db.locked(lock, REPO, values![name]).await?.first() {
            return row.int(0);
        }
        // Somebody else may be quicker.
        db.execute(
            "INSERT INTO repo (name, created_at) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
            values![name, at],
        )
        .await?;
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "they are the parts of one change"
)]
async fn put_manifest(
    db: Db<'_>,
    repo: i64,
    digest: &str,
    media_type: &str,
    body: &[u8],
    at: Seconds,
    by: &str,
    missing: &[String],
) -> Result<(), IndexError> {
    let document = Document::parse(body, Some(media_type))
        .map_err(|error| IndexError::Row(format!("manifest {digest}: {error}")))?;
    let referrer = document.subject.as_ref().map(|_subject| {
        let entry = Referrer {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            size: body.len() as u64,
            artifact_type: document.artifact_type.clone(),
            annotations: document.annotations.clone(),
        };
        serde_json::to_string(&entry).expect("a referrer has only text keys")
    });
    let subject = document.subject.as_ref().map(|subject| subject.as_str());
    db.execute(
        "INSERT INTO manifest (repo, digest, media_type, body, subject, referrer, pushed_at, pushed_by, loose_since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?7)
         ON CONFLICT (repo, digest) DO UPDATE SET media_type = excluded.media_type,
             referrer = excluded.referrer, pushed_at = excluded.pushed_at,
             pushed_by = excluded.pushed_by, loose_since = excluded.loose_since, deleted_at = NULL",
        values![repo, digest, media_type, body, subject, referrer.as_deref(), at, by],
    )
    .await?;
    let references = document.children.iter().map(async |child| {
        let kind = match child.kind {
            ChildKind::Blob => 0,
            ChildKind::Manifest => 1,
            ChildKind::Either => i64::from(has_manifest(db, repo, child.digest.as_str()).await?),
        };
        db.execute(
            "INSERT INTO ref (repo, parent, child, kind) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (repo, parent, child) DO NOTHING",
            values![repo, digest, child.digest.as_str(), kind],
        )
        .await?;
        // To name what another repository has is not enough to read it.
        if kind == 0 && !missing.iter().any(|it| it == child.digest.as_str()) {
            link(db, repo, child.digest.as_str(), at).await?;
        }
        Ok(())
    });
    together(references).await.map(drop)
}

/// Whether a repository has a manifest that is not in the trash.
pub(super) async fn has_manifest(db: Db<'_>, repo: i64, digest: &str) -> Result<bool, IndexError> {
    db.exists(
        "SELECT 1 FROM manifest WHERE repo = ?1 AND digest = ?2 AND deleted_at IS NULL",
        values![repo, digest],
    )
    .await
}

/// Gives a repository a blob that is there, or notes that it still has it.
pub(super) async fn link(
    db: Db<'_>,
    repo: i64,
    digest: &str,
    at: Seconds,
) -> Result<(), IndexError> {
    db.execute(
        "INSERT INTO link (repo, digest, at)
         SELECT CAST(?1 AS BIGINT), CAST(?2 AS TEXT), CAST(?3 AS BIGINT)
         WHERE EXISTS (SELECT 1 FROM blob WHERE digest = ?2 AND deleting = 0)
         ON CONFLICT (repo, digest) DO UPDATE
             SET at = CASE WHEN link.at < excluded.at THEN excluded.at ELSE link.at END",
        values![repo, digest, at],
    )
    .await?;
    Ok(())
}

/// Blobs that a manifest names and its repository does not have.
pub(super) async fn missing(
    db: Db<'_>,
    repo: i64,
    manifest: &str,
) -> Result<Vec<String>, IndexError> {
    let sql = "SELECT r.child FROM ref r WHERE r.repo = ?1 AND r.parent = ?2 AND r.kind = 0
               AND NOT EXISTS (SELECT 1 FROM link l WHERE l.repo = r.repo AND l.digest = r.child)
               ORDER BY r.child";
    let rows = db.rows(sql, values![repo, manifest]).await?;
    rows.into_iter().map(|mut row| row.text(0)).collect()
}

/// Whether a manifest of a repository names a blob that the repository does not have.
pub(super) async fn is_awaited(db: Db<'_>, repo: i64, digest: &str) -> Result<bool, IndexError> {
    let sql = "SELECT 1 FROM ref WHERE repo = ?1 AND child = ?2 AND kind = 0
               AND NOT EXISTS (SELECT 1 FROM link WHERE repo = ?1 AND digest = ?2) LIMIT 1";
    db.exists(sql, values![repo, digest]).await
}

/// Points a tag at a manifest.
async fn point_tag(
    batch: &mut Batch<'_>,
    repo: i64,
    tag: &str,
    digest: &str,
    at: Seconds,
    by: &str,
) -> Result<(), IndexError> {
    let old = tagged(batch.db, repo, tag).await?;
    batch
        .db
        .execute(
            "INSERT INTO tag (repo, name, digest, updated_at, updated_by) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (repo, name) DO UPDATE SET digest = excluded.digest,
                 updated_at = excluded.updated_at, updated_by = excluded.updated_by",
            values![repo, tag, digest, at, by],
        )
        .await?;
    if let Some(old) = old
        && old != digest
    {
        batch.replaces(repo);
        loosen(batch.db, repo, &old, at).await?;
    }
    Ok(())
}

/// What a tag points at.
pub(super) async fn tagged(db: Db<'_>, repo: i64, tag: &str) -> Result<Option<String>, IndexError> {
    let row = db
        .row(
            "SELECT digest FROM tag WHERE repo = ?1 AND name = ?2",
            values![repo, tag],
        )
        .await?;
    row.map(|mut row| row.text(0)).transpose()
}

/// Notes that a tag left a manifest.
async fn loosen(db: Db<'_>, repo: i64, digest: &str, at: Seconds) -> Result<(), IndexError> {
    db.execute(
        "UPDATE manifest SET loose_since = ?3 WHERE repo = ?1 AND digest = ?2",
        values![repo, digest, at],
    )
    .await?;
    Ok(())
}

async fn untag(
    batch: &mut Batch<'_>,
    repo: i64,
    tag: &str,
    at: Seconds,
    by: &str,
) -> Result<(), IndexError> {
    let db = batch.db;
    batch.replaces(repo);
    let Some(digest) = tagged(db, repo, tag).await? else {
        return Ok(());
    };
    db.execute(
        "INSERT INTO trash (repo, name, digest, deleted_at, deleted_by) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (repo, name) DO UPDATE SET digest = excluded.digest,
             deleted_at = excluded.deleted_at, deleted_by = excluded.deleted_by",
        values![repo, tag, &digest, at, by],
    )
    .await?;
    db.execute(
        "DELETE FROM tag WHERE repo = ?1 AND name = ?2",
        values![repo, tag],
    )
    .await?;
    loosen(db, repo, &digest, at).await
}

async fn delete(
    batch: &mut Batch<'_>,
    repo: i64,
    digest: &str,
    at: Seconds,
    by: &str,
) -> Result<(), IndexError> {
    batch.replaces(repo);
    let db = batch.db;
    db.execute(
        "INSERT INTO trash (repo, name, digest, deleted_at, deleted_by)
         SELECT repo, name, digest, CAST(?3 AS BIGINT), CAST(?4 AS TEXT) FROM tag
         WHERE repo = ?1 AND digest = ?2
         ON CONFLICT (repo, name) DO UPDATE SET digest = excluded.digest,
             deleted_at = excluded.deleted_at, deleted_by = excluded.deleted_by",
        values![repo, digest, at, by],
    )
    .await?;
    db.execute(
        "DELETE FROM tag WHERE repo = ?1 AND digest = ?2",
        values![repo, digest],
    )
    .await?;
    db.execute(
        "UPDATE manifest SET deleted_at = ?3 WHERE repo = ?1 AND digest = ?2",
        values![repo, digest, at],
    )
    .await?;
    Ok(())
}

async fn restore(
    batch: &mut Batch<'_>,
    repo: i64,
    digest: &str,
    at: Seconds,
) -> Result<(), IndexError> {
    batch.replaces(repo);
    let db = batch.db;
    db.execute(
        "UPDATE manifest SET deleted_at = NULL, loose_since = ?3 WHERE repo = ?1 AND digest = ?2",
        values![repo, digest, at],
    )
    .await?;
    let blobs = db
        .rows(
            "SELECT child FROM ref WHERE repo = ?1 AND parent = ?2 AND kind = 0",
            values![repo, digest],
        )
        .await?;
    for mut blob in blobs {
        link(db, repo, &blob.text(0)?, at).await?;
    }
    Ok(())
}

/// Drops a manifest and what it needed; the blobs among that are looked at later.
async fn forget(batch: &mut Batch<'_>, repo: i64, digest: &str) -> Result<(), IndexError> {
    batch.replaces(repo);
    let db = batch.db;
    // A collection that has one of these before it must wait until the references below are gone: hence
    // an update of what is there, which takes the row.
    db.execute(
        "INSERT INTO review (repo, digest, at)
         SELECT repo, child, 0 FROM ref WHERE repo = ?1 AND parent = ?2 AND kind = 0
         ON CONFLICT (repo, digest) DO UPDATE SET at = review.at",
        values![repo, digest],
    )
    .await?;
    for sql in [
        "DELETE FROM ref WHERE repo = ?1 AND parent = ?2",
        "DELETE FROM manifest WHERE repo = ?1 AND digest = ?2",
        "DELETE FROM trash WHERE repo = ?1 AND digest = ?2",
        "DELETE FROM tag WHERE repo = ?1 AND digest = ?2",
    ] {
        db.execute(sql, values![repo, digest]).await?;
    }
    Ok(())
}
