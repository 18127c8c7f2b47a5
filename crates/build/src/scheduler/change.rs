//! Each change of a node's state, and the event that tells of it.

use std::time::Duration;

use kiln_graph::{CacheKey, StepId};

use super::{Scheduler, milliseconds};
use crate::event::{EventKind, FailureSummary, MissReason, SkipReason};
use crate::executor::NodeOutput;
use crate::state::StepState;

/// What happens to a node. Each leads to one state and one event.
pub(super) enum Change<'c> {
    Queue,
    Check,
    Hit {
        key: CacheKey,
        output: &'c NodeOutput,
        cache: Option<String>,
    },
    Miss {
        key: CacheKey,
        reason: MissReason,
    },
    Join {
        with: StepId,
    },
    Start,
    Finish {
        output: &'c NodeOutput,
        duration: Duration,
        unchanged: bool,
    },
    Fail {
        cause: FailureSummary,
        last_lines: Vec<String>,
        duration: Duration,
    },
    Skip(SkipReason),
    Cancel,
}

impl<I> Scheduler<'_, I> {
    /// Changes the state of `node` and tells so: the only place where a state changes.
    pub(super) fn set(&mut self, node: StepId, change: Change<'_>) {
        let step = self.name(node);
        let (state, event) = match change {
            Change::Queue => (StepState::Ready, EventKind::Queued { step }),
            Change::Check => (StepState::Checking, EventKind::Checking { step }),
            Change::Hit { key, output, cache } => (
                StepState::Cached,
                EventKind::Hit {
                    step,
                    key: key.hex(),
                    layers: output.layers.clone(),
                    size_bytes: output.size_bytes,
                    cache,
                },
            ),
            Change::Miss { key, reason } => (
                StepState::Missed,
                EventKind::Miss {
                    step,
                    key: key.hex(),
                    reason,
                },
            ),
            Change::Join { with } => (
                StepState::Joined,
                EventKind::Joined {
                    step,
                    with: self.name(with),
                },
            ),
            Change::Start => (StepState::Running, EventKind::Started { step }),
            Change::Finish {
                output,
                duration,
                unchanged,
            } => (
                StepState::Built,
                EventKind::Done {
                    step,
                    layers: output.layers.clone(),
                    size_bytes: output.size_bytes,
                    duration_ms: milliseconds(duration),
                    unchanged,
                },
            ),
            Change::Fail {
                cause,
                last_lines,
                duration,
            } => {
                let duration_ms = milliseconds(duration);
                (
                    StepState::Failed,
                    EventKind::Failed {
                        step,
                        cause,
                        last_lines,
                        duration_ms,
                    },
                )
            }
            Change::Skip(because) => (StepState::Skipped, EventKind::Skipped { step, because }),
            Change::Cancel => (StepState::Cancelled, EventKind::Cancelled { step }),
        };
        let from = std::mem::replace(&mut self.states[node], state);
        debug_assert!(
            from.may_become(state),
            "{node:?} goes from {from:?} to {state:?}"
        );
        self.emit(event);
    }
}
