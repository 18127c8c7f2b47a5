//! One-off changes to how a container runs, as they are typed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kiln_manifest::value::{EnvName, Signal, TimeSpan};
use kiln_runtime::cdi::{self, DeviceError, DeviceName};
use kiln_runtime::{Overrides, PlannedLimits, PlannedMount, PlannedSource};

use crate::errors::{Class, Failure, Outcome};
use crate::limits::LimitArgs;
use crate::measures::explained;
use crate::mounts;
use crate::networking::{NetworkArgs, Reach};
use crate::other_runtime;
use crate::rights::RightsArgs;
use crate::settings::{Environment, Settings};

/// Most of a file of lines that is read, in bytes.
const LINES_LIMIT_BYTES: u64 = 1 << 20;

/// Flags that `run` and `shell` share; each replaces what service and image say.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Container")]
pub(crate) struct ContainerArgs {
    /// Keep standard input open; in the foreground it always is
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal; the default where kiln has one
    #[arg(short, long)]
    tty: bool,

    /// Give it no terminal
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,

    /// Set a variable; without a value, take that of the caller
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Set the variables of a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Run as this user, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Start in this folder of the container
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,

    /// Name the machine as the process sees it
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,

    /// Print help
    // As with docker, -h is another flag where containers are made.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// Mount a volume, or a file or folder of this machine; without a source, a new volume
    #[arg(short, long, value_name = "[SOURCE:]PATH[:ro,nocopy]")]
    volume: Vec<String>,

    /// Mount a volume, something of this machine, or memory, as type=bind,source=PATH,target=PATH,readonly
    #[arg(long, value_name = "KEY=VALUE,...")]
    mount: Vec<String>,

    /// Mount memory
    #[arg(long, value_name = "PATH[:SIZE]")]
    tmpfs: Vec<String>,

    /// Give it a device of this machine, by path or by its CDI name, such as vendor.com/gpu=all
    #[arg(long, value_name = "DEVICE[:PATH]")]
    device: Vec<String>,

    /// Give it graphics processors by their CDI names: `all`, a number of them, or device=0,1
    #[arg(long, value_name = "WHICH")]
    gpus: Vec<String>,

    /// Keep the root file system as it is
    #[arg(long)]
    read_only: bool,

    /// Let an init start the program: it hands on signals, and takes notice of processes whose parents have ended
    #[arg(long)]
    init: bool,

    /// Replace the entrypoint; an empty one is none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// Ask the process to end with this signal, when kiln itself is asked to (TERM)
    #[arg(long, value_name = "SIGNAL", value_parser = signal)]
    stop_signal: Option<i32>,

    /// Wait this long after that before it is killed; a number alone is seconds [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    stop_timeout: Option<Duration>,

    /// Let another runtime start it, by name or path, such as crun or runc [default: kiln itself]
    #[arg(long, value_name = "PROGRAM")]
    runtime: Option<String>,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    rights: RightsArgs,

    #[command(flatten)]
    network: NetworkArgs,
}

impl ContainerArgs {
    /// Whether a terminal is wanted, if anything was said.
    pub(crate) fn wants_terminal(&self) -> Option<bool> {
        match (self.tty, self.no_tty) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }

    /// What these flags ask for of networks; `None` if that is for a service to say.
    pub(crate) fn reach(&self) -> Option<Reach> {
        let other = self.rights.other_container();
        match (self.network.reach(), other) {
            (None, Some(name)) => Some(Reach::Users(name.to_owned())),
            (Some(Reach::None), Some(name)) => Some(Reach::Of(name.to_owned())),
            // In a network of its own it is among the users of the other anyway, or cannot be.
            (reach, _) => reach,
        }
    }

    /// Whether input stays open while nobody is there to type.
    pub(crate) fn keeps_input_open(&self) -> bool {
        self.interactive
    }

    /// What is to be different, with `command` instead of the image's.
    ///
    /// Relative paths of this machine begin in the folder of `settings`.
    ///
    /// # Errors
    /// A variable, mount, file of variables or runtime that makes no sense.
    pub(crate) fn overrides(&self, command: &[String], settings: &Settings) -> Outcome<Overrides> {
        let (folder, environment) = (&*settings.directory, &settings.environment);
        let mut env = BTreeMap::new();
        for path in &self.env_file {
            env.extend(read_env_file(path, environment)?);
        }
        for text in &self.env {
            if let Some((name, value)) = variable(text, environment)? {
                env.insert(name, value);
            }
        }
        let (mut planned, mut made_up) = (BTreeMap::new(), Vec::new());
        let mut plan = |(target, mount): (String, PlannedMount)| match planned.entry(target) {
            Entry::Vacant(free) => {
                free.insert(mount);
                Ok(())
            }
            Entry::Occupied(taken) => {
                let message = format!("two mounts are to be at `{}`", taken.key());
                Err(wrong(message, "leave one of them out"))
            }
        };
        for text in &self.volume {
            plan(mounts::volume(text, folder, &mut made_up)?)?;
        }
        for text in &self.mount {
            plan(mounts::described(text, folder, &mut made_up)?)?;
        }
        for text in &self.tmpfs {
            plan(mounts::tmpfs(text)?)?;
        }
        let mut overrides = Overrides {
            command: command.to_vec(),
            entrypoint: self.entrypoint.as_ref().map(|program| {
                let is_none = program.is_empty();
                if is_none {
                    Vec::new()
                } else {
                    vec![program.clone()]
                }
            }),
            env,
            user: self.user.clone(),
            workdir: self.workdir.clone(),
            hostname: self.hostname.clone(),
            mounts: planned,
            own_volumes: made_up,
            init: self.init,
            read_only: self.read_only.then_some(true),
            limits: self.limits.planned(&PlannedLimits::default())?,
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            runtime: other_runtime::find(self.runtime.as_deref(), settings)?,
            ..Overrides::default()
        };
        self.rights.apply(&mut overrides, settings)?;
        let mut named = self.device.clone();
        for text in &self.gpus {
            named.extend(gpus(text)?);
        }
        devices(&named, &settings.user.run.cdi, &mut overrides)?;
        self.network.apply(&mut overrides, settings)?;
        Ok(overrides)
    }
}

/// A length of time, or as docker has it a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_no_number) => TimeSpan::parse(text).map(|time| time.0).map_err(explained),
    }
}

pub(crate) fn signal(text: &str) -> Result<i32, String> {
    Signal::parse(text)
        .map(|signal| i32::from(signal.number()))
        .map_err(explained)
}

pub(crate) fn wrong(message: String, help: &str) -> Failure {
    Failure::message(Class::User, message, Some(help.to_owned()))
}

/// `NAME=VALUE`, or `NAME` with the caller's value; one that the caller does not
/// have is not set.
pub(crate) fn variable(text: &str, environment: &Environment) -> Outcome<Option<(String, String)>> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, environment.exact(text).map(str::to_owned)),
    };
    if let Err(error) = EnvName::parse(name) {
        return Err(wrong(format!("the variable `{name}` {error}"), &error.help));
    }
    Ok(value.map(|value| (name.to_owned(), value)))
}

/// The variables of a file, each line of which is as [`variable`] has it.
///
/// # Errors
/// It cannot be read, or a line has no name.
pub(crate) fn read_env_file(
    path: &Path,
    environment: &Environment,
) -> Outcome<Vec<(String, String)>> {
    let mut variables = Vec::new();
    for line in read_lines(path, "--env-file")? {
        // As docker has it: what stands before a name does not count, what stands behind a value does.
        variables.extend(variable(line.trim_start(), environment)?);
    }
    Ok(variables)
}

/// Lines of a file that a flag names, but empty ones and remarks.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_lines(path: &Path, flag: &str) -> Outcome<Vec<String>> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LINES_LIMIT_BYTES).read_to_string(&mut text))
        .map_err(|error| {
            let message = format!("`{}`: {error}", path.display());
            wrong(
                message,
                &format!("`{flag}` takes a file of NAME=VALUE lines"),
            )
        })?;
    let says = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    Ok(text.lines().filter(says).map(str::to_owned).collect())
}

/// Adds devices: `/dev/fuse`, `/dev/fuse:/dev/other`, a folder of them, or CDI names, which are described in `folders`.
fn devices(texts: &[String], folders: &[PathBuf], overrides: &mut Overrides) -> Outcome {
    let mut names = Vec::new();
    for text in texts {
        if let Some(name) = DeviceName::parse(text) {
            names.push(name);
            continue;
        }
        let help =
            "write /dev/NAME, /dev/NAME:/dev/OTHER, or a CDI name such as vendor.com/gpu=all";
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target) = match parts.as_slice() {
            [source] => (*source, *source),
            [source, target] | [source, target, "rw" | "rwm"] if target.starts_with('/') => {
                (*source, *target)
            }
            [source, "rw" | "rwm"] => (*source, *source),
            [.., target] if !target.is_empty() && target.bytes().all(|it| b"rwm".contains(&it)) => {
                let message = format!("`{text}` is not all that can be done with a device");
                return Err(wrong(
                    message,
                    "leave out what may be done: it is always rwm",
                ));
            }
            _ => return Err(wrong(format!("`{text}` is not a device"), help)),
        };
        if !source.starts_with('/') {
            return Err(wrong(format!("`{text}` is not a device"), help));
        }
        let mut nodes = Vec::new();
        device_nodes(Path::new(source), Path::new(target), 0, &mut nodes)
            .map_err(|error| wrong(format!("`{source}`: {error}"), help))?;
        for (source, target) in nodes {
            let mount = PlannedMount {
                source: PlannedSource::Device(source),
                read_only: false,
                stays_empty: false,
            };
            let target = target.display().to_string();
            overrides.mounts.insert(target, mount);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let folders: Vec<&Path> = if folders.is_empty() {
        cdi::FOLDERS.map(Path::new).to_vec()
    } else {
        folders.iter().map(PathBuf::as_path).collect()
    };
    let edits = cdi::find(&folders, &names).map_err(|error| {
        let help = match &error {
            DeviceError::Missing { known, .. } if !known.is_empty() => {
                format!("there are {}", known.join(", "))
            }
            DeviceError::Missing { .. } => {
                "the vendor's tool writes a description, such as `nvidia-ctk cdi generate`"
                    .to_owned()
            }
            DeviceError::Broken { .. } => "mend or remove it".to_owned(),
        };
        wrong(error.to_string(), &help)
    })?;
    overrides.env.extend(edits.env);
    overrides.mounts.extend(edits.mounts);
    overrides.hooks.extend(edits.hooks);
    let groups = edits.groups.iter().map(ToString::to_string);
    overrides.rights.groups.extend(groups);
    Ok(())
}

/// The CDI names that docker's `--gpus` stands for.
fn gpus(text: &str) -> Outcome<Vec<String>> {
    const KIND: &str = "nvidia.com/gpu";
    let name = |which: &str| format!("{KIND}={which}");
    if text == "all" {
        return Ok(vec![name("all")]);
    }
    if let Ok(count @ 1..=64) = text.parse::<u32>() {
        return Ok((0..count).map(|number| name(&number.to_string())).collect());
    }
    let listed = text.trim_matches('"').strip_prefix("device=");
    let listed = listed.filter(|listed| !listed.is_empty());
    let names = listed.map(|listed| listed.split(',').map(name).collect());
    names.ok_or_else(|| {
        let help = format!("write all, a number, or device=0,1; others by --device {KIND}=NAME");
        wrong(format!("`{text}` are no graphics processors"), &help)
    })
}

/// How deep a folder of devices is looked through.
const DEVICE_DEPTH: usize = 3;

fn device_nodes(
    source: &Path,
    target: &Path,
    depth: usize,
    found: &mut Vec<(PathBuf, PathBuf)>,
) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let kind = std::fs::metadata(source)?.file_type();
    if kind.is_dir() && depth < DEVICE_DEPTH {
        for entry in std::fs::read_dir(source)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            // What is named itself may be a link; what is in a folder of devices is a node, or a folder.
            if kind.is_dir() || kind.is_char_device() || kind.is_block_device() {
                let target = target.join(entry.file_name());
                device_nodes(&entry.path(), &target, depth + 1, found)?;
            }
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        found.push((source.to_owned(), target.to_owned()));
    } else if depth == 0 {
        return Err(std::io::Error::other("it is no device node"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_stop_may_be_a_number_of_seconds() {
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("90"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("1m30s"), Ok(Duration::from_secs(90)));
        assert!(seconds("").is_err() && seconds("-1").is_err() && seconds("soon").is_err());
    }

    #[test]
    fn a_variable_without_a_value_is_the_callers() {
        let environment = Environment::of(&[("LANG", "C")]);
        let read = |text| variable(text, &environment).expect("a variable");
        assert_eq!(read("A=b=c"), Some(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(read("LANG"), Some(("LANG".to_owned(), "C".to_owned())));
        assert_eq!(read("NOT_SET"), None);
        assert!(variable("=x", &environment).is_err());
    }
}
