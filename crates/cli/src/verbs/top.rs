//! `kiln top`: the processes of a container.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::containers::{find, not_running};
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks;
use crate::text;
use crate::verbs::Format;

/// List the processes of a running container, as this machine sees them
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let container = find(&store, &args.container)?;
    let running = container
        .running()?
        .ok_or_else(|| not_running(&container))?;
    let booted = booted()?;
    let started = |milliseconds: u64| {
        let span = std::time::Duration::from_millis(milliseconds);
        booted.checked_add(span).unwrap_or(booted)
    };
    let processes = running.processes();
    if args.format == Format::Json {
        let rows = processes.iter().map(|process| {
            serde_json::json!({
                "uid": process.uid,
                "pid": process.pid,
                "ppid": process.parent,
                "started": started(process.started_ms),
                "cpu_ms": process.cpu_ms,
                "memory_bytes": process.memory_bytes,
                "command": process.command,
            })
        });
        return printer.json(&serde_json::Value::Array(rows.collect()));
    }
    let head = ["UID", "PID", "PPID", "STIME", "TTY", "TIME", "CMD"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let zone = TimeZone::system();
    rows.extend(processes.iter().map(|process| {
        let time = started(process.started_ms).to_zoned_datetime(zone.clone());
        let seconds = process.cpu_ms / 1000;
        vec![
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            time.strftime("%H:%M").to_string(),
            // Terminals of containers have no name outside of them.
            if process.terminal == 0 { "?" } else { "pts" }.to_owned(),
            format!(
                "{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            ),
            text::harmless(&process.command),
        ]
    }));
    printer.data(text::table(&rows))
}

/// When the machine was started.
fn booted() -> Outcome<Timestamp> {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime = text
        .split(' ')
        .next()
        .and_then(|text| text.parse::<f64>().ok());
    let missing = || {
        let message = "/proc/uptime does not say how long this machine runs";
        Failure::message(Class::Environment, message, None)
    };
    let uptime = std::time::Duration::try_from_secs_f64(uptime.ok_or_else(missing)?);
    let now = tasks::clock();
    Ok(uptime
        .ok()
        .and_then(|uptime| now.checked_sub(uptime).ok())
        .unwrap_or(now))
}
