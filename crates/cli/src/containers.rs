//! Containers of the store as verbs find, stop and list them.

use std::time::{Duration, Instant};

use kiln_runtime::{Connection, Reply, Request, Status, StoredContainer};
use kiln_sandbox::{Group, Running, SandboxError, Signal, signal_of};
use kiln_store::{Store, StoreError, Wait};

use crate::errors::{Class, Classify, Failure, Outcome};
use crate::monitors;
use crate::printer::Printer;
use crate::suggest;

/// Finds the container that `text` means.
///
/// # Errors
/// There is none, or several.
pub(crate) fn find(store: &Store, text: &str) -> Outcome<StoredContainer> {
    match StoredContainer::find(store, text) {
        Err(StoreError::Missing { .. }) => {
            let names = store.containers().names()?;
            let known = names.values().map(ToString::to_string);
            let otherwise = || "these are there: kiln ps -a".to_owned();
            Err(Failure::message(
                Class::User,
                format!("there is no container `{text}`"),
                Some(suggest::help(text, known, otherwise)),
            ))
        }
        found => Ok(found?),
    }
}

/// Does something to each of `names`, and prints those it was done to. Goes on after a failure, and then fails in
/// the end.
///
/// # Errors
/// The last failure; all others have been told.
pub(crate) fn each(
    names: &[String],
    printer: &mut Printer,
    mut action: impl FnMut(&str, &mut Printer) -> Outcome,
) -> Outcome {
    let mut failed = None;
    for name in names {
        let done = action(name, printer);
        told(name, done, &mut failed, printer)?;
    }
    failed.map_or(Ok(()), Err)
}

/// As [`each`], for what takes time and does not wait for one another: several at once.
///
/// # Errors
/// As [`each`].
pub(crate) fn each_at_once(
    names: &[String],
    printer: &mut Printer,
    action: impl Fn(&str) -> Outcome + Sync,
) -> Outcome {
    let mut failed = None;
    for some in names.chunks(AT_ONCE) {
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let started: Vec<_> = some
                .iter()
                .map(|name| scope.spawn(|| action(name)))
                .collect();
            let panicked = |_panic| {
                let message = "what was to be done with a container broke off";
                Err(Failure::message(Class::Bug, message, None))
            };
            let ended = started.into_iter();
            ended
                .map(|one| one.join().unwrap_or_else(panicked))
                .collect()
        });
        for (name, done) in some.iter().zip(outcomes) {
            told(name, done, &mut failed, printer)?;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// How many containers are asked at once; docker's number.
const AT_ONCE: usize = 50;

/// Prints the name of what was done, or keeps the failure, and tells the one before it.
fn told(name: &str, done: Outcome, failed: &mut Option<Failure>, printer: &mut Printer) -> Outcome {
    match done {
        Ok(()) => printer.line(name),
        Err(failure) => {
            if let Some(earlier) = failed.replace(failure) {
                printer.report_failure(&earlier);
            }
            Ok(())
        }
    }
}

/// A container that is not running, for a verb that needs it to.
pub(crate) fn not_running(container: &StoredContainer) -> Failure {
    let name = container.display_name();
    Failure::message(
        Class::User,
        format!("container {name} is not running"),
        Some(format!("start it: kiln start {name}")),
    )
}

/// Asks a container to end, kills it after a while, and waits until nobody runs it any more.
///
/// # Errors
/// The system refuses.
pub(crate) fn stop(
    store: &Store,
    container: &StoredContainer,
    signal: Option<i32>,
    timeout: Option<Duration>,
) -> Outcome {
    if matches!(container.status, Status::Created | Status::Exited) {
        return Ok(());
    }
    let containers = store.containers();
    let watch = match containers.watch(container.id()) {
        Err(StoreError::Missing { .. }) => return Ok(()),
        watch => watch?,
    };
    let folder = containers.folder(container.id());
    match Connection::open(&folder).map_err(broken)? {
        Some(connection) => {
            let timeout_ms =
                timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
            let stop = Request::Stop { signal, timeout_ms };
            // It may end by itself just now.
            if connection.ask(&stop).is_ok() {
                while let Some(reply) = connection.reply().map_err(broken)? {
                    if matches!(reply, Reply::Exited { .. }) {
                        break;
                    }
                }
            }
        }
        None => stop_by_hand(container, signal, timeout)?,
    }
    watch.wait()?;
    Ok(())
}

/// Ends a container that runs in the process of whoever wanted to see it.
fn stop_by_hand(
    container: &StoredContainer,
    signal: Option<i32>,
    timeout: Option<Duration>,
) -> Outcome {
    let Some(running) = container.running()? else {
        return Ok(());
    };
    let plan = &container.config.plan;
    let signal = signal_of(signal.unwrap_or(plan.stop_signal)).unwrap_or(Signal::TERM);
    running.signal(signal)?;
    thaw(container)?;
    let deadline = Instant::now().checked_add(timeout.unwrap_or(plan.stop_timeout));
    if !running.wait_until(deadline)? {
        running.signal(Signal::KILL)?;
        running.wait_until(None)?;
    }
    Ok(())
}

/// Sends a signal to a container's first process.
///
/// # Errors
/// It does not run.
pub(crate) fn signal(store: &Store, container: &StoredContainer, signal: i32) -> Outcome {
    let folder = store.containers().folder(container.id());
    match Connection::open(&folder).map_err(broken)? {
        Some(connection) => {
            connection
                .ask(&Request::Signal { signal })
                .map_err(broken)?;
            connection.reply().map_err(broken)?;
            Ok(())
        }
        None => {
            let running: Running = container.running()?.ok_or_else(|| not_running(container))?;
            let number = signal;
            let signal = signal_of(number).ok_or_else(|| {
                Failure::message(Class::User, format!("{number} is no signal"), None)
            })?;
            running.signal(signal)?;
            if signal == Signal::KILL {
                thaw(container)?;
            }
            monitors::tell(
                store,
                &container.config,
                &container.display_name(),
                "kill",
                &[("signal", number.to_string())],
            )
        }
    }
}

/// What stands still does not end.
fn thaw(container: &StoredContainer) -> Outcome {
    let group = Group::new(container.state.groups.clone());
    if group.is_frozen() {
        group.thaw().map_err(SandboxError::from)?;
    }
    Ok(())
}

/// Takes a container away that nobody runs; one that is gone by now is fine.
///
/// # Errors
/// The system refuses.
pub(crate) fn remove(store: &Store, container: &StoredContainer) -> Outcome {
    let containers = store.containers();
    match containers.claim_waiting(container.id(), Wait::Forever) {
        Ok(Some(claim)) => containers.remove(claim)?,
        Ok(None) | Err(StoreError::Missing { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    monitors::tell(
        store,
        &container.config,
        &container.display_name(),
        "destroy",
        &[],
    )
}

pub(crate) fn broken(error: std::io::Error) -> Failure {
    let message = format!("cannot talk to whoever runs the container: {error}");
    Failure::message(Class::Environment, message, None)
}

impl Classify for SandboxError {
    fn class(&self) -> Class {
        Class::Environment
    }
}
