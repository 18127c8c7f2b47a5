//! A short journal in place of a long one.

use tokio::runtime::Handle;

use super::SCHEMA;
use super::pool::Address;
use super::setup::LAST_NUMBER;
use crate::index::IndexError;
use crate::index::db::{Db, values};
use crate::index::records::Records;
use crate::index::snapshot::Snapshot;

/// Writes all that the database holds at one moment, and removes what that covers. Changes wait for that moment
/// only.
///
/// # Errors
/// The journal is as it was, but for parts of a snapshot that count for nothing.
pub(super) async fn compact(
    address: &Address,
    handle: &Handle,
    records: &Records,
) -> Result<(), IndexError> {
    let holder = address.connect_alone(handle).await?;
    let reader = address.connect_alone(handle).await?;
    // Nobody is between taking a number and committing while this lock is held; so the number that was
    // given last and the snapshot belong together.
    holder
        .say(&format!(
            "SET search_path TO {SCHEMA}; BEGIN ISOLATION LEVEL REPEATABLE READ;
             LOCK TABLE journal IN SHARE MODE"
        ))
        .await?;
    let db = Db::Session(&holder);
    let number = db.number(LAST_NUMBER, values![]).await?;
    let row = db.row("SELECT pg_export_snapshot()", values![]).await?;
    let id = row.ok_or(IndexError::Closed)?.text(0)?;
    reader
        .say(&format!(
            "SET search_path TO {SCHEMA}; BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
             SET TRANSACTION SNAPSHOT '{id}'"
        ))
        .await?;
    holder.say("COMMIT").await?;
    let (mut snapshot, mut parts) = (Snapshot::of(Db::Session(&reader)), 0);
    while let Some(changes) = snapshot.next().await? {
        records.keep_part(number, parts, &changes).await?;
        parts += 1;
    }
    reader.say("COMMIT").await?;
    records.complete(number, parts).await
}
