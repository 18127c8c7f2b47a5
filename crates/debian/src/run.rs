//! Running a command inside a root file system, as this crate needs it.

use std::io;
use std::path::PathBuf;

/// Runs commands in one root file system, in a sandbox. The caller implements it.
///
/// Inside there are `/proc`, `/dev` with the usual nodes, a `/tmp`, no network, user 0 with the
/// capabilities a package's scripts need (chown, dac_override, fowner, fsetid, kill, mknod, setgid,
/// setuid, setfcap, sys_chroot), and nothing in the environment but what the command says. Mount
/// points made for it do not stay in the root file system.
pub trait RunInRoot {
    /// Runs `command` to its end; standard input is empty, and both outputs go to `output` as they
    /// come.
    ///
    /// # Errors
    /// What kept the command from being started or waited for. A command that fails is not an error
    /// here: its exit says so.
    fn run(&mut self, command: &RootCommand, output: &mut dyn FnMut(&[u8]))
    -> io::Result<RootExit>;
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootCommand {
    /// The program, by its absolute path inside, and its arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Folders of the host that must be visible inside, read-only.
    pub mounts: Vec<ReadOnlyMount>,
}

/// A folder of the host, visible inside while the command runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOnlyMount {
    /// The folder outside.
    pub source: PathBuf,
    /// Where it is inside: an absolute path that need not exist.
    pub target: String,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootExit {
    /// With this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}
