//! Moves kiln's process into a mount namespace of its own, as root of it.
//!
//! Everything kiln mounts is mounted in there, so nobody else sees it and a `kill -9` leaves nothing behind.
//! An ordinary user gets a user namespace too; after that the code is the same for everybody.
//!
//! ```text
//! root, or CAP_SYS_ADMIN       unshare(NEWNS)                                        Privileges::Root
//! ordinary user                unshare(NEWUSER|NEWNS), newuidmap and newgidmap       Privileges::Mapped
//!   nothing in /etc/subuid     unshare(NEWUSER|NEWNS), user 0 = the user, no others  Privileges::Single
//! ```

mod subordinate;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kiln_sys::{Errno, namespace};
use rustix::fs::{Mode, OFlags};

use crate::capability::{Capability, CapabilitySet};
use crate::host::{Host, NamespaceOf};
use crate::privileges::{IdRange, Privileges, parse_map};

/// How to [`enter()`].
#[derive(Debug, Clone)]
pub struct EnterOptions {
    /// An existing directory, absolute and without links in it, that nobody else writes to. A private tmpfs is
    /// mounted over it: small files of sandboxes live there. The directory itself stays empty.
    pub scratch: PathBuf,
    /// A user namespace that another process of this user made by entering. It is entered, in place of a new one.
    pub user_namespace: Option<Arc<OwnedFd>>,
}

/// Why this process cannot run sandboxes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// Called too late.
    #[error("this process has {count} threads, and namespaces can only be entered with one")]
    Threads {
        /// How many there are.
        count: usize,
    },
    /// The kernel does not let this user make a namespace.
    #[error("no right to make namespaces (unshare: {errno}): {advice}")]
    Refused {
        /// What `unshare(2)` said.
        errno: Errno,
        /// What seems to be the reason and what to do about it.
        advice: String,
    },
    /// `newuidmap` or `newgidmap` failed.
    #[error("{helper} cannot map users of `{file}`: {message}")]
    Helper {
        /// Which of the two.
        helper: &'static str,
        /// Where the numbers came from.
        file: &'static str,
        /// What it said.
        message: String,
    },
    /// Something else the kernel refused.
    #[error("{action}: {errno}{}", if *errno == Errno::NOSYS { "; kiln needs Linux 5.12 or newer" } else { "" })]
    Kernel {
        /// What was tried.
        action: String,
        /// What it said.
        errno: Errno,
    },
}

impl EnterError {
    pub(crate) fn kernel(action: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let action = action.into();
        |errno| Self::Kernel { action, errno }
    }
}

/// Moves this process into its own namespaces and prepares what sandboxes need.
///
/// Call it once, before the first thread is started. Mounts of the host still arrive here later; what is mounted
/// here is seen by nobody else and ends with the process.
///
/// # Errors
/// [`EnterError`]; the process may have moved already and should end.
pub fn enter(options: &EnterOptions) -> Result<Host, EnterError> {
    let count = namespace::thread_count()
        .map_err(EnterError::kernel("counting the threads of this process"))?;
    if count != 1 {
        return Err(EnterError::Threads { count });
    }
    let capabilities = CapabilitySet::of_this_process().map_err(EnterError::kernel(
        "reading the capabilities of this process",
    ))?;
    // Later only root of the machine may open it.
    let score = rustix::fs::open(
        c"/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let (privileges, namespace_of) = match &options.user_namespace {
        None if is_root_already(capabilities) => {
            namespace::unshare_mounts().map_err(refused)?;
            (privileges_of_this_namespace(), NamespaceOf::Others)
        }
        None => (enter_user_namespace()?, NamespaceOf::ThisProcess),
        Some(shared) => {
            namespace::join_user_namespace(shared.as_fd())
                .map_err(EnterError::kernel("entering a shared user namespace"))?;
            namespace::unshare_mounts().map_err(refused)?;
            (privileges_of_this_namespace(), NamespaceOf::Kilns)
        }
    };
    namespace::make_undumpable().map_err(EnterError::kernel(
        "making the memory of this process private",
    ))?;
    Host::new(options, privileges, namespace_of, score.ok())
}

fn is_root_already(capabilities: CapabilitySet) -> bool {
    let root = rustix::process::geteuid().is_root() && rustix::process::getegid().is_root();
    root && capabilities.contains(Capability::SYS_ADMIN)
}

/// Whether [`enter()`] makes a user namespace, since this process is that of an ordinary user.
///
/// # Errors
/// The capabilities of this process cannot be read.
pub fn needs_user_namespace() -> Result<bool, EnterError> {
    CapabilitySet::of_this_process()
        .map(|capabilities| !is_root_already(capabilities))
        .map_err(EnterError::kernel(
            "reading the capabilities of this process",
        ))
}

/// With `CAP_SYS_ADMIN`: root of the machine, or of a user namespace somebody else made.
pub(crate) fn privileges_of_this_namespace() -> Privileges {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (uids, gids) = (parse_map(&read("uid_map")), parse_map(&read("gid_map")));
    let count = |ranges: &[IdRange]| {
        ranges
            .iter()
            .map(|range| u64::from(range.count))
            .sum::<u64>()
    };
    match count(&uids).min(count(&gids)) {
        all if all >= u64::from(u32::MAX) => Privileges::Root,
        0 | 1 => Privileges::Single {
            reason: "the user namespace kiln was started in maps a single user".to_owned(),
        },
        _ => Privileges::Mapped { uids, gids },
    }
}

/// As an ordinary user: a user namespace with all the numbers this user may have.
fn enter_user_namespace() -> Result<Privileges, EnterError> {
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    match subordinate::ranges(uid) {
        Ok((uids, gids)) => {
            let (uids, gids) = (map(uid, &uids), map(gid, &gids));
            let helper = Helper::start(&uids, &gids)?;
            namespace::unshare_user_and_mounts().map_err(refused)?;
            helper.map()?;
            Ok(Privileges::Mapped { uids, gids })
        }
        Err(reason) => {
            namespace::unshare_user_and_mounts().map_err(refused)?;
            for (name, text) in [
                ("uid_map", format!("0 {uid} 1")),
                ("setgroups", "deny".to_owned()),
                ("gid_map", format!("0 {gid} 1")),
            ] {
                namespace::write_own(name, &text).map_err(EnterError::kernel(format!(
                    "writing `{text}` to /proc/self/{name}"
                )))?;
            }
            Ok(Privileges::Single { reason })
        }
    }
}

/// 0 is the user itself; from 1 on come the subordinate numbers, one range after the other.
fn map(own: u32, ranges: &[(u32, u32)]) -> Vec<IdRange> {
    let mut map = vec![IdRange {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside = 1_u32;
    for (outside, count) in ranges {
        let count = (*count).min(u32::MAX - inside);
        map.push(IdRange {
            inside,
            outside: *outside,
            count,
        });
        inside += count;
    }
    map
}

/// A process outside of the new user namespace, which has the right to write its maps.
struct Helper {
    child: namespace::Forked,
    go: std::io::PipeWriter,
    report: std::io::PipeReader,
}

/// The two programs that write maps, the file each obeys, and what separates its arguments.
const HELPERS: [(&str, &str); 2] = [("newuidmap", "/etc/subuid"), ("newgidmap", "/etc/subgid")];

impl Helper {
    /// Forks it. It waits until it is told to [`map`](Self::map).
    fn start(uids: &[IdRange], gids: &[IdRange]) -> Result<Self, EnterError> {
        let pipe = || std::io::pipe().map_err(|error| io_error("making a pipe", &error));
        let ((mut wait, go), (report, mut tell)) = (pipe()?, pipe()?);
        let process = std::process::id().to_string();
        let mut commands = [HELPERS[0].0, HELPERS[1].0].map(|name| {
            let mut command =
                Command::new(find_helper(name).unwrap_or_else(|| PathBuf::from(name)));
            command.arg(&process).stdin(std::process::Stdio::null());
            command
        });
        for (command, ranges) in commands.iter_mut().zip([uids, gids]) {
            for IdRange {
                inside,
                outside,
                count,
            } in ranges
            {
                command.args([inside, outside, count].map(ToString::to_string));
            }
        }
        let parent = rustix::process::getpid();
        let child = namespace::fork(move || {
            // The pipe does not end with the parent: this process holds its other end too.
            let signal = Some(rustix::process::Signal::KILL);
            if rustix::process::set_parent_process_death_signal(signal).is_err() {
                return 2;
            }
            if rustix::process::getppid() != Some(parent) {
                return 0;
            }
            let mut told = [0];
            match wait.read(&mut told) {
                Ok(1) => {}
                // The parent gave up.
                _ => return 0,
            }
            let [mut first, mut second] = commands;
            // Both at once: each is a slow start of a set-user-id program.
            let first = first
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn();
            let outcomes = [
                second.output(),
                first.and_then(std::process::Child::wait_with_output),
            ];
            for (index, outcome) in [1_u8, 0].into_iter().zip(outcomes) {
                let message = match outcome {
                    Ok(output) if output.status.success() => continue,
                    Ok(output) => [output.stdout, output.stderr].concat(),
                    Err(error) => error.to_string().into_bytes(),
                };
                let text = String::from_utf8_lossy(&message).trim().replace('\n', "; ");
                if tell
                    .write_all(&[&[b'0' + index], text.as_bytes()].concat())
                    .is_err()
                {
                    return 2;
                }
                return 1;
            }
            0
        })
        .map_err(EnterError::kernel("forking a helper to map users"))?;
        Ok(Self { child, go, report })
    }

    /// Has the maps of this process written, now that it is in its new user namespace.
    fn map(self) -> Result<(), EnterError> {
        let Self {
            child,
            mut go,
            mut report,
        } = self;
        go.write_all(b"x")
            .map_err(|error| io_error("talking to the helper that maps users", &error))?;
        let mut message = String::new();
        report
            .read_to_string(&mut message)
            .map_err(|error| io_error("listening to the helper that maps users", &error))?;
        let succeeded = child
            .wait()
            .map_err(EnterError::kernel("waiting for the helper that maps users"))?;
        if succeeded {
            return Ok(());
        }
        let (helper, file) = HELPERS[usize::from(message.starts_with('1'))];
        let message = message
            .get(1..)
            .filter(|text| !text.is_empty())
            .unwrap_or("it failed without a message");
        Err(EnterError::Helper {
            helper,
            file,
            message: message.to_owned(),
        })
    }
}

/// Where `newuidmap` and `newgidmap` are kept.
const HELPER_DIRECTORIES: [&str; 5] = [
    "/usr/bin",
    "/bin",
    "/usr/local/bin",
    "/usr/sbin",
    "/run/wrappers/bin",
];

fn find_helper(name: &str) -> Option<PathBuf> {
    let candidates = HELPER_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name));
    candidates.into_iter().find(|path| path.is_file())
}

fn io_error(action: &str, error: &std::io::Error) -> EnterError {
    let errno = error
        .raw_os_error()
        .map_or(Errno::IO, Errno::from_raw_os_error);
    EnterError::Kernel {
        action: action.to_owned(),
        errno,
    }
}

/// Finds out why `unshare` was refused.
fn refused(errno: Errno) -> EnterError {
    let setting = |path: &str| {
        std::fs::read_to_string(path)
            .ok()
            .map(|text| text.trim().to_owned())
    };
    let is = |path: &str, value: &str| setting(path).as_deref() == Some(value);
    let advice = if is("/proc/sys/user/max_user_namespaces", "0") {
        "user namespaces are switched off; set the sysctl user.max_user_namespaces to 10000, or run as root"
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "only root may make user namespaces here; set the sysctl kernel.unprivileged_userns_clone to 1, or run as root"
    } else if errno == Errno::NOSPC {
        "the limit of namespaces is reached; see the sysctls user.max_user_namespaces and user.max_mnt_namespaces"
    } else if is(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        "AppArmor keeps ordinary programs from using user namespaces; set the sysctl \
         kernel.apparmor_restrict_unprivileged_userns to 0, or run as root"
    } else if rustix::process::geteuid().is_root() {
        "root has no CAP_SYS_ADMIN here and may not make a user namespace either, so this seems to be a container; \
         start it with `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined` \
         (and `--security-opt systempaths=unconfined`), or `--privileged`"
    } else {
        "if this is a container, start it with `--security-opt seccomp=unconfined`; otherwise run as root"
    };
    EnterError::Refused {
        errno,
        advice: advice.to_owned(),
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(text: &str) {
    let ranges = subordinate::parse(text, 1000, Some("a"));
    let map = map(1000, &ranges);
    for pair in map.windows(2) {
        if let [one, next] = pair {
            assert!(u64::from(one.inside) + u64::from(one.count) <= u64::from(next.inside));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_numbers_follow_the_own_one() {
        let range = |inside, outside, count| IdRange {
            inside,
            outside,
            count,
        };
        assert_eq!(
            map(1000, &[(100_000, 65_536), (300_000, 10)]),
            [
                range(0, 1000, 1),
                range(1, 100_000, 65_536),
                range(65_537, 300_000, 10)
            ]
        );
    }

    #[test]
    fn maps_of_the_kernel_are_understood() {
        let ranges = parse_map("         0          0 4294967295\n");
        assert_eq!(
            ranges,
            [IdRange {
                inside: 0,
                outside: 0,
                count: u32::MAX
            }]
        );
        assert_eq!(parse_map("0 1000 1\n1 100000 65536\n").len(), 2);
        assert_eq!(parse_map("garbage"), []);
    }

    #[test]
    fn tests_have_threads_and_are_refused() {
        let waiting = std::thread::spawn(std::thread::park);
        let error = enter(&EnterOptions {
            scratch: PathBuf::from("/nonexistent"),
            user_namespace: None,
        })
        .unwrap_err();
        assert!(
            matches!(error, EnterError::Threads { count } if count > 1),
            "{error}"
        );
        waiting.thread().unpark();
        waiting.join().unwrap();
    }
}
