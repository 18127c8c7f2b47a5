//! What is true at the moment of a request, for many requests at once.
//!
//! Replicas cannot tell each other in time what they change; so each request asks the database for a
//! number per repository, and answers from memory are given only if that number is what it was when
//! they were read. A question is sent after the request came, never before, and all that wait while
//! one is under way go together in the next one: the database sees a few small queries however many
//! requests there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::pool::{Patience, Pool};
use crate::index::{IndexError, Moment};
use crate::name::RepoName;

/// The most requests in one question.
const MOST_AT_ONCE: usize = 1024;

const QUESTION: &str = "SELECT '', accounts, read_only FROM state
    UNION ALL SELECT name, epoch, 0 FROM repo WHERE name = ANY(?1)";

struct Question {
    repo: Option<RepoName>,
    answer: oneshot::Sender<Result<Moment, IndexError>>,
}

/// The door to the task that asks.
#[derive(Debug)]
pub(super) struct Moments(mpsc::UnboundedSender<Question>);

impl Moments {
    /// Starts the task, which has the pool for itself.
    pub(super) fn start(pool: Arc<Pool>) -> Self {
        let (questions, asked) = mpsc::unbounded_channel();
        let handle = pool.handle.clone();
        handle.spawn(run(pool, asked));
        Self(questions)
    }

    /// How things stand now.
    pub(super) async fn ask(&self, repo: Option<&RepoName>) -> Result<Moment, IndexError> {
        let (answer, receiver) = oneshot::channel();
        let repo = repo.cloned();
        self.0
            .send(Question { repo, answer })
            .map_err(|_stopped| IndexError::Closed)?;
        receiver.await.map_err(|_stopped| IndexError::Closed)?
    }
}

async fn run(pool: Arc<Pool>, mut asked: mpsc::UnboundedReceiver<Question>) {
    let mut together = Vec::new();
    while asked.recv_many(&mut together, MOST_AT_ONCE).await > 0 {
        let mut names: Vec<&str> = together
            .iter()
            .filter_map(|question| question.repo.as_ref().map(RepoName::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        let found = find(&pool, &names).await;
        for question in together.drain(..) {
            let moment = match &found {
                Ok((state, epochs)) => Ok(Moment {
                    epoch: question
                        .repo
                        .and_then(|repo| epochs.get(repo.as_str()).copied())
                        .unwrap_or_default(),
                    ..*state
                }),
                Err(error) => Err(error.copy()),
            };
            if question.answer.send(moment).is_err() {
                // Whoever asked went away.
            }
        }
    }
}

type Found = (Moment, BTreeMap<String, u64>);

async fn find(pool: &Pool, names: &[&str]) -> Result<Found, IndexError> {
    let mut patience = Patience::new();
    loop {
        match try_find(pool, names).await {
            Err(error) if error.is_passing() && patience.again(&pool.handle).await => {}
            outcome => return outcome.map_err(IndexError::lost_is_unavailable),
        }
    }
}

async fn try_find(pool: &Pool, names: &[&str]) -> Result<Found, IndexError> {
    let session = pool.take().await?;
    let (mut moment, mut epochs) = (Moment::default(), BTreeMap::new());
    for mut row in session.rows_of(QUESTION, names).await? {
        let (name, number) = (row.text(0)?, row.int(1)?.unsigned_abs());
        if name.is_empty() {
            moment.accounts = number;
            moment.read_only = row.int(2)? != 0;
        } else {
            epochs.insert(name, number);
        }
    }
    Ok((moment, epochs))
}
