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

mod context;
mod hostile;
mod layers;
mod leftovers;
mod limits;
mod mounts;
mod process;
mod terminal;
mod users;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use context::{Context, Identity};
use kiln_sys::signal::{Signal, restore_default};

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
    [
        process::CASES,
        mounts::CASES,
        users::CASES,
        hostile::CASES,
        layers::CASES,
        limits::CASES,
        terminal::CASES,
    ]
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
        // In the background of a script they are ignored, and what is ignored is not passed on.
        for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
            restore_default(signal);
        }
        (case.run)(&mut Context::enter(identity, Path::new(directory)));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        for case in all() {
            println!("{}: test", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let named =
        all().filter(|case| ![process::RUNS_FOR_EVER, process::SWEEPS].contains(&case.name));
    for case in named.filter(|case| {
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
                    println!("SKIP: {reason} ({name})");
                    skipped += 1;
                }
            }
        }
    }
    let name = "nothing outlives a kiln that is killed";
    if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
        for identity in EVERYBODY {
            match killed(*identity) {
                Outcome::Passed => {
                    println!("test {name} as {} ... ok", identity.name());
                    passed += 1;
                }
                Outcome::Failed(output) => {
                    println!("test {name} as {} ... FAILED\n{output}", identity.name());
                    failed += 1;
                }
                Outcome::Skipped(reason) => {
                    println!("SKIP: {reason} ({name} as {})", identity.name());
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

/// Starts this program again for one case, or says why it cannot.
fn command_for(name: &str, identity: Identity, directory: &Path) -> Result<Command, Outcome> {
    if !rustix::process::geteuid().is_root() {
        return Err(Outcome::Skipped("needs root".to_owned()));
    }
    let (uid, gid) = identity.ids().map_err(Outcome::Skipped)?;
    std::os::unix::fs::chown(directory, Some(uid), Some(gid)).unwrap();
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["--case", name, identity.name()])
        .arg(directory);
    command
        .uid(uid)
        .gid(gid)
        .stdin(Stdio::null())
        .env("RUST_BACKTRACE", "0");
    Ok(command)
}

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("kiln-sandbox-")
        .tempdir_in("/tmp")
        .unwrap()
}

fn run(case: &Case, identity: Identity) -> Outcome {
    let directory = directory();
    let mut command = match command_for(case.name, identity, directory.path()) {
        Ok(command) => command,
        Err(outcome) => return outcome,
    };
    let before = leftovers::look();
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    // Parts of a case that could not be tried.
    for line in text.lines().filter(|line| line.starts_with("SKIP: ")) {
        println!("{line}");
    }
    if !output.status.success() {
        return Outcome::Failed(format!("{text}\n({})", output.status));
    }
    match leftovers::compare(&before, directory.path()) {
        Some(difference) => Outcome::Failed(format!("left behind: {difference}")),
        None => Outcome::Passed,
    }
}

/// Kills a process that has started sandboxes, as `kill -9` does, and looks for what is left.
fn killed(identity: Identity) -> Outcome {
    let directory = directory();
    let mut command = match command_for(process::RUNS_FOR_EVER, identity, directory.path()) {
        Ok(command) => command,
        Err(outcome) => return outcome,
    };
    let before = leftovers::look();
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    if line != "running\n" {
        process.wait().unwrap();
        return Outcome::Failed(format!("it did not start: {line}"));
    }
    assert!(
        leftovers::processes(directory.path()).is_some(),
        "there is something to find"
    );
    process.kill().unwrap();
    process.wait().unwrap();
    if let Some(difference) = leftovers::compare(&before, directory.path()) {
        return Outcome::Failed(format!("left behind: {difference}"));
    }
    // Its cgroups are left for a later kiln; the killed processes may still be on their way out of them.
    let limit = Instant::now() + Duration::from_secs(5);
    while !leftovers::groups_of(process.id()).is_empty() {
        if Instant::now() > limit {
            return Outcome::Failed(format!(
                "left behind: {:?}",
                leftovers::groups_of(process.id())
            ));
        }
        let directory = self::directory();
        let swept = command_for(process::SWEEPS, identity, directory.path())
            .map(|mut command| command.output());
        if !swept.is_ok_and(|output| output.is_ok_and(|output| output.status.success())) {
            return Outcome::Failed("cannot sweep".to_owned());
        }
    }
    Outcome::Passed
}
