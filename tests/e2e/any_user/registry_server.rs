//! `kiln registry serve`: what the distribution specification asks for, what it does not say, and
//! what must hold when clients, disks and processes do their worst.

/// Names and functions of tests.
macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        &[$((stringify!($test), $module::$test as fn())),*]
    };
}

mod access;
mod blobs;
mod database;
mod durability;
mod hostile;
mod lists;
mod manifests;
mod object_store;
mod object_store_replicas;
mod operations;
mod programs;
mod races;
mod uploads;
