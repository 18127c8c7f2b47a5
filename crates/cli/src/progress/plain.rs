//! One line per event and per line of output: `image.step | text`.
//!
//! For logs: nothing is taken back, nothing moves, every line says by itself
//! which step it is about.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use kiln_build::{BuildEvent, EventKind, Outcome};
use kiln_graph::NodeName;

use super::Telling;
use super::View;
use crate::text;
use crate::words;

/// Two lines about the same download come at least this far apart.
const BETWEEN_PROGRESS_MS: u64 = 5000;

/// Writes lines.
pub(super) struct Plain<W> {
    output: W,
    telling: Telling,
    verbose: bool,
    /// Width of the longest step name, so that the bars line up.
    name_width: usize,
    /// Whether a step ran: nothing is said before in [`Telling::OnlyWork`].
    has_work: bool,
    /// When each step last told how far it is.
    told_progress_ms: BTreeMap<NodeName, u64>,
}

impl<W: Write + Send> Plain<W> {
    pub(super) fn new(output: W, telling: Telling, verbose: bool) -> Self {
        Self {
            output,
            telling,
            verbose,
            name_width: 0,
            has_work: false,
            told_progress_ms: BTreeMap::new(),
        }
    }

    fn line(&mut self, step: &NodeName, line: &str) -> io::Result<()> {
        let width = self.name_width;
        writeln!(self.output, "{:width$} | {line}", step.as_str())
    }

    fn is_told(&self) -> bool {
        self.has_work || self.telling == Telling::Everything || self.verbose
    }

    fn progress(
        &mut self,
        at_ms: u64,
        step: &NodeName,
        what: &str,
        done: u64,
        total: Option<u64>,
    ) -> io::Result<()> {
        let last = self.told_progress_ms.get(step).copied().unwrap_or(0);
        if at_ms < last + BETWEEN_PROGRESS_MS {
            return Ok(());
        }
        self.told_progress_ms.insert(step.clone(), at_ms);
        let line = format!("{}: {}", text::harmless(what), words::done_of(done, total));
        self.line(step, &line)
    }
}

impl<W: Write + Send> View for Plain<W> {
    fn event(&mut self, event: &BuildEvent) -> io::Result<()> {
        match &event.kind {
            EventKind::Build { nodes, .. } => {
                let widths = nodes.iter().map(|node| node.step.as_str().len());
                self.name_width = widths.max().unwrap_or(0);
                Ok(())
            }
            EventKind::Queued { .. } | EventKind::Checking { .. } => Ok(()),
            EventKind::Hit { step, cache, .. }
                if self.telling == Telling::Everything || self.verbose =>
            {
                self.line(step, &words::hit(cache.as_deref()))
            }
            EventKind::Hit { .. } => Ok(()),
            EventKind::Miss { step, reason, .. } => {
                self.has_work = true;
                if self.verbose {
                    self.line(step, &words::miss(reason))
                } else {
                    Ok(())
                }
            }
            EventKind::Joined { step, with } => {
                self.line(step, &format!("same as {with}, waits for it"))
            }
            EventKind::Started { step } => self.line(step, "started"),
            EventKind::Output { step, line, .. } => self.line(step, &text::harmless(line)),
            EventKind::Progress {
                step,
                what,
                done_bytes,
                total_bytes,
            } => self.progress(event.at_ms, step, what, *done_bytes, *total_bytes),
            EventKind::Warning { step, message } => match step {
                Some(step) => self.line(step, &format!("warning: {message}")),
                None => writeln!(self.output, "warning: {message}"),
            },
            EventKind::Detail { message } => writeln!(self.output, "detail: {message}"),
            EventKind::ShellOpened {
                step,
                message,
                last_lines: _,
            } => self.line(step, &words::shell(message)),
            EventKind::ShellClosed { step } => self.line(step, "the shell was left"),
            EventKind::Done {
                step,
                size_bytes,
                duration_ms,
                unchanged,
                ..
            } => {
                let line = words::done(*duration_ms, *size_bytes, *unchanged);
                self.line(step, &line)
            }
            EventKind::Failed {
                step,
                cause,
                duration_ms,
                ..
            } => {
                let failed = match *duration_ms {
                    // What it is made of could not be had, and it never ran.
                    0 => "failed".to_owned(),
                    took => format!(
                        "failed after {}",
                        text::duration(Duration::from_millis(took))
                    ),
                };
                self.line(step, &format!("{failed}: {}", cause.message))
            }
            EventKind::Skipped { step, because } => self.line(step, &words::skipped(because)),
            EventKind::Cancelled { step } => self.line(step, "cancelled"),
            EventKind::Image {
                image,
                digest,
                platforms: _,
                references,
            } if self.is_told() => {
                writeln!(self.output, "{}", words::image(image, digest, references))
            }
            EventKind::Image { .. } => Ok(()),
            EventKind::Written {
                cache,
                steps,
                sent_bytes,
            } if self.is_told() => {
                writeln!(
                    self.output,
                    "{}",
                    words::written(cache, *steps, *sent_bytes)
                )
            }
            EventKind::Written { .. } => Ok(()),
            EventKind::Finished {
                outcome,
                built,
                cached,
                failed,
                skipped,
            } if self.is_told() || *outcome != Outcome::Complete => {
                let took = Duration::from_millis(event.at_ms);
                let line = words::summary(*outcome, [*built, *cached, *failed, *skipped], took);
                writeln!(self.output, "{line}")
            }
            EventKind::Finished { .. } => Ok(()),
        }
    }
}
