//! A few lines at the bottom of a terminal that follow the build.
//!
//! ```text
//! ✓ hello:base            debian   12 s                     above: what is finished, and stays
//! ⠹ hello.letters         0.8 s    cat letters/k            one line for each step that runs
//! ⠹ hello.embers          0.8 s
//!   3 of 7 steps, 2 running                                 the last line
//! ```
//!
//! The picture is drawn over the last one: up by its height, then each line
//! anew. Lines are cut to the terminal's width, which is asked for each time,
//! so that a resize needs no signal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use kiln_build::{BuildEvent, EventKind, Outcome};
use kiln_graph::NodeName;

use super::{Telling, View};
use crate::printer;
use crate::text;
use crate::words;

/// What turns while something runs.
const WHEEL: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Widest name column; longer names push their line to the right.
const NAME_COLUMNS: usize = 28;

/// Over this time the rate of a download is measured.
const RATE_WINDOW: Duration = Duration::from_secs(3);

/// A step that runs.
struct Running {
    started: Duration,
    last_line: String,
    downloads: BTreeMap<String, (u64, Option<u64>)>,
    /// When how much had come, oldest first, within [`RATE_WINDOW`].
    samples: Vec<(Duration, u64)>,
}

/// Draws on a terminal.
pub(super) struct Live<W> {
    output: W,
    telling: Telling,
    verbose: bool,
    colour: bool,
    name_width: usize,
    total: usize,
    /// Steps that have ended; one whose result was lost by a cache ends twice.
    finished: BTreeSet<NodeName>,
    running: BTreeMap<NodeName, Running>,
    /// Those of `running` that have ended and whose layers come from a cache.
    fetching: BTreeSet<NodeName>,
    /// Lines that go above the next picture.
    staying: String,
    /// Widths of the lines of the last picture.
    picture: Vec<usize>,
    has_work: bool,
    frame: usize,
    now: Duration,
    /// Columns and rows, fixed in tests.
    size: Option<(usize, usize)>,
}

/// What a finished line is about, for its mark and colour.
#[derive(Clone, Copy)]
enum Mark {
    Good,
    Cached,
    Bad,
    Faint,
}

impl Mark {
    fn sign(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Cached => "=",
            Self::Bad => "✗",
            Self::Faint => "-",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Cached => "36",
            Self::Bad => "31",
            Self::Faint => "2",
        }
    }
}

impl<W: Write + Send> Live<W> {
    pub(super) fn new(output: W, telling: Telling, verbose: bool, colour: bool) -> Self {
        Self {
            output,
            telling,
            verbose,
            colour,
            name_width: 0,
            total: 0,
            finished: BTreeSet::new(),
            running: BTreeMap::new(),
            fetching: BTreeSet::new(),
            staying: String::new(),
            picture: Vec::new(),
            has_work: false,
            frame: 0,
            now: Duration::ZERO,
            size: None,
        }
    }

    /// The same view on a terminal of a fixed size.
    #[cfg(test)]
    pub(super) fn with_size(mut self, columns: usize, rows: usize) -> Self {
        self.size = Some((columns, rows));
        self
    }

    fn is_told(&self) -> bool {
        self.has_work || self.telling == Telling::Everything || self.verbose
    }

    fn size(&self) -> (usize, usize) {
        self.size.unwrap_or_else(printer::terminal_size)
    }

    /// Puts a line above the next picture, where it stays.
    fn stay(&mut self, line: &str) {
        self.staying.push_str(line);
        self.staying.push('\n');
    }

    fn stay_about(&mut self, mark: Mark, step: &NodeName, words: &str) {
        let width = self.name_width;
        let sign = self.paint(mark.sign(), mark.colour());
        self.stay(&format!("{sign} {:width$}  {words}", step.as_str()));
    }

    /// What takes the last picture off the screen.
    fn erase(&mut self) -> String {
        let (columns, _) = self.size();
        // A terminal that became narrower has wrapped our lines.
        let rows: usize = self
            .picture
            .drain(..)
            .map(|width| width.max(1).div_ceil(columns.max(1)))
            .sum();
        if rows == 0 {
            String::new()
        } else {
            format!("\r\u{1b}[{rows}A\u{1b}[J")
        }
    }

    fn draw(&mut self) -> io::Result<()> {
        let mut frame = self.erase();
        frame.push_str(&std::mem::take(&mut self.staying));
        if self.is_told() {
            for (line, width) in self.lines() {
                self.picture.push(width);
                frame.push_str(&line);
                frame.push('\n');
            }
        }
        self.output.write_all(frame.as_bytes())?;
        self.output.flush()
    }

    /// The picture: each line and the columns it takes.
    fn lines(&self) -> Vec<(String, usize)> {
        let (columns, rows) = self.size();
        // Room for the last line, and for something of what came before.
        let room = rows.saturating_sub(3).max(1);
        let mut lines = Vec::new();
        let wheel = WHEEL[self.frame % WHEEL.len()];
        for (step, running) in self.running.iter().take(room) {
            let took = text::duration(self.now.saturating_sub(running.started));
            let width = self.name_width;
            let text = format!(
                "  {:width$}  {took:<10} {}",
                step.as_str(),
                self.detail(running)
            );
            let text = text::cut(text.trim_end(), columns.saturating_sub(1));
            let shown = text.replacen(' ', &self.paint(wheel, "33"), 1);
            lines.push((shown, text::width(&text)));
        }
        let mut last = format!(
            "  {} of {}",
            self.finished.len(),
            text::count(self.total, "step")
        );
        if self.running.len() > room {
            write!(
                last,
                ", {} running, {} of them not shown",
                self.running.len(),
                self.running.len() - room
            )
            .expect("a string takes all that is written");
        } else if !self.running.is_empty() {
            write!(last, ", {} running", self.running.len())
                .expect("a string takes all that is written");
        }
        let last = text::cut(&last, columns.saturating_sub(1));
        lines.push((self.paint(&last, "2"), text::width(&last)));
        lines
    }

    /// What a running step is at: its downloads, else its last line.
    fn detail(&self, running: &Running) -> String {
        let open: Vec<_> = running
            .downloads
            .iter()
            .filter(|(_, (done, total))| Some(*done) != *total)
            .collect();
        let Some((what, _)) = open.first() else {
            return running.last_line.clone();
        };
        let done = running.downloads.values().map(|(done, _)| done).sum();
        let total = running.downloads.values().map(|(_, total)| *total).sum();
        let rate = self
            .rate(running)
            .map_or_else(String::new, |rate| format!(", {}/s", text::bytes(rate)));
        format!("{}{rate}  {what}", words::done_of(done, total))
    }

    fn rate(&self, running: &Running) -> Option<u64> {
        let (from, had) = running.samples.first()?;
        let (at, has) = running.samples.last()?;
        if self.now.saturating_sub(*at) > RATE_WINDOW {
            return None;
        }
        let milliseconds = u64::try_from(self.now.saturating_sub(*from).as_millis()).ok()?;
        has.checked_sub(*had)?
            .checked_mul(1000)?
            .checked_div(milliseconds)
    }

    fn progress(&mut self, step: &NodeName, what: &str, done: u64, total: Option<u64>) {
        let now = self.now;
        // The layers of a step that is done already come from a cache.
        let is_done = total == Some(done);
        if !self.running.contains_key(step) && !is_done {
            self.has_work = true;
            self.begin(step);
            self.fetching.insert(step.clone());
        }
        let Some(running) = self.running.get_mut(step) else {
            return;
        };
        running
            .downloads
            .insert(text::harmless(what), (done, total));
        let sum = running.downloads.values().map(|(done, _)| done).sum();
        running.samples.push((now, sum));
        running
            .samples
            .retain(|(at, _)| now.saturating_sub(*at) <= RATE_WINDOW);
        let mut downloads = running.downloads.values();
        let is_whole = downloads.all(|(done, total)| Some(*done) == *total);
        if is_whole && self.fetching.remove(step) {
            self.running.remove(step);
        }
    }

    fn line(&mut self, step: &NodeName, line: String) {
        if self.verbose {
            self.stay_about(Mark::Faint, step, &line);
        }
        if let Some(running) = self.running.get_mut(step)
            && !line.trim().is_empty()
        {
            running.last_line = line;
            // Downloads of unknown size never say that they are over.
            running.downloads.clear();
            running.samples.clear();
        }
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        if self.colour {
            format!("\u{1b}[{colour}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn begin(&mut self, step: &NodeName) {
        self.fetching.remove(step);
        self.running.entry(step.clone()).or_insert_with(|| Running {
            started: self.now,
            last_line: String::new(),
            downloads: BTreeMap::new(),
            samples: Vec::new(),
        });
    }

    fn end(&mut self, step: &NodeName) {
        self.running.remove(step);
        self.fetching.remove(step);
        self.finished.insert(step.clone());
    }
}

impl<W: Write + Send> View for Live<W> {
    fn event(&mut self, event: &BuildEvent) -> io::Result<()> {
        self.now = Duration::from_millis(event.at_ms).max(self.now);
        match &event.kind {
            EventKind::Build { nodes, .. } => {
                let widths = nodes.iter().map(|node| node.step.as_str().len());
                self.name_width = widths.max().unwrap_or(0).min(NAME_COLUMNS);
                self.total = nodes.len();
                // `verify` builds twice.
                self.finished.clear();
            }
            EventKind::Queued { .. } | EventKind::Joined { .. } => {}
            EventKind::Checking { step } => self.begin(step),
            EventKind::Hit { step, cache, .. } => {
                self.end(step);
                if self.telling == Telling::Everything || self.verbose {
                    self.stay_about(Mark::Cached, step, &words::hit(cache.as_deref()));
                }
            }
            EventKind::Miss { step, reason, .. } => {
                self.has_work = true;
                self.running.remove(step);
                if self.verbose {
                    self.stay_about(Mark::Faint, step, &words::miss(reason));
                }
            }
            EventKind::Started { step } => self.begin(step),
            EventKind::Output { step, line, .. } => self.line(step, text::harmless(line)),
            EventKind::Progress {
                step,
                what,
                done_bytes,
                total_bytes,
            } => self.progress(step, what, *done_bytes, *total_bytes),
            EventKind::Warning { step, message } => {
                let label = self.paint("warning", "1;33");
                match step {
                    Some(step) => self.stay(&format!("{label}: {step}: {message}")),
                    None => self.stay(&format!("{label}: {message}")),
                }
            }
            EventKind::Detail { message } => {
                let label = self.paint("detail", "2");
                self.stay(&format!("{label}: {message}"));
            }
            EventKind::ShellOpened {
                step,
                message,
                last_lines,
            } => {
                self.stay_about(Mark::Bad, step, &words::shell(message));
                self.staying
                    .push_str(&words::last_lines(step.as_str(), last_lines));
                self.finish()?;
            }
            EventKind::ShellClosed { .. } => {}
            EventKind::Done {
                step,
                size_bytes,
                duration_ms,
                unchanged,
                ..
            } => {
                self.end(step);
                let words = words::done(*duration_ms, *size_bytes, *unchanged);
                self.stay_about(Mark::Good, step, &words);
            }
            EventKind::Failed { step, cause, .. } => {
                self.end(step);
                self.stay_about(Mark::Bad, step, &cause.message);
            }
            EventKind::Skipped { step, because } => {
                self.end(step);
                self.stay_about(Mark::Faint, step, &words::skipped(because));
            }
            EventKind::Cancelled { step } => {
                self.end(step);
                self.stay_about(Mark::Faint, step, "cancelled");
            }
            EventKind::Image {
                image,
                digest,
                platforms: _,
                references,
            } => {
                if self.is_told() {
                    self.stay(&words::image(image, digest, references));
                }
            }
            EventKind::Written {
                cache,
                steps,
                sent_bytes,
            } => {
                if self.is_told() {
                    self.stay(&words::written(cache, *steps, *sent_bytes));
                }
            }
            EventKind::Finished {
                outcome,
                built,
                cached,
                failed,
                skipped,
            } => {
                if self.is_told() || *outcome != Outcome::Complete {
                    let counts = [*built, *cached, *failed, *skipped];
                    self.stay(&words::summary(*outcome, counts, self.now));
                }
            }
        }
        Ok(())
    }

    fn tick(&mut self, elapsed: Duration) -> io::Result<()> {
        self.now = elapsed.max(self.now);
        self.frame += 1;
        self.draw()
    }

    fn is_live(&self) -> bool {
        true
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut end = self.erase();
        end.push_str(&std::mem::take(&mut self.staying));
        self.output.write_all(end.as_bytes())?;
        self.output.flush()
    }
}
