//! The door: text in, model or every problem out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_oci::Platform;
use miette::NamedSource;
use toml::de::DeTable;

use crate::check;
use crate::decode::{Decode, Decoder, Map, OrString};
use crate::errors::ManifestErrors;
use crate::model::{Arg, BuildManifest, Image};
use crate::outline::Outline;
use crate::problem::Problem;
use crate::span::{SourceText, Span};
use crate::suggest;
use crate::syntax;
use crate::tree::{self, Node, Table, Value};
use crate::value::Name;
use crate::variables::{TargetValues, Values, Variables};
use crate::written;

/// Largest manifest that is read.
const SIZE_LIMIT_BYTES: usize = 4 << 20;

/// Most problems that are shown.
const PROBLEM_LIMIT: usize = 100;

/// What the person who runs kiln says beside the manifest.
#[derive(Clone, Debug)]
pub struct Overrides {
    /// What the machine that builds is: the target where nothing else is said.
    pub host: Platform,
    /// Further targets, beside those that the manifest names.
    pub platforms: Vec<Platform>,
    /// `--set NAME=VALUE`.
    pub set: BTreeMap<String, String>,
    /// The environment variables that begin with `KILN_ARG_`, by their whole names.
    pub environment: BTreeMap<String, String>,
    /// `--profile NAME`, applied in this order.
    pub profiles: Vec<String>,
}

impl Default for Overrides {
    fn default() -> Self {
        Self {
            host: Platform::host(),
            platforms: Vec::new(),
            set: BTreeMap::new(),
            environment: BTreeMap::new(),
            profiles: Vec::new(),
        }
    }
}

impl BuildManifest {
    /// Reads and checks a manifest. `file_name` is what diagnostics show.
    ///
    /// # Errors
    /// [`ManifestErrors`] with every problem, warnings too, if one of them is an error.
    pub fn parse(
        file_name: &str,
        text: &str,
        overrides: &Overrides,
    ) -> Result<Self, ManifestErrors> {
        let source: SourceText = Arc::new(NamedSource::new(file_name, text.to_owned()));
        let (manifest, mut problems, outline) = read(text, overrides, &source);
        problems.sort_by_cached_key(|problem| {
            problem.place().map(|place| (place.offset(), place.len()))
        });
        let has_errors = problems.iter().any(Problem::is_error);
        if has_errors {
            // A misspelt use is an error where it stands; do not repeat it at the declaration.
            problems.retain(|problem| !matches!(problem, Problem::Unused { .. }));
        }
        if problems.len() > PROBLEM_LIMIT {
            let more = problems.len() - PROBLEM_LIMIT;
            // Errors before warnings, so that what is left still says that there are errors.
            problems.sort_by_key(|problem| !problem.is_error());
            problems.truncate(PROBLEM_LIMIT);
            if has_errors {
                problems.push(Problem::TooMany { more });
            }
        }
        match manifest.filter(|_| !has_errors) {
            Some(mut manifest) => {
                manifest.warnings = problems;
                Ok(manifest)
            }
            None => Err(ManifestErrors {
                source_code: source,
                problems,
                outline,
            }),
        }
    }
}

fn read(
    text: &str,
    overrides: &Overrides,
    source: &SourceText,
) -> (Option<BuildManifest>, Vec<Problem>, Outline) {
    if text.len() > SIZE_LIMIT_BYTES {
        let problem = Problem::TooLarge {
            size_bytes: text.len(),
            limit_bytes: SIZE_LIMIT_BYTES,
        };
        return (None, vec![problem], Outline::default());
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut root = tree::table(document.get_ref());
    let mut problems = Vec::new();
    let profiles = take_profiles(&mut root, &mut problems);
    let merged = apply_profiles(&root, &profiles, &overrides.profiles, &mut problems);
    let warn_unused = profiles.is_empty();
    let evaluate_for = |target: &Platform, warn_unused| {
        evaluate(merged.clone(), text, overrides, target, warn_unused, source)
    };
    let (mut manifest, found, outline) = evaluate_for(&overrides.host, warn_unused);
    problems.extend(found);
    if let Some(manifest) = &mut manifest
        && manifest.images.values().any(Image::uses_target)
    {
        let mut targets = manifest.platforms(&overrides.platforms);
        targets.remove(&overrides.host);
        for target in targets {
            let (of_target, found, _) = evaluate_for(&target, false);
            let new: Vec<Problem> = found
                .into_iter()
                .filter(|found| !problems.contains(found))
                .collect();
            problems.extend(new);
            if let Some(of_target) = of_target {
                manifest.targets.insert(target, of_target.images);
            }
        }
    }
    check_the_rest(&root, &profiles, text, overrides, source, &mut problems);
    if errors.is_empty() {
        return (manifest, problems, outline);
    }
    let syntax = syntax::problems(&errors, text);
    retain_what_is_no_fallout(&mut problems, &syntax, text);
    problems.extend(syntax);
    (None, problems, outline)
}

/// Applies variables, decodes and checks one merged document.
fn evaluate(
    mut root: Table,
    text: &str,
    overrides: &Overrides,
    target: &Platform,
    warn_unused: bool,
    source: &SourceText,
) -> (Option<BuildManifest>, Vec<Problem>, Outline) {
    let mut problems = Vec::new();
    let args = root.get_mut("args").and_then(|entry| {
        // `[args]` is read first and by itself, since all the rest depends on it.
        let empty = Value::Table(Table::new());
        let node = Node {
            value: std::mem::replace(&mut entry.node.value, empty),
            span: entry.node.span,
        };
        let mut decoder = Decoder::new(text, &Variables::Declaring);
        let args = Map::<Name, OrString<written::Arg>>::decode(&node, &mut decoder);
        problems.append(&mut decoder.problems);
        args
    });
    let (args, values) = values(args.unwrap_or_default(), overrides, &mut problems);
    check::names::warn_unused_args(&args, text, &mut problems);

    let variables = Variables::Declared {
        args: values,
        target: TargetValues::of(target),
    };
    let mut decoder = Decoder::new(text, &variables);
    let root = Node {
        value: Value::Table(root),
        span: Span::default(),
    };
    let written = written::Manifest::decode(&root, &mut decoder);
    problems.append(&mut decoder.problems);
    let (manifest, outline) = match written {
        Some(written) => check::manifest(written, args, source.clone(), warn_unused, &mut problems),
        None => (None, Outline::default()),
    };
    (manifest, problems, outline)
}

/// Gives each declared variable its value.
fn values(
    declared: Map<Name, OrString<written::Arg>>,
    overrides: &Overrides,
    problems: &mut Vec<Problem>,
) -> (BTreeMap<Name, Arg>, Values) {
    let mut args = BTreeMap::new();
    let mut values = Values::new();
    let mut variables = BTreeMap::new();
    for (name, item) in declared.entries {
        let variable = environment_name(&name);
        let given = overrides.set.get(name.as_str());
        let given = given.or_else(|| overrides.environment.get(&variable));
        let mut value = None;
        if let Some(OrString(written)) = item.value {
            let written::Arg { at, default, help } = written;
            let default = default.map(|default| default.value.0);
            if check::looks_secret(name.as_str(), default.as_deref().unwrap_or_default()) {
                problems.push(Problem::SecretInTheOpen {
                    name: name.to_string(),
                    place: "a manifest is committed",
                    at: item.key.into(),
                });
            }
            value = given.cloned().or_else(|| default.clone());
            if let Some(value) = &value {
                let arg = Arg {
                    span: item.key,
                    value: value.clone(),
                    default,
                    help: help.map(|help| help.value.0),
                };
                args.insert(name.clone(), arg);
            } else if at.key("default").is_none() {
                problems.push(Problem::ArgWithoutValue {
                    name: name.to_string(),
                    variable: variable.clone(),
                    at: item.key.into(),
                });
            }
        }
        variables.insert(variable, name.to_string());
        values.insert(name.to_string(), value);
    }
    for name in overrides
        .set
        .keys()
        .filter(|name| !values.contains_key(*name))
    {
        problems.push(Problem::UnknownSet {
            name: name.clone(),
            help: suggest::help(name, values.keys().map(String::as_str), || {
                format!("declare it: `[args]` with `{name} = \"\"`")
            }),
        });
    }
    let environment = overrides.environment.keys();
    for variable in environment.filter(|variable| !variables.contains_key(*variable)) {
        let name = variable.strip_prefix("KILN_ARG_").unwrap_or(variable);
        let name = name.to_ascii_lowercase().replace('_', "-");
        let near = suggest::nearest(&name, values.keys().map(String::as_str));
        let near = near.and_then(|near| variables.iter().find(|(_, arg)| *arg == near));
        problems.push(Problem::UnknownEnvironment {
            variable: variable.clone(),
            help: match near {
                Some((near, _)) => format!("did you mean `{near}`?"),
                None => "unset it, or declare the arg in `[args]`".to_owned(),
            },
        });
    }
    (args, values)
}

/// The environment variable that sets an arg.
fn environment_name(arg: &Name) -> String {
    let name = arg.as_str().to_ascii_uppercase().replace('-', "_");
    format!("KILN_ARG_{name}")
}

/// A profile as written, and the places in it.
struct Profile {
    table: Table,
    spans: Vec<Span>,
}

/// Takes `[profile.*]` out of the document.
fn take_profiles(root: &mut Table, problems: &mut Vec<Problem>) -> BTreeMap<String, Profile> {
    let mut profiles = BTreeMap::new();
    let Some(entry) = root.remove("profile") else {
        return profiles;
    };
    let variables = Variables::Declaring;
    let mut decoder = Decoder::new("", &variables);
    let Value::Table(tables) = entry.node.value else {
        decoder.wrong_type(&entry.node, "a table");
        problems.append(&mut decoder.problems);
        return profiles;
    };
    for (name, entry) in tables {
        if let Err(error) = Name::parse(&name) {
            decoder.invalid(&name, error.reason, entry.key, error.help);
        }
        let mut spans = Vec::new();
        entry.node.spans(&mut spans);
        let Value::Table(mut table) = entry.node.value else {
            decoder.wrong_type(&entry.node, "a table");
            continue;
        };
        for key in ["schema", "profile"] {
            if let Some(entry) = table.remove(key) {
                decoder.problems.push(Problem::NotInProfile {
                    key: key.to_owned(),
                    at: entry.key.into(),
                });
            }
        }
        profiles.insert(name, Profile { table, spans });
    }
    problems.append(&mut decoder.problems);
    profiles
}

/// Lays the chosen profiles over the document.
fn apply_profiles(
    root: &Table,
    profiles: &BTreeMap<String, Profile>,
    chosen: &[String],
    problems: &mut Vec<Problem>,
) -> Table {
    let mut merged = root.clone();
    for name in chosen {
        let Some(profile) = profiles.get(name) else {
            let names = profiles.keys().map(String::as_str);
            problems.push(Problem::UnknownProfile {
                name: name.clone(),
                help: suggest::help(name, names.clone(), || match profiles.len() {
                    0 => format!("add `[profile.{name}]`, or leave out `--profile`"),
                    _ => format!("the profiles are {}", suggest::listed(names, "and")),
                }),
            });
            continue;
        };
        tree::merge(&mut merged, &profile.table, &mut Vec::new());
    }
    merged
}

/// Finds what is wrong where the chosen profiles do not lead: in those that were not
/// chosen, and in what the chosen ones replace.
fn check_the_rest(
    root: &Table,
    profiles: &BTreeMap<String, Profile>,
    text: &str,
    overrides: &Overrides,
    source: &SourceText,
    problems: &mut Vec<Problem>,
) {
    if !overrides.profiles.is_empty() {
        // What a chosen profile replaces is looked at too, if it can be by itself.
        let host = &overrides.host;
        let (_, found, _) = evaluate(root.clone(), text, overrides, host, false, source);
        let hidden = found.into_iter().filter(is_local);
        let hidden = hidden.take(PROBLEM_LIMIT);
        let hidden: Vec<Problem> = hidden.filter(|found| !problems.contains(found)).collect();
        problems.extend(hidden);
    }
    for (name, profile) in profiles {
        if overrides.profiles.contains(name) {
            continue;
        }
        let mut merged = root.clone();
        tree::merge(&mut merged, &profile.table, &mut Vec::new());
        let (_, found, _) = evaluate(merged, text, overrides, &overrides.host, false, source);
        let spans: BTreeSet<Span> = profile.spans.iter().copied().collect();
        for problem in found {
            let inside = problem.places().iter().any(|place| {
                let place = Span::from(place.offset()..place.offset() + place.len());
                spans.iter().any(|span| span.contains(place))
            });
            if inside && problems.len() <= PROBLEM_LIMIT && !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
}

/// Drops what may only be there because part of the text was not understood.
fn retain_what_is_no_fallout(problems: &mut Vec<Problem>, syntax: &[Problem], text: &str) {
    let newlines: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |problem: &Problem| {
        let offset = problem.place().map_or(0, |place| place.offset());
        newlines.partition_point(|newline| *newline < offset)
    };
    let mut broken: BTreeSet<usize> = syntax.iter().map(line).collect();
    // What follows a header without an end was taken for part of another table.
    let mut below_broken = false;
    for (number, content) in text.lines().enumerate() {
        if content.trim_start().starts_with('[') {
            below_broken = broken.contains(&number) && !content.contains(']');
        } else if below_broken {
            broken.insert(number);
        }
    }
    problems.retain(|problem| is_local(problem) && !broken.contains(&line(problem)));
}

/// Whether `problem` is about one place and nothing else.
fn is_local(problem: &Problem) -> bool {
    matches!(
        problem,
        Problem::UnknownKey { .. }
            | Problem::WrongType { .. }
            | Problem::InvalidValue { .. }
            | Problem::NotSupportedYet { .. }
            | Problem::InvalidVariable { .. }
            | Problem::VariableInKey { .. }
    )
}
