//! The program of a sandbox: its name, arguments, environment, input and output.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use kiln_sys::plan::Execute;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;

use crate::child::Ends;
use crate::error::SandboxError;
use crate::spec::{DEFAULT_PATH, Ids, SandboxSpec, Stdio};

/// The program with its arguments and environment.
pub(crate) fn program(
    argv: &[OsString],
    variables: &BTreeMap<OsString, OsString>,
    home: &str,
) -> Result<Execute, SandboxError> {
    let text = |bytes: &[u8], what: &str| {
        CString::new(bytes)
            .map_err(|_zero_byte| SandboxError::spec(format!("{what} has a zero byte in it")))
    };
    let name = argv.first().filter(|name| !name.is_empty());
    let name = name
        .ok_or_else(|| SandboxError::spec("there is no program to run"))?
        .as_bytes();
    let mut environment = Vec::new();
    for (key, value) in variables {
        let key = key.as_bytes();
        if key.is_empty() || key.contains(&b'=') {
            let key = key.escape_ascii();
            return Err(SandboxError::spec(format!(
                "`{key}` cannot be the name of an environment variable"
            )));
        }
        let what = format!("the environment variable `{}`", key.escape_ascii());
        environment.push(text(&[key, b"=", value.as_bytes()].concat(), &what)?);
    }
    if !variables.contains_key(OsStr::new("HOME")) {
        environment.push(text(
            format!("HOME={home}").as_bytes(),
            "the home directory",
        )?);
    }
    let candidates = if name.contains(&b'/') {
        vec![text(name, "the program's name")?]
    } else {
        let path = variables
            .get(OsStr::new("PATH"))
            .map_or(DEFAULT_PATH.as_bytes(), |path| path.as_bytes());
        let directories = path
            .split(|byte| *byte == b':')
            .filter(|directory| !directory.is_empty());
        directories
            .map(|directory| text(&[directory, b"/", name].concat(), "the program's name"))
            .collect::<Result<_, _>>()?
    };
    let arguments = argv
        .iter()
        .map(|argument| text(argument.as_bytes(), "an argument"))
        .collect::<Result<_, _>>()?;
    Ok(Execute {
        candidates,
        arguments,
        environment,
    })
}

pub(super) fn hostname(spec: &SandboxSpec) -> Result<CString, SandboxError> {
    let name = spec.hostname.as_deref().unwrap_or("localhost");
    let right = !name.is_empty()
        && name.len() <= 63
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !right {
        let problem =
            format!("`{name}` cannot be a host name: 1 to 63 letters, digits, `-`, `.` and `_`");
        return Err(SandboxError::Spec { problem });
    }
    Ok(CString::new(name).expect("no zero byte among the characters that are allowed"))
}

/// Descriptors 0 to 2 of the process, and kiln's ends of them.
pub(crate) fn stdio(kind: Stdio, user: &Ids) -> Result<([Option<OwnedFd>; 3], Ends), SandboxError> {
    let mut ends = Ends::default();
    let pipe = || {
        let fail = || SandboxError::kernel("making a pipe");
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(fail())?;
        // 0 to 2 are about to be replaced in the new process, one after the other.
        let clear = |end: OwnedFd| match end.as_raw_fd() {
            0..=2 => rustix::io::fcntl_dupfd_cloexec(&end, 3).map_err(fail()),
            _ => Ok(end),
        };
        Ok::<_, SandboxError>((clear(reader)?, clear(writer)?))
    };
    let theirs = match kind {
        Stdio::Inherit | Stdio::Terminal(_) => [None, None, None],
        Stdio::Log => {
            let null =
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(SandboxError::kernel("opening /dev/null"))?;
            let (reader, writer) = pipe()?;
            ends.output = Some(reader.into());
            give(&writer, user)?;
            let errors = duplicate(&writer)?;
            [Some(null), Some(writer), Some(errors)]
        }
        Stdio::Pipes => {
            let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
            ends.input = Some(input.1.into());
            ends.output = Some(output.0.into());
            ends.errors = Some(errors.0.into());
            for end in [&input.0, &output.1, &errors.1] {
                give(end, user)?;
            }
            [Some(input.0), Some(output.1), Some(errors.1)]
        }
    };
    Ok((theirs, ends))
}

/// Makes a file the user's, so that it can also be opened by way of `/dev/stdout`.
pub(crate) fn give(file: &OwnedFd, user: &Ids) -> Result<(), SandboxError> {
    rustix::fs::fchown(
        file,
        Some(Uid::from_raw(user.uid)),
        Some(Gid::from_raw(user.gid)),
    )
    .map_err(SandboxError::kernel(
        "giving input and output to the sandbox's user",
    ))
}

pub(crate) fn duplicate(file: impl AsFd) -> Result<OwnedFd, SandboxError> {
    rustix::io::fcntl_dupfd_cloexec(file, 3)
        .map_err(SandboxError::kernel("duplicating a descriptor"))
}
