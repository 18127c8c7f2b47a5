//! A project, a store and a home of their own for one test.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use kiln_sys::signal::{Signal, restore_default};
use tempfile::TempDir;

use crate::leaks;

/// A run of kiln that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Whether programs that tests start hear the signals that tests send them, which those would not that ran by `nohup`
/// or in the background of a script.
static HEARING: Once = Once::new();

/// Folders of one test.
///
/// When it ends they are removed, and the test fails if a mount, a process or
/// a cgroup that belongs to them is left.
#[derive(Debug)]
pub(crate) struct TestSpace {
    root: Option<TempDir>,
    path: PathBuf,
}

/// What one run of kiln said and how it ended. Paths of the test's folders
/// read `[SPACE]`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl TestSpace {
    /// Makes the folders: `project`, `store`, `home`, `tmp`.
    pub(crate) fn new() -> Self {
        HEARING.call_once(|| {
            for signal in [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM] {
                restore_default(signal);
            }
        });
        let root = TempDir::with_prefix("kiln-e2e-").expect("a temporary folder");
        let path = root.path().to_path_buf();
        for folder in ["project", "store", "home", "tmp"] {
            fs::create_dir(path.join(folder)).expect("a folder in a new folder");
        }
        Self {
            root: Some(root),
            path,
        }
    }

    /// A space whose project is this `kiln.toml`.
    pub(crate) fn with_manifest(manifest: &str) -> Self {
        let space = Self::new();
        space.write("kiln.toml", manifest);
        space
    }

    /// A space whose project is a copy of `examples/<name>`.
    pub(crate) fn with_example(name: &str) -> Self {
        let space = Self::new();
        space.copy_example(name);
        space
    }

    /// Copies `examples/<name>` into the project's folder.
    pub(crate) fn copy_example(&self, name: &str) {
        let example = checkout().join("examples").join(name);
        fs::create_dir_all(self.project()).expect("the project's folder");
        copy_folder(&example, &self.project());
    }

    /// The folder of everything below.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The project's folder, in which kiln is started.
    pub(crate) fn project(&self) -> PathBuf {
        self.path.join("project")
    }

    /// The store's folder.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// Writes a file of the project, with its parent folders.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.project().join(path);
        fs::create_dir_all(path.parent().expect("a file in the project")).expect("parent folders");
        fs::write(path, content).expect("a file of the project");
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
            .env("HOME", self.path.join("home"))
            .env("KILN_HOME", self.store())
            .env("TMPDIR", self.path.join("tmp"))
            .stdin(Stdio::null());
        command
    }

    /// Runs kiln to its end.
    #[track_caller]
    pub(crate) fn kiln<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        self.run(self.command().args(arguments))
    }

    /// Runs kiln to its end and expects exit code 0.
    #[track_caller]
    pub(crate) fn kiln_ok<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Run {
        let run = self.kiln(arguments);
        run.assert_code(0);
        run
    }

    /// Runs a command of this space to its end.
    #[track_caller]
    pub(crate) fn run(&self, command: &mut Command) -> Run {
        let started = Instant::now();
        let output = output_within(command, PATIENCE);
        Run::new(&output, &self.path, started.elapsed())
    }

    /// Keeps the folders and fails, so that a human can look at them.
    #[track_caller]
    #[expect(dead_code, reason = "called by hand in a test that is looked into")]
    pub(crate) fn eject(mut self) -> ! {
        let path = self.root.take().expect("not ejected before").keep();
        panic!("the test's folders are kept: {}", path.display());
    }
}

impl Drop for TestSpace {
    fn drop(&mut self) {
        let left = leaks::below(&self.path);
        if let Some(root) = self.root.take()
            && root.close().is_err()
        {
            remove_with_subordinate_ids(&self.path);
        }
        if !left.is_empty() && !thread::panicking() {
            panic!("left behind: {}", left.join(", "));
        }
    }
}

impl Run {
    fn new(output: &Output, space: &Path, took: Duration) -> Self {
        let space = space.to_string_lossy();
        let filtered = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*space, "[SPACE]");
        Self {
            code: output.status.code(),
            stdout: filtered(&output.stdout),
            stderr: filtered(&output.stderr),
            took,
        }
    }

    /// Checks the exit code and shows everything if it is another one.
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code\n{}", self.shown());
        self
    }

    /// Checks that standard error contains `part`, wherever its lines were wrapped.
    #[track_caller]
    pub(crate) fn assert_says(&self, part: &str) -> &Self {
        let unwrapped = self.stderr.replace("\n  │ ", " ");
        assert!(
            self.stderr.contains(part) || unwrapped.contains(part),
            "`{part}` is not in\n{}",
            self.shown()
        );
        self
    }

    /// Exit code, standard output and standard error in one text, for snapshots.
    pub(crate) fn shown(&self) -> String {
        let code = self
            .code
            .map_or_else(|| "killed".to_owned(), |code| code.to_string());
        format!(
            "exit code: {code}\n--- stdout\n{}--- stderr\n{}",
            ended(&self.stdout),
            ended(&self.stderr)
        )
    }
}

/// Text that ends in a line feed or is empty.
fn ended(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') {
        text.to_owned()
    } else {
        format!("{text}\n")
    }
}

/// The checkout's top folder. `cargo xtask test` names a copy where the real
/// one is out of an ordinary user's reach.
pub(crate) fn checkout() -> PathBuf {
    told_by_xtask("KILN_TEST_CHECKOUT").unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .expect("the crate is two folders below the top")
            .to_path_buf()
    })
}

/// The binary under test, or a copy, as [`checkout`].
pub(crate) fn kiln_program() -> PathBuf {
    told_by_xtask("KILN_TEST_BINARY").unwrap_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_kiln")))
}

/// How long a test goes on that finds more the longer it does: `KILN_TEST_SOAK` says seconds.
pub(crate) fn soak_time(usual: Duration) -> Duration {
    told_by_xtask("KILN_TEST_SOAK").map_or(usual, |text| {
        let seconds = text.to_string_lossy().parse();
        Duration::from_secs(seconds.expect("`KILN_TEST_SOAK` is a number of seconds"))
    })
}

/// Whether tests may take longer; see [`soak_time`].
pub(crate) fn is_soaked() -> bool {
    told_by_xtask("KILN_TEST_SOAK").is_some()
}

/// What tests choose by that cannot try everything: another number each day, or the one that `KILN_TEST_SEED` says.
pub(crate) fn seed() -> u64 {
    if let Some(text) = told_by_xtask("KILN_TEST_SEED") {
        let seed = text.to_string_lossy().parse();
        return seed.expect("`KILN_TEST_SEED` is a number");
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "that the day decides is the purpose"
    )]
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs() / (24 * 3600)
}

#[expect(
    clippy::disallowed_methods,
    reason = "how xtask tells a test where things are"
)]
fn told_by_xtask(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// A folder for what podman and buildah keep while they run: they refuse one whose path is longer than 50 bytes.
pub(crate) fn short_folder(space: &TestSpace, letter: &str) -> PathBuf {
    let path = space.path().join(letter);
    assert!(path.as_os_str().len() <= 50, "{}", path.display());
    path
}

/// Runs a program of the machine and expects it to succeed.
#[track_caller]
pub(crate) fn host(command: &mut Command) -> String {
    let output = output_within(command, PATIENCE);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Collects the output of a command; kills it when it takes too long.
#[track_caller]
fn output_within(command: &mut Command, limit: Duration) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let process = child.id().to_string();
    let (finished, waiting) = std::sync::mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if waiting.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            host_kill(&process);
            return true;
        }
        false
    });
    let output = child.wait_with_output().expect("the output of a child");
    drop(finished);
    let killed = watchdog.join().expect("the watchdog does not panic");
    assert!(
        !killed,
        "{command:?} was killed after {limit:?}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn host_kill(process: &str) {
    let status = Command::new("kill").args(["-KILL", process]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "cannot kill {process}"
    );
}

fn copy_folder(from: &Path, to: &Path) {
    host(Command::new("cp").arg("-r").arg(from.join(".")).arg(to));
}

/// Removes folders whose files belong to the caller's subordinate ids, or that
/// their own modes protect, as root of a namespace.
fn remove_with_subordinate_ids(path: &Path) {
    let removed = [&["--map-auto"] as &[&str], &[]].iter().any(|ids| {
        Command::new("unshare")
            .args(["--user", "--map-root-user"])
            .args(*ids)
            .args(["rm", "-rf"])
            .arg(path)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    });
    if !removed && !thread::panicking() {
        panic!("`{}` cannot be removed", path.display());
    }
}
