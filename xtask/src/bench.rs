//! How long kiln takes, beside its peers, in one run on one machine.
//!
//! Whole-process times of a release build, measured by hyperfine. What counts
//! is the ratio within a row; a time alone says more about the machine. Peers
//! that are not installed are named and left out.

mod bucket;
mod cases;
mod client;
mod content;
mod garbage;
mod projects;
mod registry;
mod served;
mod transfers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_peers::{Docker, PeerError, Registry};
use serde_json::Value;

use crate::process::{Failure, Outcome, cargo, find_program, run, say, workspace};

/// One row: the same work done by several programs.
struct Case {
    /// What kiln must reach (design, section 9).
    goal: &'static str,
    /// How often each command is measured.
    runs: u32,
    /// A folder whose size after a command's last run is told beside its time.
    weigh: Option<PathBuf>,
    /// kiln first.
    contenders: Vec<Contender>,
}

/// One way to do a case's work.
struct Contender {
    /// Program, and what is special about its call.
    name: &'static str,
    /// The program that has to be installed; `None` where it is known to be there.
    program: Option<&'static str>,
    /// Shell command before each measurement; not measured.
    prepare: String,
    /// What is measured, run without a shell.
    command: String,
}

/// Where everything of a run is.
struct Place {
    /// Projects and stores.
    folder: PathBuf,
    /// The release build; for a trial, the one that is there.
    kiln: PathBuf,
    /// Whether it is only to be seen that measuring works: with less of everything that takes long.
    is_trial: bool,
    /// The engine to compare with, if there is one.
    docker: Option<Docker>,
    /// Where images are transferred from and to, if they can be.
    registries: Option<Registries>,
}

/// Two registries of which nothing is kept after the run.
struct Registries {
    source: Registry,
    target: Registry,
}

/// Measures something and returns a table.
type Measure = fn(&Place) -> Outcome<String>;

/// What is measured of registry servers: its name, and how.
const SERVED: [(&str, Measure); 3] = [
    (registry::NAME, registry::measure),
    (garbage::NAME, garbage::measure),
    (bucket::NAME, bucket::measure),
];

/// Measures the cases whose names contain one of the filters, or all; with `--trial`, of the build that is
/// there, and less of what takes long.
///
/// # Errors
/// hyperfine is missing, kiln does not build, or a measured command fails.
pub(crate) fn measure(arguments: &[&str]) -> Outcome {
    let (options, filters): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|word| **word == "--trial");
    let is_trial = !options.is_empty();
    if find_program("hyperfine").is_none() {
        return Err(Failure::new(
            "`hyperfine` measures and is missing; as root: apt-get install hyperfine",
        ));
    }
    if !is_trial {
        run(&mut cargo([
            "build",
            "--release",
            "--locked",
            "--package",
            "kiln-cli",
        ]))?;
    }
    let place = Place::create(is_trial)?;
    let measured = measure_in(&place, &filters);
    place.remove()?;
    measured
}

fn measure_in(place: &Place, filters: &[&str]) -> Outcome {
    let mut rows = Vec::new();
    for (name, make) in cases::ALL {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter)) {
            rows.push(measure_case(place, name, &make(place)?)?);
        }
    }
    let mut table = String::from(
        "| work | times | kiln to the best peer | goal |\n| --- | --- | --- | --- |\n",
    );
    for row in rows {
        table.push_str(&row);
    }
    for (name, measure) in SERVED {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter)) {
            table.push_str(&measure(place)?);
        }
    }
    say(&table);
    if place.is_trial {
        return Ok(());
    }
    let results = workspace().join("benches/results");
    fs::create_dir_all(&results).map_err(|error| Failure::io(&results, &error))?;
    let file = results.join("latest.md");
    fs::write(&file, table).map_err(|error| Failure::io(&file, &error))
}

fn measure_case(place: &Place, name: &str, case: &Case) -> Outcome<String> {
    let (there, missing): (Vec<&Contender>, Vec<&Contender>) =
        case.contenders.iter().partition(|contender| {
            contender
                .program
                .is_none_or(|program| find_program(program).is_some())
        });
    for contender in missing {
        say(&format!(
            "{}: {} is not installed and left out",
            name, contender.name
        ));
    }
    let export = place.folder.join("hyperfine.json");
    let mut hyperfine = Command::new("hyperfine");
    hyperfine
        .args(["--shell=none", "--style=basic", "--warmup=1"])
        .arg(format!("--runs={}", case.runs))
        .arg("--export-json")
        .arg(&export);
    for contender in &there {
        hyperfine.args(["--prepare", &in_shell(&contender.prepare)]);
    }
    for contender in &there {
        hyperfine.args(["--command-name", contender.name]);
    }
    let weights = place.folder.join("weights");
    if let Some(folder) = &case.weigh {
        fs::write(&weights, "").map_err(|error| Failure::io(&weights, &error))?;
        let weigh = format!(
            "du --summarize --bytes {} >> {}",
            folder.display(),
            weights.display()
        );
        hyperfine.args(["--cleanup", &in_shell(&weigh)]);
    }
    hyperfine.args(there.iter().map(|contender| &contender.command));
    run(&mut hyperfine)?;
    let medians = medians(&export)?;
    let weights = if case.weigh.is_some() {
        fs::read_to_string(&weights).map_err(|error| Failure::io(&weights, &error))?
    } else {
        String::new()
    };
    Ok(row(name, case, &medians, &weights))
}

/// A command line for hyperfine without a shell of its own.
fn in_shell(script: &str) -> String {
    if script.is_empty() {
        "true".to_owned()
    } else {
        format!("sh -c '{script}'")
    }
}

/// Name and median of each contender, in milliseconds.
fn medians(export: &Path) -> Outcome<Vec<(String, f64)>> {
    let text = fs::read_to_string(export).map_err(|error| Failure::io(export, &error))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| Failure(format!("hyperfine wrote no JSON: {error}")))?;
    let results = value["results"].as_array().cloned().unwrap_or_default();
    Ok(results
        .iter()
        .map(|result| {
            let name = result["command"].as_str().unwrap_or_default().to_owned();
            (name, result["median"].as_f64().unwrap_or_default() * 1000.0)
        })
        .collect())
}

/// `weights` has one line for each command that was measured: bytes, and of what.
fn row(name: &str, case: &Case, medians: &[(String, f64)], weights: &str) -> String {
    let mut weights = weights.lines().map(|line| {
        let bytes: Option<u64> = line.split_whitespace().next()?.parse().ok();
        bytes
    });
    let times: Vec<String> = medians
        .iter()
        .map(|(name, milliseconds)| match weights.next().flatten() {
            Some(bytes) => format!("{name} {milliseconds:.1} ms ({} MiB)", bytes >> 20),
            None => format!("{name} {milliseconds:.1} ms"),
        })
        .collect();
    let best_peer = medians
        .iter()
        .skip(1)
        .map(|(_, time)| *time)
        .reduce(f64::min);
    let ratio = match (medians.first(), best_peer) {
        (Some((_, own)), Some(peer)) if *own > 0.0 => format!("{:.2}", own / peer),
        _ => "-".to_owned(),
    };
    format!(
        "| {} | {} | {ratio} | {} |\n",
        name,
        times.join(", "),
        case.goal
    )
}

impl Place {
    fn create(is_trial: bool) -> Outcome<Self> {
        let folder = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| Failure::io(&folder, &error))?;
        let metadata = crate::process::read(&mut cargo([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--locked",
        ]))?;
        let metadata: Value = serde_json::from_slice(&metadata)
            .map_err(|error| Failure(format!("`cargo metadata` wrote no JSON: {error}")))?;
        let target = metadata["target_directory"].as_str().unwrap_or("target");
        Ok(Self {
            docker: start_docker(&folder.join("docker"))?,
            registries: Registries::start(&folder)?,
            folder,
            kiln: Path::new(target).join(if is_trial {
                "debug/kiln"
            } else {
                "release/kiln"
            }),
            is_trial,
        })
    }

    fn remove(mut self) -> Outcome {
        drop(self.docker.take());
        drop(self.registries.take());
        // podman and skopeo keep their storage mounted onto itself.
        for storage in ["podman", "podman-pull", "skopeo"] {
            let storage = self.folder.join(storage).join("root/overlay");
            if is_mounted(&storage)? {
                run(Command::new("umount").arg(&storage))?;
            }
        }
        fs::remove_dir_all(&self.folder).map_err(|error| Failure::io(&self.folder, &error))
    }

    /// kiln with a store of its own in the folder.
    fn kiln(&self, store: &str, arguments: &str) -> String {
        format!(
            "env KILN_HOME={} {} {arguments}",
            self.folder.join(store).display(),
            self.kiln.display()
        )
    }
}

/// Starts an engine below `folder`; `None`, and said so, where Debian's is not installed.
fn start_docker(folder: &Path) -> Outcome<Option<Docker>> {
    if !Docker::is_installed() {
        say("docker is not installed and left out; as root: apt-get install docker.io");
        return Ok(None);
    }
    Ok(Some(Docker::start(folder)?))
}

impl Registries {
    /// Starts both; `None` where Debian's registry is not installed.
    fn start(folder: &Path) -> Outcome<Option<Self>> {
        if !Registry::is_installed() {
            return Ok(None);
        }
        let start = |name| Registry::start(&folder.join(name), "");
        Ok(Some(Self {
            source: start("registry-source")?,
            target: start("registry-target")?,
        }))
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Self(format!("{error}{}", cause.unwrap_or_default()))
    }
}

fn is_mounted(path: &Path) -> Outcome<bool> {
    let table = "/proc/self/mounts";
    let mounts = fs::read_to_string(table).map_err(|error| Failure::io(table, &error))?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1).map(Path::new) == Some(path)))
}
