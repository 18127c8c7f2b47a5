//! Runs the programs a bundle wants run along the way.

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

use crate::error::BundleError;
use crate::spec::Hook;

/// Most of what a hook said that is worth repeating.
const SAID_BYTES: u64 = 4096;

/// Runs hooks one after the other with `state` as their input, and stops at the first that fails.
pub(crate) fn run(hooks: &[Hook], stage: &'static str, state: &str) -> Result<(), BundleError> {
    hooks
        .iter()
        .try_for_each(|hook| run_one(hook, stage, state))
}

fn run_one(hook: &Hook, stage: &'static str, state: &str) -> Result<(), BundleError> {
    let fail = |problem: String| BundleError::Hook {
        path: hook.path.clone(),
        stage,
        problem,
    };
    // Files in memory: neither a full pipe nor a grandchild that keeps one open can make this wait.
    let memory = |name: &str| {
        rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
            .map(std::fs::File::from)
            .map_err(|errno| fail(format!("gets no input or output: {errno}")))
    };
    let (mut input, mut said) = (memory("state")?, memory("errors")?);
    let written = std::io::Write::write_all(&mut input, state.as_bytes());
    written
        .and_then(|()| input.rewind())
        .map_err(|error| fail(format!("gets no input: {error}")))?;
    let errors = said
        .try_clone()
        .map_err(|error| fail(format!("gets no output: {error}")))?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .envs(hook.env.iter().filter_map(|pair| pair.split_once('=')))
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::from(errors));
    let mut child = command
        .spawn()
        .map_err(|error| fail(format!("cannot be run: {error}")))?;
    let deadline = hook
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds.max(0).unsigned_abs()));
    let status = match deadline {
        None => child.wait(),
        Some(deadline) => wait_until(&mut child, deadline, || {
            fail("did not end within its timeout".into())
        })?,
    };
    let status = status.map_err(|error| fail(format!("is lost: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let repeated = said
        .rewind()
        .and_then(|()| said.take(SAID_BYTES).read_to_string(&mut text));
    if repeated.is_err() {
        text.clear();
    }
    Err(fail(format!("failed, {status}: {}", text.trim())))
}

/// Waits for the end of a child; kills it at the deadline.
fn wait_until(
    child: &mut std::process::Child,
    deadline: Instant,
    late: impl FnOnce() -> BundleError,
) -> Result<std::io::Result<std::process::ExitStatus>, BundleError> {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(None) => {
                crate::error::best_effort("killing a hook", child.kill());
                crate::error::best_effort("waiting for a hook", child.wait());
                return Err(late());
            }
            Ok(Some(status)) => return Ok(Ok(status)),
            Err(error) => return Ok(Err(error)),
        }
    }
}
