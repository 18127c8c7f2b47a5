//! Changes as they are handed to a database: data, so that they can be made again.

use std::collections::BTreeSet;

use super::IndexError;
use super::change::Change;
use super::db::Db;

/// Something that is done in one transaction, whole or not at all.
///
/// It may run several times, when a transaction has to begin anew; only one of them takes effect.
pub(crate) trait Job: Send + Sync + 'static {
    /// What it finds out.
    type Output: Send + 'static;

    /// When it has to be on disk. What can wait makes no [`Change`].
    fn durability(&self) -> Durability {
        Durability::Now
    }

    /// Does it. An error undoes it.
    fn run(
        &self,
        batch: &mut Batch<'_>,
    ) -> impl Future<Output = Result<Self::Output, IndexError>> + Send;
}

/// When what a job did has to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Before anybody is told of it.
    Now,
    /// When something later is. Until then a loss of power undoes it, together with all that came after.
    Later,
}

/// What a job may do: change the database, and say what must be remembered and what is over.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) db: Db<'a>,
    pub(super) changes: Vec<Change>,
    pub(super) replaced: Replaced,
}

/// What was answered before and would be answered differently now.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// Manifests, tags or blobs of these repositories.
    pub(super) repos: BTreeSet<i64>,
    /// Blobs that no client was told of for the grace time.
    pub(super) collected: bool,
    /// Who may do what.
    pub(super) accounts: bool,
}

impl<'a> Batch<'a> {
    pub(super) fn new(db: Db<'a>) -> Self {
        Self {
            db,
            changes: Vec::new(),
            replaced: Replaced::default(),
        }
    }

    /// Makes a change that must outlive the database.
    pub(crate) async fn change(&mut self, change: Change) -> Result<(), IndexError> {
        change.apply(self).await?;
        self.changes.push(change);
        Ok(())
    }

    /// Says that something of a repository which was read before is not there any more.
    pub(crate) fn replaces(&mut self, repo: i64) {
        self.replaced.repos.insert(repo);
    }

    /// Says that blobs went which nobody may rely on.
    ///
    /// Only caches that believe a blob for longer than its lease have to know: those of a registry
    /// that is read-only, alone with its index.
    pub(crate) fn collects(&mut self) {
        self.replaced.collected = true;
    }

    /// Says that accounts or tokens are others now.
    pub(crate) fn changes_accounts(&mut self) {
        self.replaced.accounts = true;
    }
}
