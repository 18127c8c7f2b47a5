//! What kiln promises and others do not: each has a test that fails without it.

mod cache;
mod hermetic;
mod lock;
mod parallel;
mod reproducible;

use crate::events::Build;
use crate::space::TestSpace;

/// Builds and returns what happened.
#[track_caller]
fn built(space: &TestSpace, more: &[&str]) -> Build {
    Build::ok(space, more)
}
