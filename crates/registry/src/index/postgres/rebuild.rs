//! Tables that take the place of others.

use tokio::runtime::Handle;

use super::pool::{Address, Pool};
use super::session::Session;
use super::{DRAFT, PRESENCE, SCHEMA, setup};
use crate::index::IndexError;
use crate::index::db::{Db, values};

/// New tables beside the ones that count, in a database that nobody uses meanwhile.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Has the database for itself.
    session: Session,
}

impl Draft {
    /// Makes new tables, and what speaks to them.
    ///
    /// # Errors
    /// [`IndexError::InUse`] if a registry is connected.
    pub(super) async fn begin(
        address: &Address,
        handle: &Handle,
    ) -> Result<(Self, std::sync::Arc<Pool>), IndexError> {
        let session = address.connect_alone(handle).await?;
        let taken = Db::Session(&session)
            .number(
                "SELECT CAST(CAST(pg_try_advisory_lock(?1) AS INT) AS BIGINT)",
                values![PRESENCE],
            )
            .await?;
        if taken == 0 {
            return Err(IndexError::InUse);
        }
        session
            .say(&format!("DROP SCHEMA IF EXISTS {DRAFT} CASCADE"))
            .await?;
        setup::prepare(&session, DRAFT, None).await?;
        let pool = Pool::new(address.clone(), 1, DRAFT, handle.clone());
        Ok((Self { session }, pool))
    }

    /// Puts the new tables in the place of the ones that count; says what those are called now, if there were any.
    pub(in crate::index) async fn exchange(self, now: i64) -> Result<Option<String>, IndexError> {
        let sql = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = ?1";
        let is_there = Db::Session(&self.session)
            .exists(sql, values![SCHEMA])
            .await?;
        let old = is_there.then(|| format!("{SCHEMA}_{now}"));
        let away = match &old {
            Some(old) => format!("ALTER SCHEMA {SCHEMA} RENAME TO {old};"),
            None => String::new(),
        };
        self.session
            .say(&format!(
                "BEGIN; {away} ALTER SCHEMA {DRAFT} RENAME TO {SCHEMA}; COMMIT"
            ))
            .await?;
        Ok(old)
    }
}
