//! A build that failed, told so that a person knows where to look.
//!
//! For each failed step: its last lines, what went wrong at its place in the
//! manifest, and the command that shows its whole log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kiln_build::{Build, BuildEvent, EventKind, FailureKind, FailureSummary, Outcome};
use kiln_graph::{BuildGraph, Work};
use kiln_manifest::Span;
use miette::{Diagnostic, LabeledSpan, NamedSource, Report, SourceCode};

use crate::errors::{Class, Failure};
use crate::progress;
use crate::settings::Settings;
use crate::shortage;
use crate::text;
use crate::words;

/// Longest message that is shown whole.
const MESSAGE_COLUMNS: usize = 600;

/// Longest message that is repeated at its place in the manifest.
const LABEL_COLUMNS: usize = 80;

/// The last lines of failed steps, collected from events.
#[derive(Debug)]
pub(crate) struct LastLines {
    /// Whether somebody has not seen them yet.
    are_wanted: bool,
    of_steps: BTreeMap<String, Vec<String>>,
}

impl LastLines {
    /// Keeps lines unless the view that the settings ask for writes all of them anyway.
    pub(crate) fn unless_shown(settings: &Settings) -> Self {
        Self {
            are_wanted: !progress::shows_all_output(settings),
            of_steps: BTreeMap::new(),
        }
    }

    /// Keeps what `event` has of them.
    pub(crate) fn take_in(&mut self, event: &BuildEvent) {
        if let EventKind::Failed {
            step, last_lines, ..
        } = &event.kind
            && self.are_wanted
        {
            self.of_steps.insert(step.to_string(), last_lines.clone());
        }
    }
}

/// Makes one failure of all that went wrong, in the order in which it did.
///
/// `None` if nothing did.
pub(crate) fn failure(graph: &BuildGraph, built: Build, last_lines: &LastLines) -> Option<Failure> {
    let interrupted = built.report.outcome == Outcome::Cancelled;
    let of_nodes = built.report.failures.into_iter().map(|(node, failure)| {
        let node = &graph.nodes()[node];
        let span = match &node.work {
            Work::Step(step) => step.action.span,
            Work::Base(_) => node.span,
        };
        FailedPart::new(graph, node.name.to_string(), Some(span), failure)
    });
    let of_images = built
        .failures
        .into_iter()
        .map(|(image, failure)| FailedPart::new(graph, graph.image_title(&image), None, failure));
    let parts: Vec<FailedPart> = of_nodes
        .chain(of_images)
        .filter(|part| part.summary.kind != FailureKind::Cancelled)
        .collect();
    let class = parts
        .iter()
        .map(|part| class(part.summary.kind))
        // A bug is worth more attention than a full disk, and that more than a typo.
        .max_by_key(|class| class.code());
    let class = match class {
        Some(class) => class,
        None if interrupted => Class::Interrupted,
        None => return None,
    };
    let preface = parts
        .iter()
        .filter(|part| part.has_log())
        .filter_map(|part| Some((&part.name, last_lines.of_steps.get(&part.name)?)))
        .map(|(name, lines)| words::last_lines(name, lines))
        .collect();
    let report = match <[FailedPart; 1]>::try_from(parts) {
        Ok([only]) => Report::new(only),
        Err(parts) => Report::new(FailedParts(parts)),
    };
    Some(Failure::new(class, report).with_preface(preface))
}

/// Who can do something about it.
fn class(kind: FailureKind) -> Class {
    match kind {
        FailureKind::Process
        | FailureKind::OutOfMemory
        | FailureKind::TimedOut
        | FailureKind::User => Class::User,
        FailureKind::Environment => Class::Environment,
        FailureKind::Cancelled => Class::Interrupted,
        FailureKind::Bug => Class::Bug,
    }
}

/// The first line of a message, not too long: a message may end in all that a
/// program wrote, and that is in the log.
fn brief(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    text::cut(&text::harmless(first), MESSAGE_COLUMNS)
}

/// One failed step, base or image.
#[derive(Debug)]
struct FailedPart {
    name: String,
    summary: FailureSummary,
    /// What the crate that found it has to say, if that is more than one line.
    inner: Option<Box<dyn Diagnostic + Send + Sync>>,
    source: Arc<NamedSource<String>>,
    label: Option<LabeledSpan>,
}

impl FailedPart {
    fn new(
        graph: &BuildGraph,
        name: String,
        span: Option<Span>,
        failure: kiln_build::Failure,
    ) -> Self {
        let kiln_build::Failure {
            summary,
            diagnostic,
        } = failure;
        let words = brief(&summary.message);
        let words = match words.chars().count() > LABEL_COLUMNS {
            true => "this failed".to_owned(),
            false => words,
        };
        Self {
            name,
            label: span.map(|span| LabeledSpan::new_with_span(Some(words), span)),
            summary,
            inner: diagnostic,
            source: graph.source().clone(),
        }
    }

    fn has_log(&self) -> bool {
        match self.summary.kind {
            FailureKind::Process | FailureKind::OutOfMemory | FailureKind::TimedOut => true,
            FailureKind::User
            | FailureKind::Environment
            | FailureKind::Bug
            | FailureKind::Cancelled => false,
        }
    }
}

impl fmt::Display for FailedPart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`{}` failed: {}",
            self.name,
            brief(&self.summary.message)
        )
    }
}

impl std::error::Error for FailedPart {}

impl Diagnostic for FailedPart {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        if let Some(help) = self.inner.as_ref().and_then(|inner| inner.help()) {
            return Some(help);
        }
        if self.summary.kind == FailureKind::Environment
            && let Some(help) = shortage::help(&self.summary.message)
        {
            return Some(Box::new(help));
        }
        self.has_log().then(|| {
            Box::new(format!("see all it wrote: kiln log {}", self.name)) as Box<dyn fmt::Display>
        })
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match &self.inner {
            Some(inner) if inner.source_code().is_some() => inner.source_code(),
            Some(_) | None => Some(&*self.source),
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let inner = self.inner.as_ref().and_then(|inner| inner.labels());
        let own =
            || Some(Box::new(self.label.iter().cloned()) as Box<dyn Iterator<Item = LabeledSpan>>);
        inner.or_else(own)
    }
}

/// Several of them.
#[derive(Debug)]
struct FailedParts(Vec<FailedPart>);

impl fmt::Display for FailedParts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            0 => formatter.write_str("the build was stopped"),
            count => write!(formatter, "{count} steps failed"),
        }
    }
}

impl std::error::Error for FailedParts {}

impl Diagnostic for FailedParts {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.0.iter().map(|part| part as &dyn Diagnostic)))
    }
}
