//! `${arg.NAME}` in string values.

use std::collections::BTreeMap;

use crate::problem::Problem;
use crate::span::Span;
use crate::suggest;
use crate::value::Name;

/// Longest text after variables are applied.
const TEXT_LIMIT_BYTES: usize = 1 << 20;

const OPEN: &str = "${arg.";

/// Values by name. `None`: declared, but without a usable value, which was reported.
pub(crate) type Values = BTreeMap<String, Option<String>>;

/// What applying variables to a text gave.
pub(crate) enum Applied {
    /// There was nothing to apply.
    Unchanged,
    /// The new text.
    Changed(String),
    /// Something was wrong, and was reported.
    Failed,
}

/// The variables in effect.
#[derive(Debug)]
pub(crate) enum Variables {
    /// Inside `[args]`, where there are none.
    Declaring,
    /// Everywhere else.
    Declared(Values),
}

impl Variables {
    /// Applies the variables to `text`, which stands at `span` of `source`.
    pub(crate) fn apply(
        &self,
        text: &str,
        span: Span,
        source: &str,
        problems: &mut Vec<Problem>,
    ) -> Applied {
        if !text.contains("${") {
            return Applied::Unchanged;
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut good = true;
        for number in 0.. {
            let Some(at) = rest.find("${") else {
                break;
            };
            let place = Place {
                source,
                span,
                number,
            };
            let (before, here) = rest.split_at(at);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = &here[2..];
                continue;
            }
            out.push_str(before);
            let Some(after) = here.strip_prefix(OPEN) else {
                self.warn_if_similar(here, &place, problems);
                out.push_str("${");
                rest = &here[2..];
                continue;
            };
            let name = after.split_once('}').map(|(name, _)| name);
            let Some(name) = name.filter(|name| Name::parse(name).is_ok()) else {
                let shown: String = here.chars().take_while(|c| *c != '}').take(40).collect();
                problems.push(Problem::InvalidVariable {
                    at: place.of(&shown).into(),
                    text: shown,
                });
                good = false;
                rest = after;
                continue;
            };
            match self.value(name, &place, problems) {
                Some(value) => out.push_str(value),
                None => good = false,
            }
            rest = &after[name.len() + 1..];
            if out.len() > TEXT_LIMIT_BYTES {
                problems.push(Problem::InvalidValue {
                    value: shorten(text),
                    reason: format!(
                        "has more than {TEXT_LIMIT_BYTES} bytes after variables are applied"
                    ),
                    at: span.into(),
                    origin: "here",
                    help: "use shorter values, or fewer of them".to_owned(),
                });
                return Applied::Failed;
            }
        }
        out.push_str(rest);
        if good {
            Applied::Changed(out)
        } else {
            Applied::Failed
        }
    }

    fn value(&self, name: &str, place: &Place<'_>, problems: &mut Vec<Problem>) -> Option<&str> {
        let at = place.of(&format!("{OPEN}{name}}}"));
        let values = match self {
            Self::Declaring => {
                problems.push(Problem::VariableInArgs { at: at.into() });
                return None;
            }
            Self::Declared(values) => values,
        };
        match values.get(name) {
            Some(value) => value.as_deref(),
            None => {
                problems.push(Problem::UnknownName {
                    kind: "arg",
                    name: name.to_owned(),
                    at: at.into(),
                    help: suggest::help(name, values.keys().map(String::as_str), || {
                        format!("declare it: `[args]` with `{name} = {{ default = \"…\" }}`")
                    }),
                });
                None
            }
        }
    }

    /// `here` starts with `${` but not with `${arg.`.
    fn warn_if_similar(&self, here: &str, place: &Place<'_>, problems: &mut Vec<Problem>) {
        let Some((inside, _)) = here[2..].split_once('}') else {
            return;
        };
        let meant = ["args.", "ARG.", "arg:", "arg_", "var.", "vars."]
            .iter()
            .find_map(|prefix| inside.strip_prefix(prefix))
            .filter(|name| match self {
                Self::Declaring => false,
                Self::Declared(values) => values.contains_key(*name),
            });
        if let Some(name) = meant {
            let text = format!("${{{inside}}}");
            problems.push(Problem::LooksLikeVariable {
                at: place.of(&text).into(),
                meant: format!("${{arg.{name}}}"),
                text,
            });
        }
    }
}

/// Whether `key` has a variable in it.
pub(crate) fn is_in_key(key: &str) -> bool {
    key.contains(OPEN)
}

/// Where a `${` of a value stands in the file.
#[derive(Debug)]
struct Place<'a> {
    source: &'a str,
    /// The whole value.
    span: Span,
    /// Which `${` of the value, from zero.
    number: usize,
}

impl Place<'_> {
    /// The place of `part`, which begins with `${`; the whole value if it is written in another way.
    fn of(&self, part: &str) -> Span {
        let value = self.source.get(self.span.start..self.span.end);
        let found = value.and_then(|value| {
            let (at, _) = value.match_indices("${").nth(self.number)?;
            value[at..]
                .starts_with(part)
                .then_some(self.span.start + at)
        });
        match found {
            Some(start) => Span {
                start,
                end: start + part.len(),
            },
            None => self.span,
        }
    }
}

/// Cuts a value to a length that fits a message of one line.
pub(crate) fn shorten(text: &str) -> String {
    const LIMIT: usize = 60;
    let line = text.trim_end().lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(LIMIT).collect();
    if short.len() < text.trim_end().len() {
        short.push('…');
    }
    short
}
