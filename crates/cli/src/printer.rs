//! The only place that writes to the terminal.
//!
//! Data goes to standard output and nothing else does; progress, warnings,
//! hints and failures go to standard error. All of it makes sense without
//! colour.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, Severity, SourceCode,
};

use crate::errors::{Class, Failure, Outcome};
use crate::excerpt::{self, Excerpt};
use crate::notices::Notice;
use crate::settings::Settings;

/// Exit code of `run` for kiln's own failures, as docker has it.
pub(crate) const OWN_FAILURE_OF_RUN: u8 = 125;

/// Narrowest and widest report; beyond it long lines tire the eye.
const REPORT_COLUMNS: std::ops::RangeInclusive<usize> = 40..=120;

/// Writes for one run of kiln.
#[derive(Debug)]
pub(crate) struct Printer {
    colour: bool,
    quiet: bool,
    verbose: bool,
    columns: usize,
}

impl Printer {
    /// A printer as the settings want it.
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            colour: settings.colour_on_stderr,
            quiet: settings.quiet,
            verbose: settings.verbose,
            columns: settings.columns,
        }
    }

    /// A printer for what happens before there are settings.
    pub(crate) fn plain() -> Self {
        Self {
            colour: false,
            quiet: false,
            verbose: false,
            columns: *REPORT_COLUMNS.end(),
        }
    }

    /// Writes data to standard output, as it is.
    pub(crate) fn data(&mut self, bytes: impl AsRef<[u8]>) -> Outcome {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(bytes.as_ref())
            .and_then(|()| stdout.flush())
            .map_err(Failure::output)
    }

    /// Where a server writes down what it does: standard error.
    pub(crate) fn log() -> kiln_registry::Sink {
        Box::new(io::stderr())
    }

    /// Writes one line of data to standard output.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Outcome {
        self.data(format!("{}\n", line.as_ref()))
    }

    /// Writes a JSON document to standard output.
    pub(crate) fn json(&mut self, value: &serde_json::Value) -> Outcome {
        let text = serde_json::to_string_pretty(value).expect("values are always JSON");
        self.line(text)
    }

    /// Tells what was done; silent with `--quiet`.
    pub(crate) fn note(&mut self, line: impl AsRef<str>) {
        if !self.quiet {
            self.error_line(line.as_ref());
        }
    }

    /// Asks for something that is typed behind it.
    pub(crate) fn prompt(&mut self, question: &str) -> Outcome {
        let mut stderr = io::stderr().lock();
        stderr
            .write_all(question.as_bytes())
            .and_then(|()| stderr.flush())
            .map_err(Failure::output)
    }

    /// Tells what only `--verbose` wants to know.
    pub(crate) fn detail(&mut self, line: impl AsRef<str>) {
        if self.verbose {
            self.error_line(line.as_ref());
        }
    }

    /// Tells of something that works now and may surprise later.
    pub(crate) fn warning(&mut self, line: impl AsRef<str>) {
        let label = self.paint("warning", "\u{1b}[1;33m");
        self.error_line(&format!("{label}: {}", line.as_ref()));
    }

    /// Tells what a library has to say, where no view does. Called from any thread.
    pub(crate) fn teller(settings: &Settings) -> impl Fn(&Notice) + Send + Sync + use<> {
        let colour = settings.colour_on_stderr;
        // The terminal may be a container's, and then a line's end alone does not go back to its beginning.
        let end = if settings.stderr_is_terminal {
            "\r\n"
        } else {
            "\n"
        };
        move |notice| {
            let (label, text) = match notice {
                Notice::Warning(text) => (paint(colour, "warning", "\u{1b}[1;33m"), text),
                Notice::Detail(text) => (paint(colour, "detail", "\u{1b}[2m"), text),
            };
            let line = format!("{label}: {text}{end}");
            // In one piece, and if standard error is gone, so is whoever could be told so.
            if io::stderr().lock().write_all(line.as_bytes()).is_err() {}
        }
    }

    /// Shows clap's own message, which is help or a usage error.
    pub(crate) fn usage(&mut self, error: &clap::Error, own_codes: bool) -> ExitCode {
        // A terminal that is gone cannot be told that it is gone; what is wrong stays wrong.
        drop(error.print());
        match u8::try_from(error.exit_code()) {
            // Help that was asked for.
            Ok(0) => ExitCode::SUCCESS,
            _ if own_codes => ExitCode::from(OWN_FAILURE_OF_RUN),
            code => ExitCode::from(code.unwrap_or(2)),
        }
    }

    /// Shows a failure after which kiln goes on.
    pub(crate) fn report_failure(&mut self, failure: &Failure) {
        let text = self.rendered(failure.report.as_ref());
        self.error_line(text.trim_end_matches('\n'));
    }

    /// Shows a failure and returns its exit code.
    pub(crate) fn failure(&mut self, failure: &Failure, own_codes: bool) -> ExitCode {
        if failure.class == Class::BrokenPipe {
            return ExitCode::SUCCESS;
        }
        let mut text = failure.preface.clone();
        text.push_str(&self.rendered(failure.report.as_ref()));
        if failure.class == Class::Bug {
            text.push_str("this is a bug in kiln; please report it with the lines above\n");
        }
        self.error_line(text.trim_end_matches('\n'));
        ExitCode::from(match failure.code {
            Some(code) => code,
            // To stop is no failure of kiln, and a script that was interrupted is to see so.
            None if own_codes && failure.class != Class::Interrupted => OWN_FAILURE_OF_RUN,
            None => failure.class.code(),
        })
    }

    /// Shows a diagnostic that is no failure.
    pub(crate) fn report(&mut self, diagnostic: &dyn Diagnostic) {
        let text = self.rendered(diagnostic);
        self.error_line(text.trim_end_matches('\n'));
    }

    /// Draws a diagnostic; one that only gathers others comes as a headline
    /// before them, and not at all before a single one.
    fn rendered(&self, diagnostic: &dyn Diagnostic) -> String {
        let theme = if self.colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let width = self
            .columns
            .clamp(*REPORT_COLUMNS.start(), *REPORT_COLUMNS.end());
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_links(false)
            .with_width(width);
        let source = diagnostic.source_code().and_then(Excerpt::of);
        let around = source.as_ref();
        let drawn = |diagnostic| Drawn::of(diagnostic, around);
        let parts: Vec<&dyn Diagnostic> = diagnostic.related().into_iter().flatten().collect();
        let shown = match parts.as_slice() {
            [] => vec![drawn(diagnostic)],
            [only] => vec![drawn(*only)],
            [..] => std::iter::once(diagnostic)
                .chain(parts.iter().copied())
                .map(drawn)
                .collect(),
        };
        let mut text = String::new();
        for drawn in shown {
            let mut part = String::new();
            if handler.render_report(&mut part, &drawn).is_err() {
                part = format!("error: {}", drawn.diagnostic);
            }
            if !text.is_empty() {
                text.push_str("\n\n");
            }
            text.push_str(part.trim_matches('\n'));
        }
        text
    }

    fn paint(&self, text: &str, colour: &str) -> String {
        paint(self.colour, text, colour)
    }

    #[expect(
        clippy::unused_self,
        reason = "whoever writes holds the printer, so that lines do not mix"
    )]
    fn error_line(&mut self, line: &str) {
        let mut stderr = io::stderr().lock();
        // Standard error is where failures are told; there is nobody to tell of its own.
        if writeln!(stderr, "{line}").is_err() {}
    }
}

fn paint(is_coloured: bool, text: &str, colour: &str) -> String {
    if is_coloured {
        format!("{colour}{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// A diagnostic without its code, which says nothing to the person who wrote
/// the manifest, on the text that the one around it is about.
struct Drawn<'a> {
    diagnostic: &'a dyn Diagnostic,
    /// Its own text, if it has one.
    own: Option<Excerpt>,
    around: Option<&'a Excerpt>,
}

impl<'a> Drawn<'a> {
    fn of(diagnostic: &'a dyn Diagnostic, around: Option<&'a Excerpt>) -> Self {
        let own = match around {
            None => diagnostic.source_code().and_then(Excerpt::of),
            Some(_) => None,
        };
        Self {
            diagnostic,
            own,
            around,
        }
    }

    fn excerpt(&self) -> Option<&Excerpt> {
        self.own.as_ref().or(self.around)
    }
}

impl fmt::Debug for Drawn<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.diagnostic, formatter)
    }
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&excerpt::visible(&self.diagnostic.to_string()))
    }
}

impl std::error::Error for Drawn<'_> {
    /// The first cause that the message has not told.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let told = self.diagnostic.to_string();
        let mut cause = self.diagnostic.source();
        while let Some(known) = cause.filter(|cause| told.contains(&cause.to_string())) {
            cause = known.source();
        }
        cause
    }
}

impl Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<Severity> {
        self.diagnostic.severity()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.diagnostic.help()?;
        Some(Box::new(excerpt::visible(&help.to_string())))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        let excerpt = self.excerpt()?;
        Some(excerpt)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.excerpt()?;
        let labels = self.diagnostic.labels()?;
        Some(Box::new(labels.map(|label| {
            let text = label.label().map(excerpt::visible);
            let span = excerpt.shown(label.inner());
            if label.primary() {
                LabeledSpan::new_primary_with_span(text, span)
            } else {
                LabeledSpan::new_with_span(text, span)
            }
        })))
    }

    fn diagnostic_source(&self) -> Option<&dyn Diagnostic> {
        self.diagnostic.diagnostic_source()
    }
}

/// Whether standard input, output and error are terminals.
pub(crate) fn terminals() -> [bool; 3] {
    [
        io::stdin().is_terminal(),
        io::stdout().is_terminal(),
        io::stderr().is_terminal(),
    ]
}

/// Columns and rows of the terminal behind standard error.
pub(crate) fn terminal_size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            (usize::from(size.ws_col), usize::from(size.ws_row))
        }
        _ => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error, Diagnostic)]
    #[error("{said}")]
    struct Told {
        said: &'static str,
        #[source]
        cause: io::Error,
    }

    #[test]
    fn a_cause_is_told_once() {
        let drawn = |said| {
            let cause = io::Error::other("the disk is full");
            Printer::plain().rendered(&Told { said, cause })
        };
        for said in ["cannot write: the disk is full", "cannot write"] {
            assert_eq!(drawn(said).matches("the disk is full").count(), 1, "{said}");
        }
    }
}
