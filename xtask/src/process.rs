//! Starting other programs, and telling what happened.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a task returns: nothing, or one sentence that says what is wrong.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// A task that did not succeed, with the sentence to show.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Names the file or program that an input or output error is about.
    pub(crate) fn io(subject: impl AsRef<Path>, error: &std::io::Error) -> Self {
        Self(format!("`{}`: {error}", subject.as_ref().display()))
    }
}

/// Prints one line for the person at the terminal.
#[expect(clippy::print_stdout, reason = "xtask's only way to speak")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// The top folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the workspace")
}

/// Cargo, started in the workspace.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(workspace());
    command
}

/// Runs a program to its end with our own terminal.
///
/// # Errors
/// It cannot be started, or its exit code is not 0.
pub(crate) fn run(command: &mut Command) -> Outcome {
    say(&format!("$ {}", shown(command)));
    let status = command
        .status()
        .map_err(|error| Failure::io(command.get_program(), &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure(format!("`{}`: {status}", shown(command))))
    }
}

/// Runs a program to its end and returns what it wrote to standard output.
///
/// # Errors
/// It cannot be started, or its exit code is not 0.
pub(crate) fn read(command: &mut Command) -> Outcome<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::io(command.get_program(), &error))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(Failure(format!("`{}`: {}", shown(command), output.status)))
    }
}

/// Finds a program where a login shell of root would.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .map(|folder| Path::new(folder).join(name))
    .find(|path| path.is_file())
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
