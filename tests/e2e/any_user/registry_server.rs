//! `kiln registry serve`: what the distribution specification asks for, what it does not say, and
//! what must hold when clients, disks and processes do their worst.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Names and functions of tests.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        &[$((stringify!($test), $module::$test as fn())),*]
    };
}

mod access;
mod artifacts;
mod blobs;
mod database;
mod durability;
mod garbage;
mod hostile;
mod kills;
mod lists;
mod manifests;
mod object_store;
mod object_store_replicas;
mod object_store_slow;
mod object_store_start;
mod object_store_tls;
mod operations;
mod programs;
mod races;
mod uploads;

/// Waits until so many images are pushed. Stores that fail on purpose take their time.
#[track_caller]
fn wait_for_pushes(count: &AtomicUsize, least: usize) {
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) < least {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "nothing is pushed"
        );
        thread::sleep(Duration::from_millis(5));
    }
}
