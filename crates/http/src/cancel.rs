//! A flag that stops work in progress, shared between threads.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long blocked work may take to notice that it was cancelled.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Tells work in progress to stop; clones share the flag.
///
/// A [child](Self::child) is cancelled with its parent, and can be cancelled alone: a pull makes one
/// for its layers, so that the first failure stops the others.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Default)]
struct Flag {
    set: AtomicBool,
    parent: Option<Cancel>,
    watched: Option<Watched>,
}

type Watched = Box<dyn Fn() -> bool + Send + Sync>;

impl fmt::Debug for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flag")
            .field("set", &self.set)
            .field("parent", &self.parent)
            .finish_non_exhaustive()
    }
}

/// The work was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
#[must_use]
pub struct Cancelled;

impl Cancel {
    /// Returns a flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a flag that is set when this one is, or by itself.
    pub fn child(&self) -> Self {
        Self(Arc::new(Flag {
            set: AtomicBool::new(false),
            parent: Some(self.clone()),
            watched: None,
        }))
    }

    /// Returns a flag that is also set when `watched` says so: how the flag of another part of the
    /// program is followed. `watched` is asked often and must not block.
    pub fn watching(watched: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(Flag {
            watched: Some(Box::new(watched)),
            ..Flag::default()
        }))
    }

    /// Sets the flag; work that shares it stops within a tenth of a second.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::Release);
    }

    /// Tells whether this flag or a parent's is set.
    pub fn is_cancelled(&self) -> bool {
        let mut flag = Some(self);
        while let Some(Self(inner)) = flag {
            let watched = || inner.watched.as_ref().is_some_and(|watched| watched());
            if inner.set.load(Ordering::Acquire) || watched() {
                return true;
            }
            flag = inner.parent.as_ref();
        }
        false
    }

    /// Checks the flag.
    ///
    /// # Errors
    /// [`Cancelled`] when it is set.
    pub fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() {
            Err(Cancelled)
        } else {
            Ok(())
        }
    }

    /// Sleeps for `duration`, or until the flag is set. Blocks.
    ///
    /// # Errors
    /// [`Cancelled`] when the flag was set before or during the sleep.
    pub fn sleep(&self, duration: Duration) -> Result<(), Cancelled> {
        let started = Instant::now();
        loop {
            self.check()?;
            let left = duration.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_follows_its_parent_and_not_the_other_way_round() {
        let parent = Cancel::new();
        let (first, second) = (parent.child(), parent.child());
        first.cancel();
        assert!(first.is_cancelled());
        assert!(!second.is_cancelled() && !parent.is_cancelled());
        parent.cancel();
        assert!(second.is_cancelled());
    }

    #[test]
    fn another_flag_can_be_followed() {
        let other = Arc::new(AtomicBool::new(false));
        let cancel = {
            let other = Arc::clone(&other);
            Cancel::watching(move || other.load(Ordering::Relaxed)).child()
        };
        assert_eq!(cancel.check(), Ok(()));
        other.store(true, Ordering::Relaxed);
        assert_eq!(cancel.check(), Err(Cancelled));
    }

    #[test]
    fn a_sleep_ends_when_cancelled() {
        let cancel = Cancel::new();
        let started = Instant::now();
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| cancel.sleep(Duration::from_secs(60)));
            cancel.cancel();
            assert_eq!(sleeper.join().unwrap(), Err(Cancelled));
        });
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
