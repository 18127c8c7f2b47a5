//! `${arg.NAME}` and `${target.NAME}` in string values.

use std::collections::BTreeMap;

use kiln_oci::Platform;

use crate::problem::Problem;
use crate::span::Span;
use crate::suggest;
use crate::value::Name;

/// Longest text after variables are applied.
const TEXT_LIMIT_BYTES: usize = 1 << 20;

const OPEN: &str = "${arg.";
const OPEN_TARGET: &str = "${target.";

/// Values by name. `None`: declared, but without a usable value, which was reported.
pub(crate) type Values = BTreeMap<String, Option<String>>;

/// What applying variables to a text gave.
pub(crate) enum Applied {
    /// There was nothing to apply.
    Unchanged,
    /// The new text.
    Changed {
        /// With values in place of variables.
        text: String,
        /// Whether one of them was of the target.
        of_target: bool,
    },
    /// Something was wrong, and was reported.
    Failed,
}

/// The variables in effect.
#[derive(Debug)]
pub(crate) enum Variables {
    /// Inside `[args]`, where there are none.
    Declaring,
    /// Everywhere else.
    Declared {
        /// Of `[args]`.
        args: Values,
        /// Of the platform that is built for.
        target: TargetValues,
    },
}

/// What `${target.NAME}` stands for, by name.
#[derive(Clone, Debug)]
pub(crate) struct TargetValues(BTreeMap<&'static str, String>);

impl TargetValues {
    pub(crate) fn of(platform: &Platform) -> Self {
        let machine = platform.machine().unwrap_or(&platform.architecture);
        Self(BTreeMap::from([
            ("arch", platform.architecture.clone()),
            ("machine", machine.to_owned()),
            ("platform", platform.to_string()),
            ("variant", platform.variant.clone().unwrap_or_default()),
        ]))
    }
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
        let (mut good, mut of_target) = (true, false);
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
            let opened = [OPEN, OPEN_TARGET]
                .into_iter()
                .find_map(|open| Some((open, here.strip_prefix(open)?)));
            let Some((open, after)) = opened else {
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
            of_target |= open == OPEN_TARGET;
            match self.value(open, name, &place, problems) {
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
            Applied::Changed {
                text: out,
                of_target,
            }
        } else {
            Applied::Failed
        }
    }

    fn value(
        &self,
        open: &str,
        name: &str,
        place: &Place<'_>,
        problems: &mut Vec<Problem>,
    ) -> Option<&str> {
        let at = place.of(&format!("{open}{name}}}"));
        let (values, target) = match self {
            Self::Declaring => {
                problems.push(Problem::VariableInArgs { at: at.into() });
                return None;
            }
            Self::Declared { args, target } => (args, target),
        };
        if open == OPEN_TARGET {
            let value = target.0.get(name);
            if value.is_none() {
                let names = target.0.keys().copied();
                problems.push(Problem::UnknownName {
                    kind: "value of the target",
                    name: name.to_owned(),
                    at: at.into(),
                    help: suggest::help(name, names.clone(), || {
                        format!("there are {}", suggest::listed(names, "and"))
                    }),
                });
            }
            return value.map(String::as_str);
        }
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
                Self::Declared { args, .. } => args.contains_key(*name),
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
    key.contains(OPEN) || key.contains(OPEN_TARGET)
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
