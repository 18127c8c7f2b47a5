//! A project, a store and a home of their own for one test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Folders of one test; removed when it ends.
#[derive(Debug)]
pub(crate) struct TestSpace {
    root: TempDir,
}

/// What one run of kiln said and how it ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl TestSpace {
    /// Makes the folders: `project`, `store`, `home`.
    pub(crate) fn new() -> Self {
        let root = TempDir::with_prefix("kiln-e2e-").expect("a temporary folder");
        for folder in ["project", "store", "home"] {
            fs::create_dir(root.path().join(folder)).expect("a folder in a new folder");
        }
        Self { root }
    }

    /// The project's folder, in which kiln is started.
    pub(crate) fn project(&self) -> PathBuf {
        self.root.path().join("project")
    }

    /// A command with the test's own store and home, and nothing else of the
    /// caller's environment.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(kiln_program());
        command
            .current_dir(self.project())
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", self.root.path().join("home"))
            .env("KILN_HOME", self.root.path().join("store"))
            .env("TMPDIR", self.root.path());
        command
    }

    /// Runs kiln to its end.
    pub(crate) fn kiln<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        let output = self
            .command()
            .args(arguments)
            .output()
            .expect("kiln was built and can be started");
        Run::new(&output, self.root.path())
    }
}

impl Run {
    fn new(output: &Output, root: &Path) -> Self {
        let root = root.to_string_lossy();
        let filtered = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*root, "[SPACE]");
        Self {
            code: output.status.code(),
            stdout: filtered(&output.stdout),
            stderr: filtered(&output.stderr),
        }
    }

    /// Checks the exit code and shows everything if it is another one.
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(
            self.code,
            Some(code),
            "exit code\n--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
    }
}

/// The binary under test. `cargo xtask test` names a copy where the built one
/// is out of an ordinary user's reach.
fn kiln_program() -> PathBuf {
    #[expect(
        clippy::disallowed_methods,
        reason = "how xtask tells a test where things are"
    )]
    std::env::var_os("KILN_TEST_BINARY")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kiln")), PathBuf::from)
}
