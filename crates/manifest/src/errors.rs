//! All that is wrong with one manifest, as it is shown.

use miette::Diagnostic;
use thiserror::Error;

use crate::outline::Outline;
use crate::problem::Problem;
use crate::span::SourceText;

/// All that is wrong with a manifest, in the order of the text. Warnings are among them.
///
/// A successful parse can be shown in the same way: make one of `manifest.source` and
/// `manifest.warnings`.
#[derive(Debug, Error, Diagnostic)]
#[error("{}", summary(problems))]
#[diagnostic(code(manifest::invalid))]
#[must_use]
pub struct ManifestErrors {
    /// File name and text.
    #[source_code]
    pub source_code: SourceText,
    /// What is wrong.
    #[related]
    pub problems: Vec<Problem>,
    /// What refers to what as far as it could be read, for who looks for circles.
    pub outline: Outline,
}

fn summary(problems: &[Problem]) -> String {
    let errors = problems.iter().filter(|problem| problem.is_error()).count();
    let warnings = problems.len() - errors;
    let count = |number: usize, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    match (errors, warnings) {
        (_, 0) => format!("the manifest has {}", count(errors, "error")),
        (0, _) => format!("the manifest has {}", count(warnings, "warning")),
        _ => format!(
            "the manifest has {} and {}",
            count(errors, "error"),
            count(warnings, "warning")
        ),
    }
}
