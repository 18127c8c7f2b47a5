//! How long kiln takes, beside its peers, in one run on one machine.
//!
//! Whole-process times of a release build, measured by hyperfine. What counts
//! is the ratio within a row; a time alone says more about the machine. Peers
//! that are not installed are named and left out.

mod cases;
mod docker;
mod projects;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use self::docker::Docker;
use crate::process::{Failure, Outcome, cargo, find_program, run, say, workspace};

/// One row: the same work done by several programs.
struct Case {
    /// What kiln must reach (design, section 9).
    goal: &'static str,
    /// How often each command is measured.
    runs: u32,
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
    /// The release build.
    kiln: PathBuf,
    /// The engine to compare with, if there is one.
    docker: Option<Docker>,
}

/// Measures the cases whose names contain one of `filters`, or all.
///
/// # Errors
/// hyperfine is missing, kiln does not build, or a measured command fails.
pub(crate) fn measure(filters: &[&str]) -> Outcome {
    if find_program("hyperfine").is_none() {
        return Err(Failure::new(
            "`hyperfine` measures and is missing; as root: apt-get install hyperfine",
        ));
    }
    run(&mut cargo([
        "build",
        "--release",
        "--locked",
        "--package",
        "kiln-cli",
    ]))?;
    let place = Place::create()?;
    let measured = measure_in(&place, filters);
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
    say(&table);
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
    hyperfine.args(there.iter().map(|contender| &contender.command));
    run(&mut hyperfine)?;
    let medians = medians(&export)?;
    Ok(row(name, case, &medians))
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

fn row(name: &str, case: &Case, medians: &[(String, f64)]) -> String {
    let times: Vec<String> = medians
        .iter()
        .map(|(name, milliseconds)| format!("{name} {milliseconds:.1} ms"))
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
    fn create() -> Outcome<Self> {
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
            docker: Docker::start(&folder.join("docker"))?,
            folder,
            kiln: Path::new(target).join("release/kiln"),
        })
    }

    fn remove(mut self) -> Outcome {
        drop(self.docker.take());
        // podman keeps its storage mounted onto itself.
        let storage = self.folder.join("podman/root/overlay");
        if is_mounted(&storage)? {
            run(Command::new("umount").arg(&storage))?;
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

fn is_mounted(path: &Path) -> Outcome<bool> {
    let table = "/proc/self/mounts";
    let mounts = fs::read_to_string(table).map_err(|error| Failure::io(table, &error))?;
    Ok(mounts
        .lines()
        .any(|line| line.split(' ').nth(1).map(Path::new) == Some(path)))
}
