//! The changes that must outlive the database, and how each is made.
//!
//! A change is made by the same function when a client asks for it and when the journal is read
//! again; so what the journal says and what the tables say are one thing.

use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::accounts::{Account, Token};
use super::{IndexError, Seconds};
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

    /// Keeps a set of the manifests that there are, as `repository@digest`, up to date.
    pub(crate) fn note_manifest(&self, manifests: &mut std::collections::BTreeSet<String>) {
        match self {
            Self::Manifest { repo, digest, .. } => {
                manifests.insert(format!("{repo}@{digest}"));
            }
            Self::Forget { repo, digest } => {
                manifests.remove(&format!("{repo}@{digest}"));
            }
            Self::Untag { .. }
            | Self::Delete { .. }
            | Self::Restore { .. }
            | Self::Account(_)
            | Self::NoAccount { .. }
            | Self::Token(_)
            | Self::NoToken { .. } => {}
        }
    }

    /// Makes the change; says whether something that could be read before is replaced or gone.
    pub(crate) fn apply(&self, db: &Connection) -> Result<bool, IndexError> {
        match self {
            Self::Manifest {
                repo,
                digest,
                media_type,
                body,
                tags,
                at,
                by,
            } => {
                let repo = ensure_repo(db, repo, *at)?;
                put_manifest(db, repo, digest, media_type, body, *at, by)?;
                let mut replaces = false;
                for tag in tags {
                    replaces |= point_tag(db, repo, tag, digest, *at, by)?;
                }
                Ok(replaces)
            }
            Self::Untag { repo, tag, at, by } => match find_repo(db, repo)? {
                Some(repo) => untag(db, repo, tag, *at, by).map(|()| true),
                None => Ok(false),
            },
            Self::Delete {
                repo,
                digest,
                at,
                by,
            } => match find_repo(db, repo)? {
                Some(repo) => delete(db, repo, digest, *at, by).map(|()| true),
                None => Ok(false),
            },
            Self::Restore { repo, digest, at } => match find_repo(db, repo)? {
                Some(repo) => restore(db, repo, digest, *at).map(|()| true),
                None => Ok(false),
            },
            Self::Forget { repo, digest } => match find_repo(db, repo)? {
                Some(repo) => forget(db, repo, digest).map(|()| true),
                None => Ok(false),
            },
            Self::Account(account) => account.put(db).map(|()| false),
            Self::NoAccount { name } => Account::delete(db, name).map(|()| false),
            Self::Token(token) => token.put(db).map(|()| false),
            Self::NoToken { id } => Token::delete(db, id).map(|()| false),
        }
    }
}

/// The number of a repository, if it exists.
pub(crate) fn find_repo(db: &Connection, name: &str) -> Result<Option<i64>, IndexError> {
    let mut statement = db.prepare_cached("SELECT id FROM repo WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0)).optional()?)
}

/// The number of a repository, which exists then.
pub(super) fn ensure_repo(db: &Connection, name: &str, at: Seconds) -> Result<i64, IndexError> {
    if let Some(id) = find_repo(db, name)? {
        return Ok(id);
    }
    db.prepare_cached("INSERT INTO repo (name, created_at) VALUES (?1, ?2)")?
        .execute(params![name, at])?;
    Ok(db.last_insert_rowid())
}

fn put_manifest(
    db: &Connection,
    repo: i64,
    digest: &str,
    media_type: &str,
    body: &[u8],
    at: Seconds,
    by: &str,
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
    db.prepare_cached(
        "INSERT INTO manifest (repo, digest, media_type, body, subject, referrer, pushed_at, pushed_by, loose_since)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?7)
         ON CONFLICT (repo, digest) DO UPDATE SET media_type = excluded.media_type,
             referrer = excluded.referrer, pushed_at = excluded.pushed_at,
             pushed_by = excluded.pushed_by, loose_since = excluded.loose_since, deleted_at = NULL",
    )?
    .execute(params![repo, digest, media_type, body, subject, referrer, at, by])?;
    for child in &document.children {
        let kind = match child.kind {
            ChildKind::Blob => 0,
            ChildKind::Manifest => 1,
            ChildKind::Either => i64::from(has_manifest(db, repo, child.digest.as_str())?),
        };
        db.prepare_cached(
            "INSERT OR IGNORE INTO ref (repo, parent, child, kind) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![repo, digest, child.digest.as_str(), kind])?;
        if kind == 0 {
            link(db, repo, child.digest.as_str(), at)?;
        }
    }
    Ok(())
}

/// Whether a repository has a manifest that is not in the trash.
pub(super) fn has_manifest(db: &Connection, repo: i64, digest: &str) -> Result<bool, IndexError> {
    let mut statement = db.prepare_cached(
        "SELECT 1 FROM manifest WHERE repo = ?1 AND digest = ?2 AND deleted_at IS NULL",
    )?;
    Ok(statement.exists(params![repo, digest])?)
}

/// Gives a repository a blob that is there, or notes that it still has it.
pub(super) fn link(
    db: &Connection,
    repo: i64,
    digest: &str,
    at: Seconds,
) -> Result<(), IndexError> {
    db.prepare_cached(
        "INSERT INTO link (repo, digest, at)
         SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM blob WHERE digest = ?2 AND deleting = 0)
         ON CONFLICT (repo, digest) DO UPDATE SET at = max(at, excluded.at)",
    )?
    .execute(params![repo, digest, at])?;
    Ok(())
}

/// Points a tag at a manifest; says whether it pointed at another one.
fn point_tag(
    db: &Connection,
    repo: i64,
    tag: &str,
    digest: &str,
    at: Seconds,
    by: &str,
) -> Result<bool, IndexError> {
    let old = tagged(db, repo, tag)?;
    db.prepare_cached(
        "INSERT INTO tag (repo, name, digest, updated_at, updated_by) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (repo, name) DO UPDATE SET digest = excluded.digest,
             updated_at = excluded.updated_at, updated_by = excluded.updated_by",
    )?
    .execute(params![repo, tag, digest, at, by])?;
    match old {
        Some(old) if old != digest => loosen(db, repo, &old, at).map(|()| true),
        _ => Ok(false),
    }
}

/// What a tag points at.
pub(super) fn tagged(db: &Connection, repo: i64, tag: &str) -> Result<Option<String>, IndexError> {
    let mut statement =
        db.prepare_cached("SELECT digest FROM tag WHERE repo = ?1 AND name = ?2")?;
    Ok(statement
        .query_row(params![repo, tag], |row| row.get(0))
        .optional()?)
}

/// Notes that a tag left a manifest.
fn loosen(db: &Connection, repo: i64, digest: &str, at: Seconds) -> Result<(), IndexError> {
    db.prepare_cached("UPDATE manifest SET loose_since = ?3 WHERE repo = ?1 AND digest = ?2")?
        .execute(params![repo, digest, at])?;
    Ok(())
}

fn untag(db: &Connection, repo: i64, tag: &str, at: Seconds, by: &str) -> Result<(), IndexError> {
    let Some(digest) = tagged(db, repo, tag)? else {
        return Ok(());
    };
    db.prepare_cached(
        "INSERT OR REPLACE INTO trash (repo, name, digest, deleted_at, deleted_by) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![repo, tag, digest, at, by])?;
    db.prepare_cached("DELETE FROM tag WHERE repo = ?1 AND name = ?2")?
        .execute(params![repo, tag])?;
    loosen(db, repo, &digest, at)
}

fn delete(
    db: &Connection,
    repo: i64,
    digest: &str,
    at: Seconds,
    by: &str,
) -> Result<(), IndexError> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO trash (repo, name, digest, deleted_at, deleted_by)
         SELECT repo, name, digest, ?3, ?4 FROM tag WHERE repo = ?1 AND digest = ?2",
    )?
    .execute(params![repo, digest, at, by])?;
    db.prepare_cached("DELETE FROM tag WHERE repo = ?1 AND digest = ?2")?
        .execute(params![repo, digest])?;
    db.prepare_cached("UPDATE manifest SET deleted_at = ?3 WHERE repo = ?1 AND digest = ?2")?
        .execute(params![repo, digest, at])?;
    Ok(())
}

fn restore(db: &Connection, repo: i64, digest: &str, at: Seconds) -> Result<(), IndexError> {
    db.prepare_cached(
        "UPDATE manifest SET deleted_at = NULL, loose_since = ?3 WHERE repo = ?1 AND digest = ?2",
    )?
    .execute(params![repo, digest, at])?;
    let mut children =
        db.prepare_cached("SELECT child FROM ref WHERE repo = ?1 AND parent = ?2 AND kind = 0")?;
    let blobs: Vec<String> = children
        .query_map(params![repo, digest], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for blob in blobs {
        link(db, repo, &blob, at)?;
    }
    Ok(())
}

/// Drops a manifest and what it needed; the blobs among that are looked at later.
fn forget(db: &Connection, repo: i64, digest: &str) -> Result<(), IndexError> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO review (repo, digest, at)
         SELECT repo, child, 0 FROM ref WHERE repo = ?1 AND parent = ?2 AND kind = 0",
    )?
    .execute(params![repo, digest])?;
    for sql in [
        "DELETE FROM ref WHERE repo = ?1 AND parent = ?2",
        "DELETE FROM manifest WHERE repo = ?1 AND digest = ?2",
        "DELETE FROM trash WHERE repo = ?1 AND digest = ?2",
        "DELETE FROM tag WHERE repo = ?1 AND digest = ?2",
    ] {
        db.prepare_cached(sql)?.execute(params![repo, digest])?;
    }
    Ok(())
}
