//! The rules of the house that no compiler checks.
//!
//! The table of crates in `docs/architecture.md` is the truth about who may
//! use whom; this file only reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::process::{Failure, Outcome, cargo, read, say, workspace};

/// The only crate that may contain `unsafe`.
const UNSAFE_CRATE: &str = "sys";

/// Most lines of a source file, its tests not counted.
const LINES_LIMIT: usize = 800;

/// Hosts that belong in a machine's settings and never in the sources: which
/// mirror of a package registry is near is not the project's business. In two
/// halves each, so that this file passes its own check.
const FOREIGN_HOSTS: &[(&str, &str)] = &[
    ("deb.debian", ".org"),
    ("security.debian", ".org"),
    ("ftp.debian", ".org"),
    ("index.crates", ".io"),
    ("static.crates", ".io"),
    ("files.pythonhosted", ".org"),
    ("pypi", ".org"),
    ("registry.npmjs", ".org"),
    ("proxy.golang", ".org"),
];

/// Checks every rule and reports all that is wrong.
///
/// # Errors
/// A rule is broken; what and where has been printed.
pub(crate) fn check() -> Outcome {
    let mut problems = Vec::new();
    check_arrows(&mut problems)?;
    let files = tracked_files()?;
    for file in &files {
        check_file(file, &mut problems)?;
    }
    check_attacks(&files, &mut problems)?;
    if problems.is_empty() {
        return Ok(());
    }
    for problem in &problems {
        say(problem);
    }
    Err(Failure(format!("{} broken rules", problems.len())))
}

/// Makes sure that the tests are there that `docs/attacks.md` names, in the last column of its tables.
fn check_attacks(files: &[PathBuf], problems: &mut Vec<String>) -> Outcome {
    const PAGE: &str = "docs/attacks.md";
    let path = workspace().join(PAGE);
    let page = fs::read_to_string(&path).map_err(|error| Failure::io(&path, &error))?;
    let mut sources = String::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|it| it == "rs"))
    {
        let file = workspace().join(file);
        sources += &fs::read_to_string(&file).map_err(|error| Failure::io(&file, &error))?;
    }
    let rows = page.lines().filter_map(|line| line.strip_suffix(" |"));
    let cells = rows.filter_map(|row| row.rsplit(" | ").next());
    for name in cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
        let is_there = [format!("fn {name}("), format!("name: \"{name}\"")];
        if !is_there.iter().any(|text| sources.contains(text)) {
            problems.push(format!("{PAGE}: there is no test `{name}`"));
        }
    }
    Ok(())
}

/// Compares the arrows between our crates with the documented ones.
fn check_arrows(problems: &mut Vec<String>) -> Outcome {
    let allowed = documented_arrows()?;
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let manifest = package["manifest_path"].as_str().unwrap_or_default();
        let text = fs::read_to_string(manifest).map_err(|error| Failure::io(manifest, &error))?;
        if !text.contains("[lints]\nworkspace = true") {
            problems.push(format!("{manifest}: `[lints] workspace = true` is missing"));
        }
        let Some(crate_name) = name.strip_prefix("kiln-") else {
            continue;
        };
        let Some(may_use) = allowed.get(crate_name) else {
            problems.push(format!(
                "docs/architecture.md: no row for crate `{crate_name}`"
            ));
            continue;
        };
        let dependencies = package["dependencies"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for dependency in &dependencies {
            // Tests may reach further than the crate itself.
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            let used = dependency["name"].as_str().unwrap_or_default();
            if let Some(used) = used.strip_prefix("kiln-")
                && !may_use.contains(used)
            {
                problems.push(format!(
                    "{manifest}: `{crate_name}` must not use `{used}` (docs/architecture.md)"
                ));
            }
        }
    }
    Ok(())
}

fn metadata() -> Outcome<Value> {
    let bytes = read(&mut cargo([
        "metadata",
        "--format-version=1",
        "--no-deps",
        "--locked",
    ]))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Failure(format!("`cargo metadata` wrote no JSON: {error}")))
}

/// Reads the crate table: `` | `name` | `used`, `used` | … | ``.
fn documented_arrows() -> Outcome<BTreeMap<String, BTreeSet<String>>> {
    let path = workspace().join("docs/architecture.md");
    let text = fs::read_to_string(&path).map_err(|error| Failure::io(&path, &error))?;
    Ok(parse_arrows(&text))
}

fn parse_arrows(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut arrows = BTreeMap::new();
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| crate |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for row in rows {
        let mut cells = row.trim_matches('|').split('|');
        let (Some(name), Some(uses)) = (cells.next(), cells.next()) else {
            continue;
        };
        let name = name.trim().trim_matches('`').to_owned();
        let uses = uses
            .split(',')
            .map(|used| used.trim().trim_matches('`').to_owned())
            .filter(|used| !used.is_empty())
            .collect();
        arrows.insert(name, uses);
    }
    arrows
}

/// Files that git knows, or would know after `git add`.
fn tracked_files() -> Outcome<Vec<PathBuf>> {
    let listing = read(
        std::process::Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(workspace()),
    )?;
    Ok(listing
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .filter(|path| workspace().join(path).is_file())
        .collect())
}

fn check_file(path: &Path, problems: &mut Vec<String>) -> Outcome {
    let bytes = fs::read(workspace().join(path)).map_err(|error| Failure::io(path, &error))?;
    let Ok(text) = String::from_utf8(bytes) else {
        return Ok(());
    };
    let shown = path.display();
    if path != Path::new("Cargo.lock") {
        for (name, domain) in FOREIGN_HOSTS {
            let host = format!("{name}{domain}");
            for (number, _) in text
                .lines()
                .enumerate()
                .filter(|(_, line)| line.contains(&host))
            {
                problems.push(format!("{shown}:{}: names the host `{host}`", number + 1));
            }
        }
    }
    if path.extension().is_some_and(|extension| extension == "rs") {
        let lines = text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .count();
        if lines > LINES_LIMIT {
            problems.push(format!(
                "{shown}: {lines} lines, {LINES_LIMIT} allowed; split it"
            ));
        }
        // In a `tests` folder every other file would be a test program of its own.
        let is_shared_by_tests = path.components().any(|part| part.as_os_str() == "tests");
        if path.file_name().is_some_and(|name| name == "mod.rs") && !is_shared_by_tests {
            problems.push(format!("{shown}: say `foo.rs` and `foo/`, not `mod.rs`"));
        }
        if is_crate_root(path)
            && !path.starts_with(Path::new("crates").join(UNSAFE_CRATE))
            && has_code(&text)
            && !text.contains("#![forbid(unsafe_code)]")
        {
            problems.push(format!("{shown}: `#![forbid(unsafe_code)]` is missing"));
        }
    }
    Ok(())
}

/// Whether a source file is more than comments.
fn has_code(text: &str) -> bool {
    text.lines()
        .any(|line| !line.trim().is_empty() && !line.trim_start().starts_with("//"))
}

/// Whether this is a file that rustc is called with.
fn is_crate_root(path: &Path) -> bool {
    let in_source = path
        .parent()
        .and_then(Path::file_name)
        .is_some_and(|folder| folder == "src");
    in_source
        && path
            .file_name()
            .is_some_and(|name| name == "lib.rs" || name == "main.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crate_table_is_read() {
        let text = "x\n| crate | may use | what |\n| --- | --- | --- |\n| `a` | | A |\n| `b` | `a`, `c` | B |\n\n| z |";
        let arrows = parse_arrows(text);
        assert_eq!(arrows.len(), 2);
        assert!(arrows["a"].is_empty());
        assert!(arrows["b"].contains("a") && arrows["b"].contains("c"));
    }

    #[test]
    fn crate_roots_are_told_from_modules() {
        assert!(is_crate_root(Path::new("crates/oci/src/lib.rs")));
        assert!(!is_crate_root(Path::new("crates/oci/src/digest.rs")));
        assert!(!is_crate_root(Path::new("tests/e2e/main.rs")));
    }
}
