//! Why the index did not do what it was asked to.

use std::io;
use std::path::{Path, PathBuf};

use tokio_postgres::error::SqlState;

use super::schema::FORMAT;
use crate::blobs::BlobError;

/// Why the index did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub(crate) enum IndexError {
    #[error("the disk is full")]
    Full,
    #[error("the index: {0}")]
    Sqlite(rusqlite::Error),
    #[error("the database: {}", in_words(.0))]
    Postgres(Box<tokio_postgres::Error>),
    /// It may answer later; whether what was asked for was done is not known.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`database.url` cannot be read: {0}")]
    Address(String),
    #[error("the index has format {found}; this kiln knows {FORMAT}")]
    Format { found: i64 },
    #[error("the index: a row cannot be read: {0}")]
    Row(String),
    #[error(
        "the journal knows what the database does not, which is empty or was restored from a backup: \
         stop all registries and run `kiln registry rebuild`"
    )]
    Behind,
    #[error("a registry uses the database; stop all that do first")]
    InUse,
    #[error("the index is closed")]
    Closed,
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full,
            _ => Self::Sqlite(error),
        }
    }
}

/// Of the journal, where that is in an object store.
impl From<BlobError> for IndexError {
    fn from(error: BlobError) -> Self {
        if error.is_unavailable() {
            return Self::Unavailable(error.to_string());
        }
        Self::io(&error.path, error.source)
    }
}

impl From<tokio_postgres::Error> for IndexError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code() == Some(&SqlState::DISK_FULL) {
            Self::Full
        } else {
            Self::Postgres(Box::new(error))
        }
    }
}

/// What a driver's error is about; its own text leaves that out.
pub(super) fn in_words(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => said.to_string(),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

impl IndexError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        if is_full(&source) {
            Self::Full
        } else {
            Self::Io {
                path: path.to_owned(),
                source,
            }
        }
    }

    /// Whether nothing was done. What was prepared for it has to stay where that is not so.
    pub(crate) fn is_certain(&self) -> bool {
        !matches!(self, Self::Unavailable(_) | Self::Closed)
    }

    fn code(&self) -> Option<&SqlState> {
        let Self::Postgres(error) = self else {
            return None;
        };
        error.code()
    }

    /// Whether the connection to the database is gone, or none is given now.
    pub(super) fn is_lost(&self) -> bool {
        use std::error::Error as _;
        let Self::Postgres(error) = self else {
            return false;
        };
        match error.code() {
            Some(code) => {
                // Classes of the manual's appendix A: connections, and what operators do.
                let lost = ["08", "57P"];
                lost.iter().any(|class| code.code().starts_with(class))
                    || *code == SqlState::TOO_MANY_CONNECTIONS
                    || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                    // The server that is asked is not the one that writes, or not yet.
                    || *code == SqlState::READ_ONLY_SQL_TRANSACTION
            }
            None => {
                error.is_closed() || error.source().is_none_or(|source| source.is::<io::Error>())
            }
        }
    }

    /// Whether the same may go well if it is begun anew.
    pub(super) fn is_passing(&self) -> bool {
        let collided = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
        ];
        self.is_lost() || self.code().is_some_and(|code| collided.contains(code))
    }

    /// Whether there is a row already that there can be once.
    pub(super) fn is_taken(&self) -> bool {
        self.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// What a caller is told when there is no time left to try again.
    pub(super) fn lost_is_unavailable(self) -> Self {
        if self.is_passing() {
            Self::Unavailable(self.to_string())
        } else {
            self
        }
    }

    /// The same for another of those who share it.
    pub(super) fn copy(&self) -> Self {
        match self {
            Self::Full => Self::Full,
            Self::Closed => Self::Closed,
            Self::InUse => Self::InUse,
            Self::Behind => Self::Behind,
            Self::Address(why) => Self::Address(why.clone()),
            Self::Unavailable(why) => Self::Unavailable(why.clone()),
            error @ (Self::Sqlite(_)
            | Self::Postgres(_)
            | Self::Io { .. }
            | Self::Format { .. }
            | Self::Row(_)) => Self::Row(error.to_string()),
        }
    }
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
