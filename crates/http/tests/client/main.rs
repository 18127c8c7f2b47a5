//! The client against servers that misbehave: one test program, so that it is linked once.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail as tests do"
)]

mod certificates;
mod download;
mod fetch;
mod proxies;
mod server;
mod tls;
mod upload;
