//! `kiln run`: builds what changed and starts a container.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use kiln_build::{SecretValue, Workspace};
use kiln_graph::{BuildGraph, BuildTarget};
use kiln_image::{Image, lower_directories};
use kiln_layer::Ownership;
use kiln_manifest::model::Service;
use kiln_manifest::value::{ByteSize, Name};
use kiln_runtime::{
    Container, Launch, LaunchError, Overrides, Plan, PlannedMount, PlannedNetwork, PlannedSource,
};
use kiln_sandbox::{Host, Privileges, Stdio, window_size};
use kiln_store::Session;

use super::build::{self, BuildArgs};
use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::progress::Telling;
use crate::project::Project;
use crate::settings::Settings;
use crate::workbench;

/// What `run` ends with when kiln fails before the container runs; docker's.
const OWN_FAILURE: i32 = 125;

/// Build what changed and run a container
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln run                                 what `default` in [project] names
  kiln run app ls -l /srv                  another command in the image
  kiln run -it app /bin/sh                 look around
  kiln run -v ./data:/data:ro -e A=1 app   one-off changes")]
pub(crate) struct Args {
    /// An image or service of the manifest, or an image of the store
    target: Option<String>,

    /// The command and its arguments, instead of the image's own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,

    /// Remove the container when it ends, which every container of this version is
    #[arg(long)]
    rm: bool,

    /// Keep standard input open (it always is)
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal; the default where kiln has one
    #[arg(short, long)]
    tty: bool,

    /// Give it no terminal
    #[arg(short = 'T', long, conflicts_with = "tty")]
    no_tty: bool,

    /// Set a variable; NAME alone takes kiln's own value
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Run as this user[:group]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Start in this folder
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// Run this program instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// Name of the machine, as the container sees it
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// Mount a volume or a folder of the host: SOURCE:TARGET[:ro]
    #[arg(short, long, value_name = "MOUNT")]
    volume: Vec<String>,

    /// Mount memory: TARGET[:size=SIZE]
    #[arg(long, value_name = "MOUNT")]
    tmpfs: Vec<String>,

    /// What it can reach
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkChoice>,

    /// Make its root file system read-only
    #[arg(long)]
    read_only: bool,

    /// Most memory it may use, such as 512MB
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,

    /// Most processors it may use, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    cpus: Option<u32>,

    /// Most processes and threads it may have
    #[arg(long, value_name = "NUMBER")]
    pids_limit: Option<u32>,

    #[command(flatten)]
    how: BuildArgs,
}

/// What a container can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum NetworkChoice {
    /// Nothing but itself
    None,
    /// What the host can
    Host,
}

fn parse_size(text: &str) -> Result<u64, String> {
    let size = ByteSize::parse(text).map_err(|error| format!("{error}; {}", error.help))?;
    Ok(size.0)
}

fn parse_cpus(text: &str) -> Result<u32, String> {
    let wrong = || "say a number above 0, such as 1.5".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let thousandths = format!("{whole}{fraction:0<3}");
    match thousandths.parse::<u32>() {
        Ok(0) | Err(_) => Err(wrong()),
        Ok(_) if fraction.len() > 3 || text.starts_with('+') => Err(wrong()),
        Ok(thousandths) => Ok(thousandths),
    }
}

/// What is to be run: an image, and how.
struct Subject {
    image: Image,
    service: Option<Service>,
    project: Option<Project>,
    secrets: BTreeMap<Name, Vec<u8>>,
}

/// Builds, runs, and returns the container's own exit code.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome<ExitCode> {
    let project = Project::load_if_any(settings)?;
    let target = match (&project, &args.target) {
        (Some(project), None) => Some(project.default_target()?),
        (Some(project), Some(name)) if project.target_names().contains(name) => {
            Some(BuildTarget::parse(&project.manifest, name).map_err(Failure::user)?)
        }
        (_, Some(_)) => None,
        (None, None) => return Err(nothing_to_run()),
    };
    let overrides = overrides(args, settings)?;
    match (project, target) {
        (Some(project), Some(target)) => {
            run_target(args, settings, printer, project, &target, &overrides)
        }
        _ => {
            let entered = workbench::enter(settings, printer)?;
            let store = entered.session.store();
            let image = local::find(settings, store, args.target.as_deref())?.load(store)?;
            let subject = Subject {
                image,
                service: None,
                project: None,
                secrets: BTreeMap::new(),
            };
            start(args, &entered.session, &entered.host, &subject, &overrides)
        }
    }
}

fn nothing_to_run() -> Failure {
    Failure::message(
        Class::User,
        "there is no kiln.toml here, so say which image to run",
        Some("kiln images lists those of the store; kiln init begins a project".to_owned()),
    )
}

fn run_target(
    args: &Args,
    settings: &Settings,
    printer: &mut Printer,
    project: Project,
    target: &BuildTarget,
    overrides: &Overrides,
) -> Outcome<ExitCode> {
    let graph = BuildGraph::lower(&project.manifest, std::slice::from_ref(target))
        .map_err(Failure::user)?;
    let entered = workbench::enter(settings, printer)?;
    let workspace = workbench::workspace(settings, &project, entered, args.how.wishes(settings))?;
    let built = build::build_graph(
        &args.how,
        settings,
        printer,
        &workspace,
        &graph,
        Telling::OnlyWork,
    )?;
    build::finish(&workspace)?;
    let plan = graph.image_of(&project.manifest, target);
    let image = plan
        .and_then(|plan| built.images.get(&plan.name))
        .map(|built| built.image.clone())
        .ok_or_else(|| {
            Failure::message(Class::Bug, "the image was built and is not there", None)
        })?;
    let service = match target {
        BuildTarget::Service(name) => project.manifest.services.get(name).cloned(),
        BuildTarget::Image(_) | BuildTarget::Step { .. } => None,
    };
    let subject = Subject {
        image,
        secrets: secrets(&workspace, service.as_ref())?,
        service,
        project: Some(project),
    };
    start(
        args,
        &workspace.session,
        &workspace.host,
        &subject,
        overrides,
    )
}

/// Returns the values of the secrets that the service uses.
fn secrets(workspace: &Workspace, service: Option<&Service>) -> Outcome<BTreeMap<Name, Vec<u8>>> {
    let mut values = BTreeMap::new();
    for secret in service.iter().flat_map(|service| &service.secrets) {
        let name = &secret.secret.value;
        match workspace.secrets.get(name) {
            Some(SecretValue::Present(value)) => {
                values.insert(name.clone(), value.clone());
            }
            Some(SecretValue::Missing(looked)) => {
                return Err(Failure::message(
                    Class::User,
                    format!("the secret `{name}` is missing: {looked}"),
                    Some("provide it, or mark the secret `optional = true`".to_owned()),
                ));
            }
            Some(SecretValue::Absent) | None => {}
        }
    }
    Ok(values)
}

fn start(
    args: &Args,
    session: &Session,
    host: &Host,
    subject: &Subject,
    overrides: &Overrides,
) -> Outcome<ExitCode> {
    let project_name = subject
        .project
        .as_ref()
        .map(|project| project.manifest.project.name.value.to_string())
        .unwrap_or_default();
    let service = subject
        .service
        .as_ref()
        .map(|service| (&*project_name, service));
    let plan = Plan::new(&subject.image.config.config, service, overrides)
        .map_err(|error| Failure::from_error(Class::User, error))?;
    let ownership = match host.privileges() {
        Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
        Privileges::Single { .. } => Ownership::Flatten,
    };
    let missing = subject.image.pin(session)?;
    if let Some(layer) = missing.first() {
        return Err(kiln_image::ImageError::MissingLayer(*layer).into());
    }
    let launch = Launch {
        host,
        session,
        lowers: lower_directories(session, subject.image.diff_ids(), ownership)?,
        project: subject.project.as_ref().map(|project| &*project.folder),
        labels: BTreeMap::from([("project".to_owned(), project_name.clone())]),
        secrets: &subject.secrets,
        stdio: stdio(args, subject.service.as_ref())?,
    };
    let exit = Container::start(&launch, &plan)
        .and_then(|mut container| container.foreground(io::stdin(), io::stdout()))
        .map_err(launch_failure)?;
    if exit.out_of_memory && !exit.success() {
        // Told apart from a kill by hand, which ends with the same code.
        let message = "the container used more memory than its limit";
        return Err(Failure::message(Class::User, message, None).with_code(exit.code()));
    }
    Ok(ExitCode::from(
        u8::try_from(exit.code() & 0xff).unwrap_or(u8::MAX),
    ))
}

fn launch_failure(error: LaunchError) -> Failure {
    let code = error.exit_code();
    let class = if code == OWN_FAILURE {
        Class::Environment
    } else {
        Class::User
    };
    Failure::message(class, error.to_string(), None).with_code(code)
}

fn stdio(args: &Args, service: Option<&Service>) -> Outcome<Stdio> {
    let size = window_size(io::stdin()).filter(|_| window_size(io::stdout()).is_some());
    let wanted = if args.tty {
        Some(true)
    } else if args.no_tty {
        Some(false)
    } else {
        service.and_then(|service| service.tty)
    };
    match (wanted, size) {
        (Some(true), None) => Err(Failure::message(
            Class::User,
            "standard input and output are no terminal, so there is none to pass on",
            Some("leave out --tty".to_owned()),
        )),
        (Some(true) | None, Some(size)) => Ok(Stdio::Terminal(size)),
        (Some(false), _) | (None, None) => Ok(Stdio::Inherit),
    }
}

/// Turns the flags into one-off changes.
fn overrides(args: &Args, settings: &Settings) -> Outcome<Overrides> {
    let mut env = BTreeMap::new();
    for entry in &args.env {
        match entry.split_once('=') {
            Some((name, value)) => env.insert(name.to_owned(), value.to_owned()),
            None => match settings.environment.exact(entry) {
                Some(value) => env.insert(entry.clone(), value.to_owned()),
                None => None,
            },
        };
    }
    let mut mounts = BTreeMap::new();
    for text in &args.volume {
        let (target, mount) = parse_volume(text, &settings.directory)?;
        mounts.insert(target, mount);
    }
    for text in &args.tmpfs {
        let (target, size) = match text.split_once(":size=") {
            Some((target, size)) => {
                let size = parse_size(size).map_err(|error| bad_mount(text, &error))?;
                (target, Some(size))
            }
            None => (text.as_str(), None),
        };
        let source = PlannedSource::Tmpfs { size_bytes: size };
        let mount = PlannedMount {
            source,
            read_only: false,
        };
        mounts.insert(absolute_target(target, text)?, mount);
    }
    Ok(Overrides {
        command: args.command.clone(),
        entrypoint: args
            .entrypoint
            .as_ref()
            .map(|program| match program.as_str() {
                "" => Vec::new(),
                program => vec![program.to_owned()],
            }),
        env,
        user: args.user.clone(),
        workdir: args.workdir.clone(),
        hostname: args.hostname.clone(),
        mounts,
        network: args.network.map(|network| match network {
            NetworkChoice::None => PlannedNetwork::None,
            NetworkChoice::Host => PlannedNetwork::Host,
        }),
        read_only: args.read_only.then_some(true),
        memory_bytes: args.memory,
        cpu_thousandths: args.cpus,
        pids: args.pids_limit,
        ..Overrides::default()
    })
}

/// Reads `SOURCE:TARGET[:ro|:rw]`: a source with a slash is a path of the host, else a volume.
fn parse_volume(text: &str, folder: &Path) -> Outcome<(String, PlannedMount)> {
    let mut parts = text.split(':');
    let (Some(source), Some(target)) = (parts.next(), parts.next()) else {
        return Err(bad_mount(text, "say SOURCE:TARGET"));
    };
    let read_only = match (parts.next(), parts.next()) {
        (None, None) | (Some("rw"), None) => false,
        (Some("ro"), None) => true,
        _ => {
            return Err(bad_mount(
                text,
                "after the target comes nothing, `ro` or `rw`",
            ));
        }
    };
    let source = if source.starts_with(['/', '.']) {
        PlannedSource::Host(folder.join(PathBuf::from(source)))
    } else {
        PlannedSource::Volume(kiln_store::Name::new(source)?)
    };
    let mount = PlannedMount { source, read_only };
    Ok((absolute_target(target, text)?, mount))
}

fn absolute_target(target: &str, text: &str) -> Outcome<String> {
    if target.starts_with('/') {
        Ok(target.to_owned())
    } else {
        Err(bad_mount(
            text,
            "the place in the container is an absolute path",
        ))
    }
}

fn bad_mount(text: &str, reason: &str) -> Failure {
    let message = format!("`{text}` is not a mount: {reason}");
    Failure::message(Class::User, message, None)
}
