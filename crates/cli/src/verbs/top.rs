//! `kiln top`: the processes of a container.

use std::process::Command;

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
///
/// Behind the container there may be options of `ps`, which is then asked: the table must have a column PID.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln top web
  kiln top web -o pid,rss,comm")]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// Options of this machine's ps
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        conflicts_with = "format"
    )]
    options: Vec<String>,

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
    if !args.options.is_empty() {
        let numbers: Vec<u32> = running.processes().iter().map(|it| it.pid).collect();
        return printer.data(ps(&args.options, &numbers)?);
    }
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

/// What `ps` says of processes.
fn ps(options: &[String], processes: &[u32]) -> Outcome<String> {
    let failed = |class, problem: &str| {
        let message = format!("`ps {}` {problem}", options.join(" "));
        let help = "leave the options out, or write others, such as -o pid,comm".to_owned();
        Failure::message(class, message, Some(help))
    };
    let said = Command::new("ps").args(options).output().map_err(|error| {
        let problem = format!("cannot be run: {error}");
        failed(Class::Environment, &problem)
    })?;
    let text = String::from_utf8_lossy(&said.stdout);
    if !said.status.success() {
        let reason = String::from_utf8_lossy(&said.stderr);
        let reason = text::harmless(reason.trim().lines().next().unwrap_or("nothing"));
        return Err(failed(Class::User, &format!("says: {reason}")));
    }
    rows_of(&text, processes).ok_or_else(|| failed(Class::User, "shows no column PID"))
}

/// The head of a table of `ps` and the rows of these processes; `None` without a column for their numbers.
fn rows_of(table: &str, processes: &[u32]) -> Option<String> {
    let mut lines = table.lines();
    let head = lines.next()?;
    let column = head
        .split_ascii_whitespace()
        .position(|name| name == "PID")?;
    let rows = lines.filter(|line| {
        let number = line.split_ascii_whitespace().nth(column);
        number.is_some_and(|number| number.parse().is_ok_and(|it| processes.contains(&it)))
    });
    let lines = [head].into_iter().chain(rows);
    Some(
        lines
            .map(|line| text::harmless(line) + "\n")
            .collect::<String>(),
    )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_the_container_are_shown() {
        let table = "USER  PID COMMAND\nroot    7 sleep 8\nroot    8 sleep 7\n";
        let shown = rows_of(table, &[8]);
        let expected = "USER  PID COMMAND\nroot    8 sleep 7\n";
        assert_eq!(shown.as_deref(), Some(expected));
        assert_eq!(rows_of("USER COMMAND\nroot 7\n", &[7]), None);
        assert_eq!(rows_of("", &[7]), None);
    }
}
