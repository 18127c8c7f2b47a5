//! The small processes that kiln starts itself as; see [`kiln_runtime::Task`].
//!
//! They have no command line for people, no settings and no environment: what they are to do is in an order that
//! they inherit.

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use kiln_network::{NetworkError, Outside, SharedNetwork};
use kiln_runtime::{
    ExecOrder, ExecOutcome, KeepOrder, Monitor, MonitorError, MonitorOrder, PlannedNetwork,
    ProbeOrder, StoredContainer, Task, take_order, tell_failure,
};
use kiln_sandbox::EnterOptions;
use kiln_store::Store;

use crate::errors::{Class, Failure, Outcome};
use crate::monitor_log;
use crate::notices::{self, Listening};
use crate::printer::Printer;

/// What time it is.
pub(crate) fn clock() -> Timestamp {
    Timestamp::now()
}

/// Does what this process was started for, if that is one of the tasks.
pub(crate) fn of_this_process() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let task = Task::of(arguments.next()?.to_str()?)?;
    let numbers: Vec<i32> = arguments.map_while(number).collect();
    let done = match (task, numbers.as_slice()) {
        (Task::Monitor, [order, socket]) => monitor(*order, *socket),
        (Task::Exec, [order]) => exec(*order),
        (Task::Probe, [order]) => probe(*order),
        (Task::Keep, [order, line]) => keep(*order, *line),
        _ => Err(not_for_people()),
    };
    Some(done.unwrap_or_else(|failure| Printer::plain().failure(&failure, true)))
}

fn number(text: OsString) -> Option<i32> {
    text.to_str()?.parse().ok()
}

fn not_for_people() -> Failure {
    let message = "kiln starts this by itself";
    Failure::message(
        Class::User,
        message,
        Some("see what there is: kiln --help".to_owned()),
    )
}

fn broken_order(error: &std::io::Error) -> Failure {
    Failure::message(
        Class::Bug,
        format!("the order cannot be read: {error}"),
        None,
    )
}

fn monitor(order: i32, socket: i32) -> Outcome<ExitCode> {
    let socket = kiln_sys::process::inherited(socket);
    let socket = socket.map_err(|error| broken_order(&error.into()))?;
    // Whoever started it may go away, and its terminal with it.
    let new_session = rustix::process::setsid();
    new_session.map_err(|error| broken_order(&error.into()))?;
    if let Err(error) = rustix::thread::set_name(c"kiln-monitor") {
        tracing::debug!("the process keeps its name: {error}");
    }
    let order: MonitorOrder = take_order(order).map_err(|error| broken_order(&error))?;
    match prepare(order, socket) {
        Ok(monitor) => {
            monitor.run();
            Ok(ExitCode::SUCCESS)
        }
        Err((error, socket)) => {
            tell_failure(&socket, &error);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn prepare(order: MonitorOrder, socket: OwnedFd) -> Result<Monitor, (MonitorError, OwnedFd)> {
    let store = match Store::open(&order.store) {
        Ok(store) => store,
        Err(error) => return Err((error.into(), socket)),
    };
    let folder = store.containers().folder(&order.id);
    notices::listen(Listening::Warnings, Box::new(monitor_log::teller(folder)));
    let scratch = store.mount_point();
    let host = match kiln_sandbox::enter(&EnterOptions {
        scratch,
        user_namespace: None,
    }) {
        Ok(host) => host,
        Err(error) => {
            let source = std::io::Error::other(error);
            let doing = "enter namespaces";
            return Err((MonitorError::Io { doing, source }, socket));
        }
    };
    let outside = match outside(&store, &order) {
        Ok(outside) => outside,
        Err(error) => return Err((MonitorError::Launch(error.into()), socket)),
    };
    Monitor::new(order, store, host, outside, clock, socket)
}

/// Where the bridges of a container are. Whoever started this process has entered the namespace that has them.
fn outside(store: &Store, order: &MonitorOrder) -> Result<Outside, NetworkError> {
    let stored = StoredContainer::open(store, &order.id);
    let is_networked =
        stored.is_ok_and(|stored| matches!(stored.config.plan.network, PlannedNetwork::Bridges(_)));
    if !is_networked {
        return Ok(Outside::Nowhere);
    }
    let shared = SharedNetwork::find_here(store)?;
    Ok(shared.map_or(Outside::Machine, |shared| Outside::Shared(Arc::new(shared))))
}

fn exec(order: i32) -> Outcome<ExitCode> {
    let order: ExecOrder = take_order(order).map_err(|error| broken_order(&error))?;
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    match order.run([input.as_fd(), output.as_fd(), errors.as_fd()]) {
        Ok(ExecOutcome::Exited(code)) => {
            Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
        }
        Ok(ExecOutcome::Detached) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(exec_failure(&error)),
    }
}

/// A process that could not be run in a container, as docker tells it.
pub(crate) fn exec_failure(error: &kiln_runtime::ExecError) -> Failure {
    let code = error.exit_code();
    let class = if code == 125 {
        Class::Environment
    } else {
        Class::User
    };
    Failure::message(class, error.to_string(), None).with_code(code)
}

fn keep(order: i32, line: i32) -> Outcome<ExitCode> {
    let line = kiln_sys::process::inherited(line);
    let line = line.map_err(|error| broken_order(&error.into()))?;
    let order: KeepOrder = take_order(order).map_err(|error| broken_order(&error))?;
    let code = kiln_runtime::keep(&order, line);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn probe(order: i32) -> Outcome<ExitCode> {
    let order: ProbeOrder = take_order(order).map_err(|error| broken_order(&error))?;
    let answer = order.run();
    let code = if answer.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    let (Ok(text) | Err(text)) = answer;
    // The monitor may have given up waiting.
    if writeln!(std::io::stdout(), "{text}").is_err() {
        return Ok(ExitCode::FAILURE);
    }
    Ok(code)
}
