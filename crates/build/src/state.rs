//! How far a node is.
//!
//! ```text
//! Waiting → Ready → Checking ─ hit ───────────────→ Cached
//!             ↑        └ miss → Missed → Running ──→ Built
//!             │                   └→ Joined            │
//!             └──────────────────────┘                 ↓
//! Waiting, Ready, Missed, Joined → Skipped, Cancelled  Failed, Cancelled   (Checking too)
//! ```

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepState {
    /// Something it waits for is not done.
    Waiting,
    /// All it waits for is done; it waits for a worker.
    Ready,
    /// A worker makes its key and looks it up.
    Checking,
    /// Its key is not in the cache; it waits for a worker.
    Missed,
    /// Another node with its key is missed or running; it waits for that one.
    Joined,
    /// A worker makes its result.
    Running,
    /// Finished: the result was in the cache.
    Cached,
    /// Finished: the result was made.
    Built,
    /// Finished: there is no result.
    Failed,
    /// Finished: it was not tried, because something failed.
    Skipped,
    /// Finished: the build was cancelled before it had a result.
    Cancelled,
}

impl StepState {
    /// Tells whether the node will not change any more.
    pub fn is_finished(self) -> bool {
        match self {
            Self::Cached | Self::Built | Self::Failed | Self::Skipped | Self::Cancelled => true,
            Self::Waiting
            | Self::Ready
            | Self::Checking
            | Self::Missed
            | Self::Joined
            | Self::Running => false,
        }
    }

    /// Tells whether the node has a result.
    pub fn has_output(self) -> bool {
        matches!(self, Self::Cached | Self::Built)
    }

    /// Returns the word for it in listings.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ready => "ready",
            Self::Checking => "checking",
            Self::Missed => "missed",
            Self::Joined => "joined",
            Self::Running => "running",
            Self::Cached => "cached",
            Self::Built => "built",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// Tells whether a node in this state may go to `next`.
    pub(crate) fn may_become(self, next: Self) -> bool {
        match next {
            Self::Waiting => false,
            Self::Ready => matches!(self, Self::Waiting | Self::Joined),
            Self::Checking => self == Self::Ready,
            Self::Missed | Self::Cached => self == Self::Checking,
            Self::Joined | Self::Running => self == Self::Missed,
            Self::Built => self == Self::Running,
            Self::Failed => matches!(self, Self::Checking | Self::Running),
            Self::Skipped => {
                matches!(
                    self,
                    Self::Waiting | Self::Ready | Self::Missed | Self::Joined
                )
            }
            Self::Cancelled => !self.is_finished(),
        }
    }
}
