//! `kiln registry serve`: what the distribution specification asks for, what it does not say, and
//! what must hold when clients, disks and processes do their worst.

mod access;
mod blobs;
mod database;
mod durability;
mod hostile;
mod lists;
mod manifests;
mod operations;
mod programs;
mod races;
mod uploads;
