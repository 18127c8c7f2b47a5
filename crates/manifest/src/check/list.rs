//! Checks of lists: nothing twice, not empty, patterns sorted into sets.

use std::collections::BTreeMap;

use crate::check::Checker;
use crate::decode::List;
use crate::model::FileSet;
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::value::{FilePattern, ProjectPath};

impl Checker<'_> {
    /// The items of a list in which nothing may stand twice; absent is empty.
    pub(crate) fn distinct<T: Ord + Clone>(
        &mut self,
        key: &'static str,
        list: Option<List<Spanned<T>>>,
        show: impl Fn(&T) -> String,
    ) -> Vec<Spanned<T>> {
        let mut seen: BTreeMap<T, Span> = BTreeMap::new();
        let mut items = Vec::new();
        for item in list.into_iter().flat_map(|list| list.items) {
            match seen.get(&item.value) {
                Some(first) => self.problems.push(Problem::Duplicate {
                    value: show(&item.value),
                    key,
                    first_at: (*first).into(),
                    second_at: item.span.into(),
                }),
                None => {
                    seen.insert(item.value.clone(), item.span);
                    items.push(item);
                }
            }
        }
        items
    }

    /// Reports a list or table that says nothing.
    pub(crate) fn not_empty(&mut self, key: &str, is_empty: bool, span: Span) {
        if is_empty {
            self.problems.push(Problem::Empty {
                what: format!("`{key}`"),
                at: span.into(),
                help: format!("fill it in, or remove `{key}`"),
            });
        }
    }

    /// Sorts patterns into those that take and those that leave out.
    pub(crate) fn file_set(
        &mut self,
        patterns: List<Spanned<FilePattern>>,
        base: Option<Spanned<ProjectPath>>,
    ) -> Option<FileSet> {
        let (span, is_empty) = (patterns.span, patterns.is_empty);
        self.not_empty("files", is_empty, span);
        let was_readable = !patterns.items.is_empty();
        let items = self.distinct("files", Some(patterns), |pattern| match pattern {
            FilePattern::Include(glob) => glob.to_string(),
            FilePattern::Exclude(glob) => format!("!{glob}"),
        });
        let mut set = FileSet {
            base: base.unwrap_or_else(|| Spanned::new(ProjectPath::here(), span)),
            include: Vec::new(),
            exclude: Vec::new(),
        };
        for item in items {
            match item.value {
                FilePattern::Include(glob) => set.include.push(Spanned::new(glob, item.span)),
                FilePattern::Exclude(glob) => set.exclude.push(Spanned::new(glob, item.span)),
            }
        }
        if set.include.is_empty() {
            if was_readable {
                self.problems.push(Problem::Empty {
                    what: "what `files` takes".to_owned(),
                    at: span.into(),
                    help: "add a pattern without `!`, such as `\"**\"` for everything".to_owned(),
                });
            }
            return None;
        }
        Some(set)
    }
}
