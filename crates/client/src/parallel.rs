//! Several pieces of work at once, of which the first failure stops all.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::thread;

use kiln_http::Cancel;

/// Does `work` for each of `items`, `jobs` at a time, and returns what came of them in no order. Blocks.
///
/// # Errors
/// The first failure; the flag that `work` is handed is set then.
pub fn for_each<I: Send, T: Send, E: Send>(
    jobs: NonZeroUsize,
    items: impl IntoIterator<Item = I>,
    cancel: &Cancel,
    work: impl Fn(I, &Cancel) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let queue: VecDeque<I> = items.into_iter().collect();
    let workers = jobs.get().min(queue.len());
    let queue = Mutex::new(queue);
    let outcome = Mutex::new(Ok(Vec::new()));
    let stop = cancel.child();
    let run = || {
        loop {
            // One statement: the lock is not held during the work.
            let next = queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
            let Some(item) = next else { break };
            let result = work(item, &stop);
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            match (result, &mut *outcome) {
                (Ok(value), Ok(values)) => values.push(value),
                // The first failure is the cause; the others are of its making.
                (Err(error), first @ Ok(_)) => *first = Err(error),
                (_, Err(_)) => {}
            }
            if outcome.is_err() {
                stop.cancel();
                break;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(run);
        }
        run();
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}
