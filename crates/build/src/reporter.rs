//! The way from a worker to the scheduler while a node is worked on.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::OutputStream;

/// Two reports of the same progress come at least this far apart, but for the last one.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// What a worker tells about a node before it is finished.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    Line {
        stream: OutputStream,
        line: String,
    },
    Progress {
        what: String,
        done_bytes: u64,
        total_bytes: Option<u64>,
    },
    Warning {
        message: String,
    },
    /// Whoever sends it waits until `taken_in` is dropped.
    ShellOpened {
        message: String,
        taken_in: SyncSender<Never>,
    },
    ShellClosed,
}

/// What is never sent: such a channel only tells that its other end is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Never {}

/// Hands what a node reports to `deliver`, which may block, and thins out progress.
pub(crate) struct Reporter<'a> {
    deliver: Box<dyn Fn(Report) + Send + Sync + 'a>,
    last_progress: Mutex<BTreeMap<String, Instant>>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(deliver: impl Fn(Report) + Send + Sync + 'a) -> Self {
        Self {
            deliver: Box::new(deliver),
            last_progress: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn line(&self, stream: OutputStream, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        (self.deliver)(Report::Line { stream, line });
    }

    pub(crate) fn progress(&self, what: &str, done_bytes: u64, total_bytes: Option<u64>) {
        if total_bytes == Some(done_bytes) || self.is_due(what) {
            let what = what.to_owned();
            (self.deliver)(Report::Progress {
                what,
                done_bytes,
                total_bytes,
            });
        }
    }

    fn is_due(&self, what: &str) -> bool {
        let now = Instant::now();
        let mut last = self
            .last_progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(what) {
            Some(time) if now.duration_since(*time) < PROGRESS_INTERVAL => false,
            Some(time) => {
                *time = now;
                true
            }
            None => {
                last.insert(what.to_owned(), now);
                true
            }
        }
    }

    pub(crate) fn warn(&self, message: String) {
        (self.deliver)(Report::Warning { message });
    }

    /// Tells that a shell opens, and returns when nobody writes to the terminal any more.
    pub(crate) fn shell_opened(&self, message: String) {
        let (taken_in, wait) = sync_channel(0);
        (self.deliver)(Report::ShellOpened { message, taken_in });
        match wait.recv() {
            Ok(never) => match never {},
            Err(_taken_in) => {}
        }
    }

    pub(crate) fn shell_closed(&self) {
        (self.deliver)(Report::ShellClosed);
    }
}

impl fmt::Debug for Reporter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}
