//! Git repositories as sources, through the host's `git` program.
//!
//! What is checked out is decided by a commit alone: no hooks, no filters, no line-end conversion,
//! no submodules, and none of the environment that would point git at another repository. Questions
//! on the terminal are refused; credential helpers and ssh keys of the person who builds work.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cancel::Cancel;

/// The most bytes of git's messages that reach an error.
const MESSAGE_LIMIT_BYTES: usize = 4096;

/// How often a running git is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Why a repository could not be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[must_use]
pub(crate) enum GitError {
    /// There is no git on this machine.
    #[error("`git` is needed for git steps and was not found")]
    #[diagnostic(help("install the package `git`"))]
    Missing,
    /// The repository has nothing of this name.
    #[error("`{url}` has no branch, tag or commit `{reference}`")]
    #[diagnostic(help("give a branch, a tag or a full commit id as `ref`"))]
    UnknownReference {
        /// The repository.
        url: String,
        /// What was asked for.
        reference: String,
    },
    /// Git said no.
    #[error("git cannot {doing} `{url}`: {message}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// The repository.
        url: String,
        /// What git wrote.
        message: String,
    },
    /// The build was cancelled meanwhile.
    #[error("was cancelled")]
    Cancelled,
    /// The system said no.
    #[error("cannot run git: {0}")]
    Io(#[from] io::Error),
}

/// Returns what a step wants to be checked out: what it says, else what the repository itself does.
pub(crate) fn reference(wanted: &kiln_manifest::model::Git) -> String {
    match &wanted.reference {
        Some(reference) => reference.value.clone(),
        None => "HEAD".to_owned(),
    }
}

/// Returns whether `text` is a whole commit id, in lower-case hex digits.
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Finds the commit that `reference` of the repository `url` names now.
///
/// # Errors
/// [`GitError::UnknownReference`] if there is none, and what git says.
pub(crate) fn resolve(url: &str, reference: &str, cancel: &Cancel) -> Result<String, GitError> {
    if is_commit(reference) {
        return Ok(reference.to_owned());
    }
    let mut git = command();
    git.args(["ls-remote", "--", url]);
    let listing = run(git, "list the references of", url, cancel)?;
    let unknown = || GitError::UnknownReference {
        url: url.to_owned(),
        reference: reference.to_owned(),
    };
    let find = |wanted: &str| {
        listing
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(commit, name)| *name == wanted && is_commit(commit))
            .map(|(commit, _)| commit.to_owned())
    };
    // A tag object is looked through to its commit (`^{}`); a tag wins over a branch, as in git itself.
    [
        reference.to_owned(),
        format!("refs/tags/{reference}^{{}}"),
        format!("refs/tags/{reference}"),
        format!("refs/heads/{reference}"),
    ]
    .iter()
    .find_map(|name| find(name))
    .ok_or_else(unknown)
}

/// Writes the files of `commit` into the empty folder `into`; `scratch` is an empty folder for git.
///
/// Returns the paths of submodules, of which nothing is written.
///
/// # Errors
/// What git says.
pub(crate) fn checkout(
    url: &str,
    reference: &str,
    commit: &str,
    scratch: &Path,
    into: &Path,
    cancel: &Cancel,
) -> Result<Vec<String>, GitError> {
    let git = |arguments: &[&str]| {
        let mut git = command();
        git.arg("--git-dir").arg(scratch).args(arguments);
        git
    };
    let mut init = command();
    init.args(["init", "--quiet", "--bare", "--template="])
        .arg(scratch);
    run(init, "make a repository for", url, cancel)?;
    let fetch = |what: &[&str]| {
        let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-recurse-submodules"];
        arguments.extend(what);
        run(git(&arguments), "fetch from", url, cancel)
    };
    // Not every server hands out a commit by its id; then the history of the reference has it.
    match fetch(&["--depth=1", "--", url, commit]) {
        Ok(_) => {}
        Err(GitError::Failed { .. }) if !is_commit(reference) => {
            fetch(&["--", url, reference])?;
        }
        Err(GitError::Failed { .. }) => {
            fetch(&["--", url, "+refs/*:refs/remotes/all/*"])?;
        }
        Err(error) => return Err(error),
    }
    let is_there = git(&["cat-file", "-e", &format!("{commit}^{{commit}}")]);
    match run(is_there, "find a commit of", url, cancel) {
        Ok(_) => {}
        Err(GitError::Failed { .. }) => {
            return Err(GitError::UnknownReference {
                url: url.to_owned(),
                reference: commit.to_owned(),
            });
        }
        Err(error) => return Err(error),
    }
    let mut checkout = git(&[
        "-c",
        "core.bare=false",
        "checkout",
        "--quiet",
        "--force",
        commit,
        "--",
        ".",
    ]);
    checkout.env("GIT_WORK_TREE", into).current_dir(into);
    run(checkout, "check out", url, cancel)?;
    let list = git(&["ls-tree", "-r", "-z", "--full-tree", commit]);
    let listing = run(list, "list the files of", url, cancel)?;
    Ok(submodules(&listing))
}

/// The paths of commits of other repositories in what `git ls-tree -z` writes.
fn submodules(listing: &str) -> Vec<String> {
    listing
        .split_terminator('\0')
        .filter_map(|line| line.split_once('\t'))
        .filter(|(about, _)| about.starts_with("160000 "))
        .map(|(_, path)| path.to_owned())
        .collect()
}

fn command() -> Command {
    let mut git = Command::new("git");
    git.args([
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "core.autocrlf=false",
        "-c",
        "core.eol=lf",
        "-c",
        "core.attributesFile=/dev/null",
        "-c",
        "core.symlinks=true",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "protocol.ext.allow=never",
        "-c",
        "advice.detachedHead=false",
        "-c",
        "gc.auto=0",
    ]);
    for name in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_ALTERNATE_OBJECT_DIRECTORIES",
        "GIT_COMMON_DIR",
        "GIT_NAMESPACE",
        "GIT_CONFIG_PARAMETERS",
        "GIT_TEMPLATE_DIR",
    ] {
        git.env_remove(name);
    }
    git.env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_LFS_SKIP_SMUDGE", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    git
}

/// Runs `git` to its end and returns what it wrote to standard output.
fn run(
    mut git: Command,
    doing: &'static str,
    url: &str,
    cancel: &Cancel,
) -> Result<String, GitError> {
    let child = git.spawn().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            GitError::Missing
        } else {
            GitError::Io(error)
        }
    })?;
    let mut running = Running(child);
    let stdout = running.0.stdout.take().map(read_in_background);
    let stderr = running.0.stderr.take().map(read_in_background);
    let status = loop {
        if let Some(status) = running.0.try_wait()? {
            break status;
        }
        wait_a_moment(cancel)?;
    };
    let written = |reader: Option<Reader>| reader.map(join).transpose();
    let (stdout, stderr) = (written(stdout)?, written(stderr)?);
    if status.success() {
        return Ok(stdout.unwrap_or_default());
    }
    let message = stderr.unwrap_or_default();
    let message: Vec<&str> = message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let mut message: String = message
        .join("; ")
        .chars()
        .map(|character| {
            if character.is_control() {
                '?'
            } else {
                character
            }
        })
        .collect();
    message.truncate(message.floor_char_boundary(MESSAGE_LIMIT_BYTES));
    Err(GitError::Failed {
        doing,
        url: url.to_owned(),
        message,
    })
}

type Reader = std::thread::JoinHandle<io::Result<String>>;

fn read_in_background(mut from: impl io::Read + Send + 'static) -> Reader {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    })
}

fn join(reader: Reader) -> Result<String, GitError> {
    let died = |_panic| io::Error::other("the thread that reads git's output died");
    Ok(reader.join().map_err(died)??)
}

/// Waits a moment, or less if the build is cancelled.
fn wait_a_moment(cancel: &Cancel) -> Result<(), GitError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(cancel.as_fd(), PollFlags::IN)];
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: POLL.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&moment)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(GitError::Io(error.into())),
    }
    if cancel.is_cancelled() {
        return Err(GitError::Cancelled);
    }
    Ok(())
}

/// A child that does not outlive its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it has ended and been waited for already.
        if self.0.kill().is_ok()
            && let Err(error) = self.0.wait()
        {
            tracing::warn!("cannot wait for git: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(folder: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=t", "-c", "user.email=t@localhost"])
            .args(arguments)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with two commits: `old` (tagged v1) and `new` (on main).
    fn repository(folder: &Path) -> (String, String) {
        git(folder, &["init", "-q", "-b", "main"]);
        std::fs::write(folder.join("file"), "old\n").unwrap();
        git(folder, &["add", "."]);
        git(folder, &["commit", "-q", "-m", "one"]);
        git(folder, &["tag", "-a", "v1", "-m", "first"]);
        let old = git(folder, &["rev-parse", "HEAD"]);
        std::fs::write(folder.join("file"), "new\n").unwrap();
        std::fs::write(folder.join(".gitattributes"), "file eol=crlf\n").unwrap();
        git(folder, &["add", "."]);
        git(folder, &["commit", "-q", "-m", "two"]);
        (old, git(folder, &["rev-parse", "HEAD"]))
    }

    #[test]
    fn references_become_commits() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = repository(folder.path());
        let url = folder.path().to_str().unwrap();
        let cancel = Cancel::new().unwrap();
        let resolved = |reference| resolve(url, reference, &cancel);
        assert_eq!(resolved("v1").unwrap(), old);
        assert_eq!(resolved("main").unwrap(), new);
        assert_eq!(resolved("HEAD").unwrap(), new);
        assert_eq!(resolved(&old).unwrap(), old);
        let error = resolved("v2").unwrap_err();
        assert!(
            matches!(error, GitError::UnknownReference { .. }),
            "{error}"
        );
        let error = resolve("/nowhere", "main", &cancel).unwrap_err();
        assert!(error.to_string().contains("/nowhere"), "{error}");
    }

    #[test]
    fn a_commit_decides_what_is_checked_out() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = repository(folder.path());
        let url = folder.path().to_str().unwrap();
        let cancel = Cancel::new().unwrap();
        for (reference, commit, text) in [("main", &old, "old\n"), (&*new, &new, "new\r\n")] {
            let (scratch, into) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            checkout(url, reference, commit, scratch.path(), into.path(), &cancel).unwrap();
            assert_eq!(
                std::fs::read_to_string(into.path().join("file")).unwrap(),
                text
            );
            assert!(!into.path().join(".git").exists());
        }
    }

    #[test]
    fn a_cancelled_build_stops_git() {
        let cancel = Cancel::new().unwrap();
        cancel.cancel();
        let error = resolve("/nowhere", "main", &cancel).unwrap_err();
        assert!(
            matches!(error, GitError::Cancelled | GitError::Failed { .. }),
            "{error}"
        );
    }
}
