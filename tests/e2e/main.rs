//! End-to-end tests: the real binary, a real kernel, real peers.
//!
//! [`any_user`] means the same for root and for an ordinary user, and
//! `cargo xtask test` runs it as both; [`root`] needs root.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    reason = "how a test says that its surroundings are broken"
)]
#![expect(
    clippy::print_stdout,
    reason = "how a test says that it cannot run here"
)]

mod any_user;
mod events;
mod examples;
mod fixtures;
mod leaks;
mod root;
mod space;
mod terminal;
