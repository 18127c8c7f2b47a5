//! Failures of steps with a place in the manifest.

use kiln_manifest::{SourceText, Span};
use kiln_store::StoreError;
use miette::LabeledSpan;

use crate::event::FailureKind;
use crate::executor::Failure;
use crate::lock_file::LockFileError;
use crate::project::ProjectError;
use crate::workspace::Workspace;

/// Something wrong that a place in `kiln.toml` has to do with.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{message}")]
#[must_use]
pub struct Problem {
    message: String,
    #[source_code]
    source_code: SourceText,
    #[label("{label}")]
    at: miette::SourceSpan,
    label: String,
    #[label(collection)]
    others: Vec<LabeledSpan>,
    #[help]
    help: Option<String>,
}

impl Problem {
    /// Says that `message` is wrong with what stands at `at`.
    pub(crate) fn new(workspace: &Workspace, at: Span, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source_code: workspace.manifest.source.clone(),
            at: at.into(),
            label: "here".to_owned(),
            others: Vec::new(),
            help: None,
        }
    }

    /// Says what is at the place.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds another place, and says what is there.
    pub(crate) fn and(mut self, at: Span, label: impl Into<String>) -> Self {
        let label = Some(label.into());
        self.others.push(LabeledSpan::new_with_span(label, at));
        self
    }

    /// Says what to do.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns the failure of a step that somebody has to change something for.
    pub(crate) fn user(self) -> Failure {
        Failure::of(FailureKind::User, self)
    }

    /// Returns the failure of a step that the machine is to blame for.
    pub(crate) fn environment(self) -> Failure {
        Failure::of(FailureKind::Environment, self)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Cancelled { .. }) {
            return Self::cancelled();
        }
        Self::new(FailureKind::Environment, chain(&error))
    }
}

impl From<ProjectError> for Failure {
    fn from(error: ProjectError) -> Self {
        let kind = match error {
            ProjectError::Io { .. } => FailureKind::Environment,
            ProjectError::NoMatch { .. }
            | ProjectError::Missing { .. }
            | ProjectError::NotAFile { .. }
            | ProjectError::Unreadable { .. }
            | ProjectError::Changed { .. }
            | ProjectError::TooMany { .. } => FailureKind::User,
        };
        Self::of(kind, error)
    }
}

impl From<LockFileError> for Failure {
    fn from(error: LockFileError) -> Self {
        Self::of(FailureKind::User, error)
    }
}

/// Returns an error and its causes in one line; a cause that the error has told is not told again, nor is
/// what a cause begins with if the error has named it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&without_known_name(&text, &message));
        }
        cause = error.source();
    }
    text
}

/// `message` without the name in backticks that it begins with, if `told` has that name.
fn without_known_name(told: &str, message: &str) -> String {
    let name = message
        .strip_prefix('`')
        .and_then(|rest| rest.split_once('`'));
    match name {
        Some((name, rest)) if told.contains(&format!("`{name}`")) => {
            rest.trim_start_matches([':', ' ']).to_owned()
        }
        Some(_) | None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Told {
        said: &'static str,
        #[source]
        cause: Option<Box<Self>>,
    }

    #[test]
    fn nothing_is_told_twice() {
        let told = |said: &[&'static str]| {
            let causes = said
                .iter()
                .rev()
                .fold(None, |cause, said| Some(Box::new(Told { said, cause })));
            chain(&*causes.expect("one at least"))
        };
        assert_eq!(told(&["a", "b", "c"]), "a: b: c");
        assert_eq!(told(&["cannot: broken", "broken"]), "cannot: broken");
        assert_eq!(
            told(&["`u` is wrong", "`u` (status 200): other bytes"]),
            "`u` is wrong: (status 200): other bytes"
        );
        assert_eq!(told(&["`u` is wrong", "`u`: why"]), "`u` is wrong: why");
        assert_eq!(
            told(&["`u` is wrong", "`v`: why"]),
            "`u` is wrong: `v`: why"
        );
    }
}
