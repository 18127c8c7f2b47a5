//! Other limits for a container that runs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kiln_bundle::Container;
use kiln_bundle::spec::{Block, Cpu, Memory, Pids, Resources};

use super::{Context, Outcome, Problem};

/// Change the limits of a container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Take them from this file, as `linux.resources` of a bundle has them; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,

    /// Share of disk bandwidth, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,

    /// Microseconds of a period of processor time
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,

    /// Microseconds of processor time in a period
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,

    /// Microseconds of quota that may be saved up
    #[arg(long, value_name = "US")]
    cpu_burst: Option<u64>,

    /// Share of processor time against others
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<u64>,

    /// Microseconds of a period of real time
    #[arg(long, value_name = "US")]
    cpu_rt_period: Option<u64>,

    /// Microseconds of real time in a period
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,

    /// Run only when nobody else wants to: 1
    #[arg(long, value_name = "0|1")]
    cpu_idle: Option<i64>,

    /// Which processors
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,

    /// Which memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,

    /// Memory
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true)]
    memory: Option<i64>,

    /// Where memory is taken back first
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true)]
    memory_reservation: Option<i64>,

    /// Memory and swap together
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true)]
    memory_swap: Option<i64>,

    /// Processes and threads
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pids_limit: Option<i64>,

    /// The container
    #[arg(value_name = "ID")]
    id: String,
}

/// Bytes, with `k`, `m`, `g` for powers of 1024; -1 for no limit.
fn parse_size(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.trim_end_matches('b').trim_end_matches('i');
    let (digits, shift) = match bare.chars().last() {
        Some('k') => (bare.trim_end_matches('k'), 10),
        Some('m') => (bare.trim_end_matches('m'), 20),
        Some('g') => (bare.trim_end_matches('g'), 30),
        Some('t') => (bare.trim_end_matches('t'), 40),
        _ => (bare, 0),
    };
    let number = digits.parse::<i64>().ok();
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("`{text}` is not a size"))
}

pub(super) fn run(args: &Args, context: &Context<'_>) -> Outcome {
    let container = Container::find(&context.root, &args.id)?;
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => from_flags(args),
    };
    container.update(&resources)?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Outcome<Resources> {
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(1 << 20).read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(1 << 20).read_to_end(&mut text))
    };
    read.map_err(Problem::io("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|error| Problem::Other(format!("`{}`: {error}", path.display())))
}

fn from_flags(args: &Args) -> Resources {
    let memory = Memory {
        limit: args.memory,
        reservation: args.memory_reservation,
        swap: args.memory_swap,
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: args.cpu_share,
        quota: args.cpu_quota,
        burst: args.cpu_burst,
        period: args.cpu_period,
        realtime_runtime: args.cpu_rt_runtime,
        realtime_period: args.cpu_rt_period,
        cpus: args.cpuset_cpus.clone().unwrap_or_default(),
        mems: args.cpuset_mems.clone().unwrap_or_default(),
        idle: args.cpu_idle,
    };
    let block = Block {
        weight: args.blkio_weight,
        ..Block::default()
    };
    Resources {
        memory: Some(memory),
        cpu: Some(cpu),
        pids: args.pids_limit.map(|limit| Pids { limit }),
        block_io: Some(block),
        ..Resources::default()
    }
}
