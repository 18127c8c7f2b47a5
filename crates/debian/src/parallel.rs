//! Doing the same to many things, a few at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Calls `work` for each number of `order` on up to `jobs` threads, which take them in this order, and returns the
/// results by number. `order` has each number below its length once.
///
/// # Errors
/// The error of the lowest number that was worked on; no work starts after an error.
pub(crate) fn map_in<T: Send, E: Send>(
    order: &[usize],
    jobs: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = mpsc::channel();
    let worker = |sender: mpsc::Sender<(usize, Result<T, E>)>| {
        while !stop.load(Ordering::Relaxed) {
            let Some(number) = order.get(next.fetch_add(1, Ordering::Relaxed)) else {
                break;
            };
            let result = work(*number);
            if result.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            if sender.send((*number, result)).is_err() {
                break;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, order.len().max(1)) {
            let sender = sender.clone();
            scope.spawn(|| worker(sender));
        }
    });
    drop(sender);
    let results: BTreeMap<usize, Result<T, E>> = receiver.into_iter().collect();
    results.into_values().collect()
}

/// Calls `work` for each number below `count` on up to `jobs` threads and returns the results in order.
///
/// # Errors
/// As [`map_in`].
pub(crate) fn map<T: Send, E: Send>(
    count: usize,
    jobs: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    map_in(&Vec::from_iter(0..count), jobs, work)
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
    }

    #[test]
    fn results_are_sorted_by_number_and_not_by_order() {
        let result = map_in(&[2, 0, 1], 1, Ok::<_, ()>);
        assert_eq!(result, Ok(vec![0, 1, 2]));
    }
}
