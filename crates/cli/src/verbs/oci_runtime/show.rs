//! What is known of containers, and of the runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use kiln_bundle::{Container, Described, Status};
use serde::Serialize;
use serde_json::json;

use super::lifecycle::IdArgs;
use super::{Context, Outcome, Problem};

/// The form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// For programs
    Json,
}

/// List the processes of a container
#[derive(clap::Args, Debug)]
pub(super) struct PsArgs {
    /// Choose the form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Form,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
    /// Options for `ps`, which makes the table
    #[arg(
        value_name = "OPTIONS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    options: Vec<String>,
}

/// List containers
#[derive(clap::Args, Debug)]
pub(super) struct ListArgs {
    /// Choose the form of the output
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    format: Form,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
}

/// Print what a container uses, as JSON
#[derive(clap::Args, Debug)]
pub(super) struct EventsArgs {
    /// Print it once
    #[arg(long)]
    stats: bool,
    /// Print it again after this time, such as 5s or 100ms
    #[arg(long, value_name = "TIME", default_value = "5s")]
    interval: String,
    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

/// Write a config.json to begin with
#[derive(clap::Args, Debug)]
pub(super) struct SpecArgs {
    /// Write it into the bundle in this folder
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    bundle: PathBuf,
    /// Write one that an ordinary user can run
    #[arg(long)]
    rootless: bool,
}

fn print(context: &mut Context<'_>, text: impl AsRef<str>) -> Outcome {
    // A reader that is gone has read what it wanted.
    match context.printer.line(text) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(_closed) => Ok(ExitCode::SUCCESS),
    }
}

/// A container as others read it, in the order that runc has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'static str,
    id: &'a str,
    pid: i32,
    status: Status,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: String,
}

impl<'a> State<'a> {
    fn of(described: &'a Described) -> Self {
        let Described {
            id,
            status,
            pid,
            bundle,
            rootfs,
            created,
            owner,
            annotations,
        } = described;
        Self {
            oci_version: kiln_bundle::spec::VERSION,
            id,
            pid: *pid,
            status: *status,
            bundle,
            rootfs,
            created,
            annotations,
            owner: owner.to_string(),
        }
    }
}

pub(super) fn state(args: &IdArgs, context: &mut Context<'_>) -> Outcome {
    let described = Container::find(&context.root, &args.id)?.describe()?;
    let text = serde_json::to_string_pretty(&State::of(&described)).unwrap_or_default();
    print(context, text)
}

pub(super) fn list(args: &ListArgs, context: &mut Context<'_>) -> Outcome {
    let all = Container::all(&context.root)?;
    // One that goes away meanwhile is none.
    let all: Vec<Described> = all.iter().filter_map(|one| one.describe().ok()).collect();
    if args.quiet {
        let ids: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
        return if ids.is_empty() {
            Ok(ExitCode::SUCCESS)
        } else {
            print(context, ids.join("\n"))
        };
    }
    if args.format == Form::Json {
        let states: Vec<State<'_>> = all.iter().map(State::of).collect();
        return print(context, serde_json::to_string(&states).unwrap_or_default());
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(all.iter().map(|one| {
        [
            one.id.clone(),
            one.pid.to_string(),
            one.status.to_string(),
            one.bundle.display().to_string(),
            one.created.clone(),
            one.owner.to_string(),
        ]
    }));
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        })
        .collect();
    print(context, lines.join("\n"))
}

pub(super) fn processes(args: &PsArgs, context: &mut Context<'_>) -> Outcome {
    let container = Container::find(&context.root, &args.id)?;
    let processes = container.processes()?;
    if args.format == Form::Json {
        return print(context, json!(processes).to_string());
    }
    let options = if args.options.is_empty() {
        vec!["-ef".to_owned()]
    } else {
        args.options.clone()
    };
    let output = std::process::Command::new("ps")
        .args(&options)
        .output()
        .map_err(|error| Problem::Other(format!("cannot run `ps`: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Problem::Other(format!(
            "`ps {}`: {said}",
            options.join(" ")
        )));
    }
    let table = String::from_utf8_lossy(&output.stdout);
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Problem::Other("`ps` was asked for a table without PID".to_owned()))?;
    let ours = |line: &&str| {
        let number = line.split_whitespace().nth(column);
        number
            .and_then(|number| number.parse::<i32>().ok())
            .is_some_and(|number| processes.contains(&number))
    };
    let text: Vec<&str> = std::iter::once(head).chain(lines.filter(ours)).collect();
    print(context, text.join("\n"))
}

pub(super) fn events(args: &EventsArgs, context: &mut Context<'_>) -> Outcome {
    let container = Container::find(&context.root, &args.id)?;
    let interval = interval(&args.interval).ok_or_else(|| {
        let text = &args.interval;
        Problem::Other(format!("`{text}` is not a time such as 5s or 100ms"))
    })?;
    loop {
        let statistics = container.statistics()?;
        print(context, statistics)?;
        if args.stats {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(interval);
        if container.status() == Status::Stopped {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Seconds, or milliseconds with `ms`.
fn interval(text: &str) -> Option<Duration> {
    let interval = match text.strip_suffix("ms") {
        Some(number) => Duration::from_millis(number.parse().ok()?),
        None => Duration::from_secs(text.trim_end_matches('s').parse().ok()?),
    };
    Some(interval).filter(|interval| !interval.is_zero())
}

pub(super) fn spec(args: &SpecArgs) -> Outcome {
    let path = args.bundle.join("config.json");
    let mut spec = kiln_bundle::example();
    if args.rootless {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        kiln_bundle::without_root(&mut spec, uid, gid);
    }
    let text = serde_json::to_string_pretty(&spec).unwrap_or_default();
    write_new(&path, &text).map_err(Problem::io("write", &path))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    std::fs::File::create_new(path)?.write_all(format!("{text}\n").as_bytes())
}

pub(super) fn features(context: &mut Context<'_>) -> Outcome {
    let text = serde_json::to_string_pretty(&kiln_bundle::features()).unwrap_or_default();
    print(context, text)
}

pub(super) fn version(context: &mut Context<'_>) -> Outcome {
    let text = format!(
        "{} version {}\nspec: {}",
        crate::app::RUNTIME_NAME,
        env!("CARGO_PKG_VERSION"),
        kiln_bundle::spec::VERSION
    );
    print(context, text)
}
