//! Sandboxes on the real kernel.
//!
//! `enter` wants a process with one thread, so each case runs in a process of its own: this program again, once for
//! each identity the case is for. The cases of one identity never share anything. After each the parent looks for
//! what was left behind: mounts, processes, cgroups.
//!
//! ```text
//! kernel [FILTER…]                      runs the cases whose name has one of the words in it
//! kernel --case NAME IDENTITY DIRECTORY one case, in this process
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends where something is not as it should be, and says so"
)]

mod cases;
mod context;
mod hostile;
mod leftovers;
mod limits;
mod terminal;

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use context::{Context, Identity};

/// A case: its name, the identities it is for, and what it does once they have entered.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) identities: &'static [Identity],
    pub(crate) run: fn(&mut Context),
}

pub(crate) const EVERYBODY: &[Identity] = &[Identity::Root, Identity::Mapped, Identity::Single];
pub(crate) const ROOT: &[Identity] = &[Identity::Root];
pub(crate) const ORDINARY: &[Identity] = &[Identity::Mapped, Identity::Single];
pub(crate) const SINGLE: &[Identity] = &[Identity::Single];
pub(crate) const MULTIPLE: &[Identity] = &[Identity::Root, Identity::Mapped];

fn all() -> impl Iterator<Item = &'static Case> {
    [cases::CASES, hostile::CASES, limits::CASES, terminal::CASES]
        .into_iter()
        .flatten()
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, identity, directory] = arguments.as_slice()
        && flag == "--case"
    {
        let case = all()
            .find(|case| case.name == name)
            .expect("the parent names a case");
        let identity = Identity::by_name(identity);
        (case.run)(&mut Context::enter(identity, Path::new(directory)));
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in all().filter(|case| {
        words.is_empty() || words.iter().any(|word| case.name.contains(word.as_str()))
    }) {
        for identity in case.identities {
            let name = format!("{} as {}", case.name, identity.name());
            match run(case, *identity) {
                Outcome::Passed => {
                    println!("test {name} ... ok");
                    passed += 1;
                }
                Outcome::Failed(output) => {
                    println!("test {name} ... FAILED\n{output}");
                    failed += 1;
                }
                Outcome::Skipped(reason) => {
                    println!("SKIP: {name}: {reason}");
                    skipped += 1;
                }
            }
        }
    }
    println!("\ntest result: {passed} passed; {failed} failed; {skipped} skipped");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

fn run(case: &Case, identity: Identity) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Outcome::Skipped("these tests have to be started by root".to_owned());
    }
    let (uid, gid) = match identity.ids() {
        Ok(ids) => ids,
        Err(reason) => return Outcome::Skipped(reason),
    };
    let directory = tempfile::Builder::new()
        .prefix("kiln-sandbox-")
        .tempdir_in("/tmp")
        .unwrap();
    std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid)).unwrap();
    let before = leftovers::look();
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--case", case.name, identity.name()])
        .arg(directory.path());
    command
        .uid(uid)
        .gid(gid)
        .stdin(Stdio::null())
        .env("RUST_BACKTRACE", "0");
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if !output.status.success() {
        return Outcome::Failed(format!("{text}\n({})", output.status));
    }
    if let Some(difference) = leftovers::compare(&before, directory.path()) {
        return Outcome::Failed(format!("left behind: {difference}"));
    }
    Outcome::Passed
}
