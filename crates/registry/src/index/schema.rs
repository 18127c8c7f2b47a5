//! The tables.

/// The format of the tables; another one is another format of the data folder.
pub(crate) const FORMAT: i64 = 1;

pub(super) const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE repo (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL);

-- One row per copy on disk. A copy that is being deleted never comes back; its key is never used again.
CREATE TABLE blob (
    key TEXT PRIMARY KEY, digest TEXT NOT NULL, size INTEGER NOT NULL,
    deleting INTEGER NOT NULL DEFAULT 0, touched_at INTEGER NOT NULL, created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX blob_live ON blob (digest) WHERE deleting = 0;
CREATE INDEX blob_deleting ON blob (key) WHERE deleting = 1;

CREATE TABLE link (
    repo INTEGER NOT NULL, digest TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (repo, digest)
) WITHOUT ROWID;
CREATE INDEX link_digest ON link (digest);

CREATE TABLE manifest (
    id INTEGER PRIMARY KEY, repo INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    body BLOB NOT NULL, subject TEXT, referrer TEXT,
    pushed_at INTEGER NOT NULL, pushed_by TEXT NOT NULL,
    loose_since INTEGER NOT NULL, deleted_at INTEGER,
    UNIQUE (repo, digest)
);
CREATE INDEX manifest_subject ON manifest (repo, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX manifest_deleted ON manifest (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX manifest_loose ON manifest (loose_since);

-- kind: 0 blob, 1 manifest
CREATE TABLE ref (
    repo INTEGER NOT NULL, parent TEXT NOT NULL, child TEXT NOT NULL, kind INTEGER NOT NULL,
    PRIMARY KEY (repo, parent, child)
) WITHOUT ROWID;
CREATE INDEX ref_child ON ref (child, repo);

CREATE TABLE tag (
    repo INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
    updated_at INTEGER NOT NULL, updated_by TEXT NOT NULL, PRIMARY KEY (repo, name)
) WITHOUT ROWID;
CREATE INDEX tag_digest ON tag (repo, digest);

-- Tags that were deleted, until nobody can want them back.
CREATE TABLE trash (
    repo INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL,
    deleted_at INTEGER NOT NULL, deleted_by TEXT NOT NULL, PRIMARY KEY (repo, name)
) WITHOUT ROWID;
CREATE INDEX trash_deleted ON trash (deleted_at);

-- Blobs that may have become garbage, oldest first; repo 0 stands for the copy itself.
CREATE TABLE review (
    repo INTEGER NOT NULL, digest TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (repo, digest)
) WITHOUT ROWID;
CREATE INDEX review_at ON review (at);

CREATE TABLE account (
    name TEXT PRIMARY KEY, password TEXT, admin INTEGER NOT NULL, grants TEXT NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE token (
    id TEXT PRIMARY KEY, account TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL,
    grants TEXT, expires_at INTEGER, created_at INTEGER NOT NULL
) WITHOUT ROWID;
";
