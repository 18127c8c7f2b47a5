//! The manifests under `tests/manifests/`: valid ones parse, invalid ones are refused
//! with exactly the diagnostics that stand beside them.
//!
//! `UPDATE=1 cargo test -p kiln-manifest` writes the diagnostics anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kiln_manifest::Overrides;
use kiln_manifest::{BuildManifest, ManifestErrors, Outline, Problem};
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/manifests")
        .join(name)
}

/// Name and text of every manifest in a folder.
pub(crate) fn manifests(name: &str) -> BTreeMap<PathBuf, String> {
    let entries = fs::read_dir(folder(name)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// Overrides from comment lines: `#! set NAME=VALUE`, `#! environment NAME=VALUE`, `#! profile NAME`.
pub(crate) fn overrides(text: &str) -> Overrides {
    let mut overrides = Overrides::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
        let (kind, rest) = line.split_once(' ').unwrap();
        let pair = || {
            let (name, value) = rest.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        };
        match kind {
            "set" => overrides.set.extend([pair()]),
            "environment" => overrides.environment.extend([pair()]),
            "profile" => overrides.profiles.push(rest.to_owned()),
            _ => panic!("unknown override {kind}"),
        }
    }
    overrides
}

pub(crate) fn parse(text: &str) -> Result<BuildManifest, ManifestErrors> {
    BuildManifest::parse("kiln.toml", text, &overrides(text))
}

pub(crate) fn render(diagnostic: &dyn Diagnostic) -> String {
    let mut out = String::new();
    GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut out, diagnostic)
        .unwrap();
    let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// The examples of the repository, by path.
pub(crate) fn examples() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let folders = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    folders
        .map(|folder| folder.join("kiln.toml"))
        .filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
        .collect()
}

#[test]
fn valid_manifests_parse() {
    for (path, text) in manifests("valid").into_iter().chain(examples()) {
        match parse(&text) {
            Ok(manifest) => assert!(
                manifest.warnings.is_empty(),
                "{}: {:?}",
                path.display(),
                manifest.warnings
            ),
            Err(errors) => panic!("{}:\n{}", path.display(), render(&errors)),
        }
    }
}

#[test]
fn invalid_manifests_are_refused_as_pinned() {
    #[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
    let update = std::env::var_os("UPDATE").is_some();
    let mut wrong = Vec::new();
    for (path, text) in manifests("invalid") {
        let shown = match parse(&text) {
            Err(errors) => render(&errors),
            Ok(manifest) => {
                assert!(!manifest.warnings.is_empty(), "{} is valid", path.display());
                let source = manifest.source;
                let problems = manifest.warnings;
                let errors = ManifestErrors {
                    outline: Outline::default(),
                    source_code: source,
                    problems,
                };
                render(&errors)
            }
        };
        let pinned = path.with_extension("stderr");
        if update {
            fs::write(&pinned, &shown).unwrap();
        } else if fs::read_to_string(&pinned).unwrap_or_default() != shown {
            wrong.push(format!("{}:\n{shown}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "run with UPDATE=1 if this is right:\n{}",
        wrong.join("\n")
    );
}

/// Every code of the crate's problems has a manifest of its name.
#[test]
fn every_code_has_a_manifest() {
    let source = include_str!("../../src/problem.rs");
    let codes: Vec<&str> = source
        .split("code(manifest::")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(code, _)| code))
        .collect();
    assert!(codes.len() > 25, "the codes were not found");
    for code in codes {
        if ["too_large", "too_many"].contains(&code) {
            continue;
        }
        let pinned = folder("invalid").join(code).with_extension("stderr");
        let shown = fs::read_to_string(&pinned).unwrap_or_default();
        let heading = format!("manifest::{code}\n");
        assert!(
            shown.contains(&heading),
            "{} does not show `{code}`",
            pinned.display()
        );
    }
}

#[test]
fn a_manifest_that_is_too_large_is_not_read() {
    let text = format!("schema = 1 # {}", "x".repeat(4 << 20));
    let errors = parse(&text).unwrap_err();
    assert!(
        render(&errors).contains("manifest::too_large"),
        "{}",
        render(&errors)
    );
}

/// Both are a megabyte with a problem in each line; what takes the square of that never ends.
#[test]
fn many_problems_are_cut() {
    let head = "schema = 1\n[project]\nname = \"p\"\n";
    let garbage = "= ] \"\n".repeat(200_000);
    let keys: String = (0..100_000).map(|n| format!("key{n} = 1\n")).collect();
    for text in [garbage, format!("{head}{keys}")] {
        let errors = parse(&text).unwrap_err();
        assert_eq!(errors.problems.len(), 101);
        // Drawing a hundred places of a megabyte is the work of who draws.
        let last = errors.problems.last();
        assert!(
            matches!(last, Some(Problem::TooMany { more: 99_900.. })),
            "{last:?}"
        );
    }
}
