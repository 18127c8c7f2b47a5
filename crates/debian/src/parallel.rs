//! Doing the same to many things, a few at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Calls `work` for each number below `count` on up to `jobs` threads, and `consume` on the calling thread
/// with the results, in order.
///
/// # Errors
/// The first error of either, in order of the numbers that were worked on; no work starts after it.
pub(crate) fn in_order<T: Send, E: Send>(
    count: usize,
    jobs: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut consume: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let worker = |sender: mpsc::Sender<(usize, Result<T, E>)>| {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count || sender.send((number, work(number))).is_err() {
                break;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, count.max(1)) {
            let sender = sender.clone();
            scope.spawn(|| worker(sender));
        }
        drop(sender);
        let mut early = BTreeMap::new();
        let mut wanted = 0;
        for (number, result) in receiver {
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            early.insert(number, result);
            while let Some(result) = early.remove(&wanted) {
                wanted += 1;
                if let Err(error) = result.and_then(&mut consume) {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        // Some number before the failed one may never have been worked on.
        early.into_values().try_for_each(|result| result.map(drop))
    })
}

/// Calls `work` for each number below `count` on up to `jobs` threads and returns the results in order.
///
/// # Errors
/// As [`in_order`].
pub(crate) fn map<T: Send, E: Send>(
    count: usize,
    jobs: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let mut results = Vec::with_capacity(count);
    in_order(count, jobs, work, |result| {
        results.push(result);
        Ok(())
    })?;
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let squares = map(1000, 8, |number| Ok::<_, ()>(number * number));
        assert_eq!(
            squares.unwrap(),
            (0..1000).map(|one| one * one).collect::<Vec<_>>()
        );
        assert_eq!(map(0, 8, |_| Ok::<(), ()>(())), Ok(Vec::new()));
    }

    #[test]
    fn an_error_ends_the_work() {
        let started = AtomicUsize::new(0);
        let result = map(1_000_000, 4, |number| {
            started.fetch_add(1, Ordering::Relaxed);
            if number == 10 { Err(number) } else { Ok(()) }
        });
        assert_eq!(result, Err(10));
        assert!(started.into_inner() < 1_000_000);
        let result = in_order(
            100,
            4,
            Ok,
            |number| if number == 5 { Err(number) } else { Ok(()) },
        );
        assert_eq!(result, Err(5));
    }
}
