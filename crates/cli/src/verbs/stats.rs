//! `kiln stats`: what containers use up.

use std::time::{Duration, Instant};

use kiln_runtime::StoredContainer;
use kiln_sandbox::{Group, Usage};
use serde_json::{Value, json};

use crate::containers::find;
use crate::errors::Outcome;
use crate::form::Form;
use crate::listing;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// Show what containers use up, once a second
///
/// What is not measured on this machine, or for this user, is shown as `--`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln stats
  kiln stats --no-stream --format json web")]
pub(crate) struct Args {
    /// Names or ids; all that run if none is given
    containers: Vec<String>,

    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,

    /// Show it once
    #[arg(long)]
    no_stream: bool,

    /// Show ids whole
    #[arg(long)]
    no_trunc: bool,

    /// Choose the form: `text`, `json` for a line of JSON for each container, or a template of docker's, such as
    /// '{{.Name}} {{.MemUsage}}'; behind `table ` with a head
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse)]
    format: Form,
}

/// Time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// A container, looked at.
struct Look {
    container: StoredContainer,
    usage: Usage,
    network: Option<[u64; 2]>,
    at: Instant,
}

/// Prints it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let mut before = look(args, settings)?;
    loop {
        std::thread::sleep(PAUSE);
        let after = look(args, settings)?;
        let rows: Vec<Row> = after
            .iter()
            .map(|look| {
                let id = look.container.id();
                let earlier = before.iter().find(|it| it.container.id() == id);
                Row::new(look, earlier)
            })
            .collect();
        let clears = !args.no_stream && settings.stdout_is_terminal;
        print(args, &rows, clears, printer)?;
        if args.no_stream {
            return Ok(());
        }
        before = after;
    }
}

fn look(args: &Args, settings: &Settings) -> Outcome<Vec<Look>> {
    let store = local::open(settings)?;
    let containers = if args.containers.is_empty() {
        let mut all = StoredContainer::list(&store)?.0;
        all.retain(|it| args.all || listing::is_alive(it));
        all
    } else {
        let found = args.containers.iter().map(|name| find(&store, name));
        found.collect::<Outcome<_>>()?
    };
    containers.into_iter().map(Look::new).collect()
}

impl Look {
    fn new(container: StoredContainer) -> Outcome<Self> {
        let mut usage = Usage::default();
        let mut network = None;
        if let Some(running) = container.running()? {
            usage = Group::new(container.state.groups.clone()).usage();
            // Where no group counts, the processes that are there now do.
            if usage.cpu_nanoseconds.is_none()
                || usage.memory_bytes.is_none()
                || usage.pids.is_none()
            {
                let processes = running.processes();
                let cpu = processes.iter().map(|it| it.cpu_ms * 1_000_000).sum();
                let memory = processes.iter().map(|it| it.memory_bytes).sum();
                usage.cpu_nanoseconds = usage.cpu_nanoseconds.or(Some(cpu));
                usage.memory_bytes = usage.memory_bytes.or(Some(memory));
                usage.pids = usage.pids.or(Some(processes.len() as u64));
            }
            network = network_bytes(running.pid());
        }
        Ok(Self {
            container,
            usage,
            network,
            at: Instant::now(),
        })
    }
}

/// Bytes received and sent on all devices of a process' network but its own loopback.
fn network_bytes(pid: u32) -> Option<[u64; 2]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let mut sum = [0, 0];
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        if name.trim() == "lo" {
            continue;
        }
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        for (sum, at) in sum.iter_mut().zip([0, 8]) {
            *sum += numbers.get(at).copied().unwrap_or(0);
        }
    }
    Some(sum)
}

/// The most memory that the machine has, in bytes.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

struct Row {
    id: String,
    short: String,
    name: String,
    cpu_percent: Option<f64>,
    memory: Option<u64>,
    limit: Option<u64>,
    network: Option<[u64; 2]>,
    block: Option<[u64; 2]>,
    pids: Option<u64>,
}

impl Row {
    fn new(look: &Look, earlier: Option<&Look>) -> Self {
        let usage = &look.usage;
        let cpu_percent = earlier.and_then(|earlier| {
            let used = usage
                .cpu_nanoseconds?
                .saturating_sub(earlier.usage.cpu_nanoseconds?);
            let time = look.at.duration_since(earlier.at).as_secs_f64();
            Some(Duration::from_nanos(used).as_secs_f64() / time * 100.0)
        });
        Self {
            id: look.container.id().to_string(),
            short: look.container.id().short().to_owned(),
            name: look.container.display_name(),
            cpu_percent,
            memory: usage.memory_bytes,
            limit: usage.memory_limit_bytes.or_else(machine_memory),
            network: look.network,
            block: usage
                .read_bytes
                .zip(usage.written_bytes)
                .map(|(read, written)| [read, written]),
            pids: usage.pids,
        }
    }

    fn memory_percent(&self) -> Option<f64> {
        let (memory, limit) = (self.memory?, self.limit.filter(|limit| *limit > 0)?);
        // Bytes of memory are far from what a double cannot hold.
        #[expect(clippy::cast_precision_loss, reason = "a percentage")]
        Some(memory as f64 / limit as f64 * 100.0)
    }

    fn json(&self) -> Value {
        let pair = |pair: Option<[u64; 2]>| pair.map_or(Value::Null, |pair| json!(pair));
        json!({
            "ID": self.id,
            "Name": self.name,
            "CPUPerc": self.cpu_percent,
            "MemUsage": self.memory,
            "MemLimit": self.limit,
            "MemPerc": self.memory_percent(),
            "NetIO": pair(self.network),
            "BlockIO": pair(self.block),
            "PIDs": self.pids,
        })
    }

    fn cells(&self, whole: bool) -> Vec<String> {
        let nothing = || "--".to_owned();
        let percent = |value: Option<f64>| value.map_or_else(nothing, |it| format!("{it:.2}%"));
        let bytes = |value: Option<u64>| value.map_or_else(nothing, text::bytes);
        let pair = |pair: Option<[u64; 2]>| {
            pair.map_or_else(
                || "-- / --".to_owned(),
                |[one, other]| format!("{} / {}", text::bytes(one), text::bytes(other)),
            )
        };
        vec![
            if whole { &self.id } else { &self.short }.clone(),
            self.name.clone(),
            percent(self.cpu_percent),
            format!("{} / {}", bytes(self.memory), bytes(self.limit)),
            percent(self.memory_percent()),
            pair(self.network),
            pair(self.block),
            self.pids.map_or_else(nothing, |pids| pids.to_string()),
        ]
    }
}

/// What docker calls the columns, with the fields that templates have for them.
const HEADS: [(&str, &str); 8] = [
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

fn print(args: &Args, rows: &[Row], clears: bool, printer: &mut Printer) -> Outcome {
    let cells = rows.iter().map(|row| row.cells(args.no_trunc));
    let shown = match &args.format {
        Form::Text => {
            let head = HEADS.map(|(_, head)| head.to_owned()).to_vec();
            text::table(&[vec![head], cells.collect()].concat())
        }
        Form::Json => {
            for row in rows {
                printer.line(row.json().to_string())?;
            }
            return Ok(());
        }
        Form::Filled(filling) => {
            let rows = cells.map(|cells| {
                let names = HEADS.map(|(name, _)| name.to_owned());
                let fields = names.into_iter().zip(cells.into_iter().map(Value::from));
                Value::Object(fields.collect())
            });
            filling.fill(&HEADS, rows.collect())?
        }
    };
    // To the top, and nothing below it.
    let clear = if clears { "\u{1b}[H\u{1b}[J" } else { "" };
    printer.data(format!("{clear}{shown}"))
}
