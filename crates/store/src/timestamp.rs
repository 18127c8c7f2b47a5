//! Points in time, as the caller tells them.

use serde::{Deserialize, Serialize};

/// Whole seconds since 1970-01-01T00:00:00Z.
///
/// The store never asks the clock: whoever opens a session says what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Wraps seconds since the epoch.
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Returns the seconds since the epoch.
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// Returns the time `seconds` earlier, at the earliest the epoch.
    #[must_use]
    pub const fn earlier_by(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}
