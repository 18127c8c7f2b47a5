//! End-to-end tests: the real binary, a real kernel, real peers.
#![forbid(unsafe_code)]

mod any_user;
mod space;
