//! Every test of the workspace, and what they must leave behind: nothing.
//!
//! The whole suite runs once as the caller. Where that is root, the tests that
//! mean something for an ordinary user run again as two of them: one with
//! subordinate ids (`newuidmap`) and one without.

pub(crate) mod accounts;
mod leftovers;
pub(crate) mod packages;
mod report;
mod scratch;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::process::{Failure, Outcome, cargo, read, run as run_shown, say, workspace};
use accounts::Account;
use leftovers::Leftovers;
use report::Report;
use scratch::Scratch;

/// Test programs that also run as ordinary users: package, target, and the
/// filter for the user without subordinate ids (`None`: not for that one).
const FOR_ORDINARY_USERS: &[(&str, &str, Option<&str>)] =
    &[("kiln-cli", "e2e", Some("any_user::"))];

/// A test program that cargo has built.
struct TestProgram {
    package: String,
    target: String,
    path: PathBuf,
}

/// Runs the tests whose names contain one of `arguments`, or all.
///
/// # Errors
/// A test failed, was skipped without being on the list in `tests/skips.txt`,
/// or left something behind.
pub(crate) fn run(arguments: &[&str]) -> Outcome {
    if arguments.contains(&"--list") {
        return list();
    }
    packages::ensure(packages::FOR_TESTS)?;
    packages::ensure_from_python()?;
    // Built first, so that the time limit below is about tests only.
    run_shown(&mut cargo(["test", "--workspace", "--locked", "--no-run"]))?;
    let programs = test_programs()?;

    let scratch = Scratch::create()?;
    let before = Leftovers::in_folder(scratch.path())?;
    let mut report = Report::new(allowed_skips()?);

    let is_root = accounts::is_root()?;
    // Before anything runs: a few tests of root compare with an ordinary user.
    let accounts = if is_root {
        Account::ensure_both()?
    } else {
        Vec::new()
    };
    let temporary = scratch.temporary_folder("all")?;
    let pass = if is_root { "root" } else { "user" };
    report.add(pass, arguments, &|arguments| {
        let mut everything = cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        everything
            .args(["--", "--show-output"])
            .args(arguments)
            .env("TMPDIR", &temporary);
        Ok(everything)
    })?;

    for account in &accounts {
        as_ordinary_user(account, &programs, arguments, &scratch, &mut report)?;
    }

    let left = Leftovers::in_folder(scratch.path())?.since(&before);
    scratch.remove()?;
    report.finish(&left)
}

/// Names the tests without running them.
fn list() -> Outcome {
    let listing = read(&mut cargo([
        "test",
        "--workspace",
        "--locked",
        "--",
        "--list",
    ]))?;
    for line in String::from_utf8_lossy(&listing).lines() {
        if let Some(name) = line.strip_suffix(": test") {
            say(name);
        }
    }
    Ok(())
}

/// Asks cargo for the paths of what it has built.
fn test_programs() -> Outcome<Vec<TestProgram>> {
    let messages = read(&mut cargo([
        "test",
        "--workspace",
        "--locked",
        "--no-run",
        "--quiet",
        "--message-format=json",
    ]))?;
    let mut programs = Vec::new();
    for line in String::from_utf8_lossy(&messages).lines() {
        let message: Value = serde_json::from_str(line)
            .map_err(|error| Failure(format!("cargo wrote no JSON: {error}")))?;
        let Some(path) = message["executable"].as_str() else {
            continue;
        };
        let package = message["package_id"].as_str().unwrap_or_default();
        programs.push(TestProgram {
            package: package_name(package).to_owned(),
            target: message["target"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            path: PathBuf::from(path),
        });
    }
    Ok(programs)
}

/// The name in a package id: `path+file:///w/crates/cli#kiln-cli@0.1.0`.
fn package_name(package_id: &str) -> &str {
    let fragment = package_id.rsplit('#').next().unwrap_or(package_id);
    fragment.split('@').next().unwrap_or(fragment)
}

/// Runs the chosen test programs as `account`, from copies it can read.
fn as_ordinary_user(
    account: &Account,
    programs: &[TestProgram],
    filters: &[&str],
    scratch: &Scratch,
    report: &mut Report,
) -> Outcome {
    let home = scratch.folder_of(account)?;
    let kiln = copy_program(&kiln_program(programs)?, &home)?;
    let checkout = home.join("checkout");
    fs::create_dir_all(&checkout).map_err(|error| Failure::io(&checkout, &error))?;
    for folder in ["examples", "tests", "schemas", "docs"] {
        let source = workspace().join(folder);
        if !source.is_dir() {
            continue;
        }
        run_shown(Command::new("cp").arg("-r").arg(&source).arg(&checkout))?;
    }
    accounts::give(&home, account)?;

    for (package, target, plain_filter) in FOR_ORDINARY_USERS {
        let extra = match (account.has_subordinate_ids, plain_filter) {
            (true, _) => None,
            (false, Some(filter)) => Some(*filter),
            (false, None) => continue,
        };
        let program = programs
            .iter()
            .find(|program| program.package == *package && program.target == *target)
            .ok_or_else(|| Failure(format!("no test program `{target}` in `{package}`")))?;
        let program = copy_program(&program.path, &home)?;
        let temporary = scratch.temporary_folder(&account.name)?;
        let filters = if filters.is_empty() {
            extra.as_slice()
        } else {
            filters
        };
        report.add("user", filters, &|filters| {
            let mut command = Command::new(&program);
            command
                .arg("--show-output")
                .args(filters)
                .uid(account.uid)
                .gid(account.gid)
                .current_dir(&home)
                .env("HOME", &home)
                .env("USER", &account.name)
                .env("TMPDIR", &temporary)
                .env("KILN_TEST_BINARY", &kiln)
                .env("KILN_TEST_CHECKOUT", &checkout);
            Ok(command)
        })?;
    }
    Ok(())
}

/// The `kiln` that was built for the end-to-end tests.
fn kiln_program(programs: &[TestProgram]) -> Outcome<PathBuf> {
    programs
        .iter()
        .find(|program| program.target == "kiln" && program.path.ends_with("kiln"))
        .map(|program| program.path.clone())
        .ok_or_else(|| Failure::new("cargo built no `kiln`"))
}

fn copy_program(program: &Path, folder: &Path) -> Outcome<PathBuf> {
    let name = program
        .file_name()
        .expect("a program's path ends in a name");
    let copy = folder.join(name);
    fs::copy(program, &copy).map_err(|error| Failure::io(&copy, &error))?;
    Ok(copy)
}

/// Reads `tests/skips.txt`.
fn allowed_skips() -> Outcome<Vec<String>> {
    let path = workspace().join("tests/skips.txt");
    let text = fs::read_to_string(&path).map_err(|error| Failure::io(&path, &error))?;
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::package_name;

    #[test]
    fn package_ids_are_read_in_both_forms() {
        assert_eq!(
            package_name("path+file:///w/crates/cli#kiln-cli@0.1.0"),
            "kiln-cli"
        );
        assert_eq!(package_name("path+file:///w/xtask#xtask@0.1.0"), "xtask");
    }
}
