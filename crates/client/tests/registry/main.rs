//! The client against registries: one of our own that goes wrong, and Debian's `docker-registry`.

#![expect(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

mod auth;
#[path = "../../../http/tests/client/certificates.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod certificates;
mod copy;
mod docker;
mod docker_push;
mod fake;
mod login;
mod memory;
mod mutable;
mod proxy;
mod pull;
mod push;
mod referrers;
#[path = "../../../http/tests/client/server.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod server;
mod tags;
