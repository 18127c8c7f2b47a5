//! Checks that take several steps or images at once. What of them is right is checked, whatever is wrong beside it.

use std::collections::BTreeMap;

use kiln_oci::{DEFAULT_TAG, Reference};

use crate::check::Checker;
use crate::model::{Action, CopySource, FileSet, Image, Secret, SecretSource, Step};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::value::Name;

impl Checker<'_> {
    /// No reference may name two images.
    pub(super) fn check_tags(&mut self, image: &Name, tags: &[Spanned<Reference>]) {
        let mut seen = std::mem::take(&mut self.tags);
        for tag in tags {
            self.once(&mut seen, "tags", tag.value.to_string(), tag.span);
            if let Some(other) = self
                .named_by_itself(&tag.value)
                .filter(|other| other != image)
            {
                self.invalid(
                    &tag.value,
                    format!("is the name that the image `{other}` has by itself"),
                    tag.span,
                    "give it another name",
                );
            }
        }
        self.tags = seen;
    }

    /// The image of this file that is kept as `tag` without saying so, as `localhost/PROJECT/IMAGE:latest`.
    fn named_by_itself(&self, tag: &Reference) -> Option<Name> {
        let project = self.project.as_ref()?;
        let image = tag.repository().strip_prefix(project.as_str())?;
        let (image, _) = self.names.images.get_key_value(image.strip_prefix('/')?)?;
        let is_latest = tag.tag().is_none_or(|tag| tag == DEFAULT_TAG);
        (tag.registry() == "localhost" && is_latest).then(|| image.clone())
    }

    /// No account of an image may be added twice.
    pub(super) fn check_accounts(&mut self, steps: &BTreeMap<Name, Step>) {
        let (mut names, mut uids) = (BTreeMap::new(), BTreeMap::new());
        for step in steps.values() {
            if let Action::Account(account) = &step.action.value {
                let (name, at) = (&account.name, step.action.span);
                self.once(&mut names, "account", name.value.clone(), name.span);
                self.once(&mut uids, "account", account.uid.to_string(), at);
            }
        }
    }

    fn once(
        &mut self,
        seen: &mut BTreeMap<String, Span>,
        key: &'static str,
        value: String,
        span: Span,
    ) {
        if let Some(first) = seen.insert(value.clone(), span) {
            self.problems.push(Problem::Duplicate {
                value,
                key,
                first_at: first.min(span).into(),
                second_at: first.max(span).into(),
            });
        }
    }

    /// Warns where project files are taken and a secret's file is among them.
    pub(super) fn warn_of_secret_files(
        &mut self,
        images: &BTreeMap<Name, Image>,
        secrets: &BTreeMap<Name, Secret>,
    ) {
        let steps = images.values().flat_map(|image| image.steps.values());
        let sets: Vec<&FileSet> = steps.flat_map(|step| file_sets(&step.action)).collect();
        for secret in secrets.values() {
            let SecretSource::File(file) = &secret.source else {
                continue;
            };
            for set in &sets {
                let Some((pattern, at)) = takes(set, file.as_str()) else {
                    continue;
                };
                self.problems.push(Problem::SecretFileTaken {
                    secret: secret.name.to_string(),
                    path: file.to_string(),
                    pattern,
                    at: at.into(),
                    secret_at: file.span.into(),
                });
            }
        }
    }
}

fn file_sets(action: &Action) -> Vec<&FileSet> {
    match action {
        Action::Run(run) => run.files.iter().collect(),
        Action::Copy(entries) => entries
            .iter()
            .filter_map(|entry| match &entry.source {
                CopySource::Files(set) => Some(set),
                CopySource::Produced { .. } => None,
            })
            .collect(),
        Action::Packages(_)
        | Action::Fetch(_)
        | Action::Git(_)
        | Action::Write(_)
        | Action::Remove(_)
        | Action::Mkdir(_)
        | Action::Link(_)
        | Action::Account(_) => Vec::new(),
    }
}

/// The path of `file` below the set's base, and the pattern that takes it.
fn takes(set: &FileSet, file: &str) -> Option<(String, Span)> {
    let relative = match set.base.as_str() {
        "." => file,
        base => file.strip_prefix(base)?.strip_prefix('/')?,
    };
    let matches = |glob: &crate::value::Glob| {
        let matcher = glob.compile().compile_matcher();
        let mut path = Some(relative);
        // What matches a folder takes all below it.
        std::iter::from_fn(|| {
            let here = path?;
            path = here.rsplit_once('/').map(|(folder, _)| folder);
            Some(here)
        })
        .any(|path| matcher.is_match(path))
    };
    if set.exclude.iter().any(|glob| matches(glob)) {
        return None;
    }
    let taking = set.include.iter().find(|glob| matches(glob))?;
    Some((relative.to_owned(), taking.span))
}
