//! The program of a process: found as the process will see it, so that what is missing is known before the start.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_sys::own;

use crate::error::BundleError;
use crate::spec::Process;

/// Where programs are looked for without a `PATH`.
const SEARCHED: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with all it is handed.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Finds the program from where this process is, which is in the container.
    pub(crate) fn find(process: &Process, more: &[String]) -> Result<Self, BundleError> {
        let name = process.args.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| BundleError::invalid("process.args: there is no program"))?;
        let environment = environment(process, more);
        let path = search(name, &environment)?;
        let text = |bytes: &[u8], place: &str| {
            CString::new(bytes).map_err(|_zero_byte| {
                BundleError::invalid(format!("{place}: there is a zero byte in it"))
            })
        };
        Ok(Self {
            path: text(path.as_os_str().as_bytes(), "process.args")?,
            arguments: process
                .args
                .iter()
                .map(|word| text(word.as_bytes(), "process.args"))
                .collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|pair| text(pair.as_bytes(), "process.env"))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Becomes it. Returns only if that failed.
    pub(crate) fn execute(&self) -> BundleError {
        let errno = own::execute(&self.path, &self.arguments, &self.environment);
        refusal(&self.path.to_string_lossy(), &words(errno.into()))
    }
}

/// The environment, in which the last of several values counts, as in a shell.
fn environment(process: &Process, more: &[String]) -> Vec<String> {
    let mut environment: Vec<String> = Vec::new();
    for pair in process.env.iter().chain(more) {
        // What has no name would be nobody's.
        let Some((name, _)) = pair.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            continue;
        };
        let same = |known: &String| {
            known
                .split_once('=')
                .is_some_and(|(known, _)| known == name)
        };
        match environment.iter_mut().find(|known| same(known)) {
            Some(known) => known.clone_from(pair),
            None => environment.push(pair.clone()),
        }
    }
    let has_home = environment.iter().any(|pair| pair.starts_with("HOME="));
    if !has_home && let Some(home) = home(process.user.uid) {
        environment.push(format!("HOME={home}"));
    }
    environment
}

/// The user's home directory by the container's `/etc/passwd`; the top without one.
fn home(uid: u32) -> Option<String> {
    let root = kiln_sys::confined::open_directory("/").ok()?;
    let passwd = kiln_sys::confined::read_in_root(root, "/etc/passwd", 1 << 20).unwrap_or_default();
    let passwd = String::from_utf8_lossy(&passwd);
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let same = fields.get(2)?.parse::<u32>() == Ok(uid);
        same.then(|| fields.get(5).map(|home| (*home).to_owned()))?
    });
    Some(
        found
            .filter(|home| !home.is_empty())
            .unwrap_or_else(|| "/".to_owned()),
    )
}

fn search(name: &str, environment: &[String]) -> Result<PathBuf, BundleError> {
    if name.contains('/') {
        check(Path::new(name))
            .map_err(|error| refusal(name, &format!("stat {name}: {}", words(error))))?;
        return Ok(PathBuf::from(name));
    }
    let path = environment
        .iter()
        .find_map(|pair| pair.strip_prefix("PATH="));
    let mut denied = false;
    for directory in path.unwrap_or(SEARCHED).split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => denied |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
    Err(if denied {
        refusal(name, "permission denied")
    } else {
        refusal(name, "executable file not found in $PATH")
    })
}

/// Whether a file can be executed by the user this process is by now.
fn check(path: &Path) -> std::io::Result<()> {
    let metadata = std::fs::metadata(OsStr::new(path))?;
    let denied = || std::io::Error::from_raw_os_error(libc::EACCES);
    if metadata.is_dir() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(denied());
    }
    rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    )
    .map_err(std::io::Error::from)
}

/// A failure in the words that programs above look for, to tell what is wrong with the program from what is wrong
/// with the runtime.
fn refusal(name: &str, problem: &str) -> BundleError {
    BundleError::invalid(format!("exec: \"{name}\": {problem}"))
}

/// The kernel's words for an error, as the C library begins them in other programs' messages: in lower case.
fn words(error: std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}
