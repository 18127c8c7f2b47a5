//! What the pool hands back: nodes looked up in the cache, run, or failed.

use std::time::Duration;

use kiln_graph::{Edge, StepId};
use kiln_oci::DiffId;

use super::change::Change;
use super::{Holder, LAST_LINES, Missed, Scheduler};
use crate::event::{EventKind, FailureKind, MissReason, SkipReason};
use crate::executor::{Described, Failure, LookUp, NodeOutput};
use crate::pool::Message;
use crate::reporter::Report;
use crate::state::StepState;

impl<I> Scheduler<'_, I> {
    pub(super) fn take(&mut self, message: Message<I>) {
        match message {
            Message::Report(node, report) => self.report(node, report),
            Message::Checked(node, Ok((described, LookUp::Hit { output, cache }))) => {
                if self.options.refresh.includes(node) && !self.joined.contains(&node) {
                    self.miss(node, described, MissReason::Refresh, Some(output.layers));
                } else {
                    self.set(
                        node,
                        Change::Hit {
                            key: described.key,
                            output: &output,
                            cache,
                        },
                    );
                    self.finish(node, output);
                }
            }
            Message::Checked(node, Ok((described, LookUp::Miss { reason, previous }))) => {
                self.miss(node, described, reason, previous);
            }
            Message::Checked(node, Err(failure)) => {
                self.fail(node, failure, Duration::ZERO, Vec::new());
            }
            Message::Ran(node, result) => self.ran(node, result),
        }
    }

    fn report(&mut self, node: StepId, report: Report) {
        let step = self.name(node);
        let event = match report {
            Report::Line { stream, line } => {
                if let Some(running) = self.running.get_mut(&node) {
                    if running.last_lines.len() == LAST_LINES {
                        running.last_lines.pop_front();
                    }
                    running.last_lines.push_back(line.clone());
                }
                EventKind::Output { step, stream, line }
            }
            Report::Progress {
                what,
                done_bytes,
                total_bytes,
            } => EventKind::Progress {
                step,
                what,
                done_bytes,
                total_bytes,
            },
            Report::Warning { message } => EventKind::Warning {
                step: Some(step),
                message,
            },
            Report::ShellOpened { message, taken_in } => {
                let running = self.running.get(&node);
                let last_lines = running.map(|running| running.last_lines.clone());
                self.emit(EventKind::ShellOpened {
                    step,
                    message,
                    last_lines: last_lines.unwrap_or_default().into(),
                });
                drop(taken_in);
                return;
            }
            Report::ShellClosed => EventKind::ShellClosed { step },
        };
        self.emit(event);
    }

    fn miss(
        &mut self,
        node: StepId,
        described: Described<I>,
        reason: MissReason,
        previous: Option<Vec<DiffId>>,
    ) {
        let key = described.key;
        self.set(node, Change::Miss { key, reason });
        match self.holders.get_mut(&key) {
            // Finished between this node's look-up and now. Once is enough: a cache that does not keep
            // what it was given must not keep the build going round.
            Some(holder) if holder.is_built && self.joined.contains(&node) => {
                self.missed.insert(
                    self.place(node),
                    Missed {
                        described,
                        previous,
                    },
                );
            }
            Some(holder) => {
                let (with, is_built) = (holder.node, holder.is_built);
                if !is_built {
                    holder.joined.push(node);
                }
                self.joined.insert(node);
                self.set(node, Change::Join { with });
                if is_built {
                    self.queue(node);
                }
            }
            None => {
                self.holders.insert(
                    key,
                    Holder {
                        node,
                        joined: Vec::new(),
                        is_built: false,
                    },
                );
                self.missed.insert(
                    self.place(node),
                    Missed {
                        described,
                        previous,
                    },
                );
            }
        }
    }

    fn ran(&mut self, node: StepId, result: Result<NodeOutput, Failure>) {
        let running = self.running.remove(&node).expect("only what runs ends");
        let duration = running.since.elapsed();
        let holder = self.holders.get_mut(&running.key);
        let holder = holder.expect("what runs holds its key");
        let joined = std::mem::take(&mut holder.joined);
        holder.is_built = result.is_ok();
        if !holder.is_built {
            self.holders.remove(&running.key);
        }
        match result {
            Ok(output) => {
                let unchanged = running.previous.as_ref() == Some(&output.layers);
                self.set(
                    node,
                    Change::Finish {
                        output: &output,
                        duration,
                        unchanged,
                    },
                );
                self.finish(node, output);
            }
            Err(failure) => self.fail(node, failure, duration, running.last_lines.into()),
        }
        // They look again: for the result, or for what to do without it.
        joined.into_iter().for_each(|joined| self.queue(joined));
    }

    fn finish(&mut self, node: StepId, output: NodeOutput) {
        self.outputs[node]
            .set(output)
            .expect("a node finishes once");
        for &Edge {
            node: dependent, ..
        } in self.graph.dependents(node)
        {
            self.waits_for[dependent] -= 1;
            if self.waits_for[dependent] == 0 && self.states[dependent] == StepState::Waiting {
                self.queue(dependent);
            }
        }
    }

    fn fail(
        &mut self,
        node: StepId,
        failure: Failure,
        duration: Duration,
        last_lines: Vec<String>,
    ) {
        if failure.summary.kind == FailureKind::Cancelled {
            self.set(node, Change::Cancel);
            return;
        }
        let cause = failure.summary.clone();
        self.set(
            node,
            Change::Fail {
                cause,
                last_lines,
                duration,
            },
        );
        self.failures.push((node, failure));
        let failed = self.name(node);
        let mut behind: Vec<StepId> = vec![node];
        while let Some(node) = behind.pop() {
            for &Edge {
                node: dependent, ..
            } in self.graph.dependents(node)
            {
                if !self.states[dependent].is_finished() {
                    let failed = failed.clone();
                    self.set(dependent, Change::Skip(SkipReason::Failed { failed }));
                    behind.push(dependent);
                }
            }
        }
    }
}
