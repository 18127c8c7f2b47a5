//! `kiln oci-runtime`: the command line of OCI runtimes, so that others' tools can drive kiln.

mod exec;
mod lifecycle;
mod report;
mod show;
mod update;

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use kiln_bundle::BundleError;

use crate::notices::{self, Listening, Notice};
use crate::printer::Printer;
use crate::settings::Environment;
use report::Report;

/// Run OCI bundles for other tools: podman --runtime, docker, containerd
///
/// The command line is runc's. A link to kiln called `kiln-oci-runtime` is this verb, for tools that take a
/// runtime by its path alone.
#[derive(clap::Args, Debug)]
#[command(
    disable_version_flag = true,
    args_conflicts_with_subcommands = false,
    after_help = "Examples:\n  \
        kiln oci-runtime run --bundle ./bundle web\n  \
        ln -s \"$(command -v kiln)\" /usr/local/bin/kiln-oci-runtime\n  \
        podman --runtime /usr/local/bin/kiln-oci-runtime run --rm alpine true"
)]
pub(crate) struct Args {
    /// Keep the state of containers in this folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// Append errors to this file as well
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Choose the form of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// Say more in the log
    #[arg(long)]
    debug: bool,

    /// Take `cgroupsPath` for slice:prefix:name
    #[arg(long)]
    systemd_cgroup: bool,

    /// Accept what others say of rootless mode; kiln finds out itself
    #[arg(long, value_name = "WHETHER", hide = true, num_args = 0..=1, default_missing_value = "true")]
    rootless: Option<String>,

    /// Print the version of kiln and of the specification
    #[arg(short = 'v', long)]
    version: bool,

    #[command(subcommand)]
    command: Option<Command>,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// `key=value`
    Text,
    /// One JSON object per line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(lifecycle::CreateArgs),
    Run(lifecycle::RunArgs),
    Start(lifecycle::IdArgs),
    State(lifecycle::IdArgs),
    Kill(lifecycle::KillArgs),
    Delete(lifecycle::DeleteArgs),
    Exec(Box<exec::Args>),
    Pause(lifecycle::IdArgs),
    Resume(lifecycle::IdArgs),
    Update(Box<update::Args>),
    Ps(show::PsArgs),
    List(show::ListArgs),
    Events(show::EventsArgs),
    Spec(show::SpecArgs),
    /// Print what this runtime can do, as JSON
    Features,
}

/// What every command needs.
struct Context<'a> {
    root: PathBuf,
    systemd_cgroup: bool,
    environment: &'a Environment,
    printer: Printer,
    report: &'a Report,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("{0}")]
    Other(String),
}

type Outcome<T = ExitCode> = Result<T, Problem>;

impl Problem {
    fn io(action: &str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let place = format!("cannot {action} `{}`", path.display());
        move |error| Self::Other(format!("{place}: {error}"))
    }
}

/// Does it.
pub(crate) fn run(args: &Args, environment: &Environment) -> ExitCode {
    let report = Report::new(args.log.clone(), args.log_format);
    if args.debug {
        report.debug(&format!(
            "kiln {} as process {}",
            env!("CARGO_PKG_VERSION"),
            std::process::id()
        ));
    }
    listen(args, &report);
    let outcome = seal(args, environment).and_then(|()| carry_out(args, environment, &report));
    match outcome {
        Ok(code) => code,
        Err(problem) => {
            report.error(&problem.to_string());
            match args.command {
                // Other codes are those of programs in the container.
                Some(Command::Exec(_)) => ExitCode::from(255),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// What libraries say goes where errors go.
fn listen(args: &Args, report: &Report) {
    let listening = if args.debug {
        Listening::Details
    } else {
        Listening::Warnings
    };
    let report = report.clone();
    let tell = move |notice: &Notice| match notice {
        Notice::Warning(text) => report.warning(text),
        Notice::Detail(text) => report.debug(text),
    };
    notices::listen(listening, Box::new(tell));
}

/// Before anything of a container can reach this process, it runs from a file that nobody can write.
fn seal(args: &Args, environment: &Environment) -> Outcome<()> {
    let enters = matches!(
        args.command,
        Some(Command::Create(_) | Command::Run(_) | Command::Exec(_))
    );
    if !enters {
        return Ok(());
    }
    let text = |word: OsString| CString::new(word.into_vec()).ok();
    // As they were, with the name by which it may be known for a runtime.
    let arguments: Vec<CString> = std::env::args_os().filter_map(text).collect();
    let environment: Vec<CString> = environment.pairs().filter_map(text).collect();
    kiln_sys::sealed::run_sealed(&arguments, &environment)
        .map_err(|errno| Problem::Other(format!("running from a sealed copy of kiln: {errno}")))
}

fn carry_out(args: &Args, environment: &Environment, report: &Report) -> Outcome {
    let mut context = Context {
        root: state_folder(args, environment),
        systemd_cgroup: args.systemd_cgroup,
        environment,
        printer: Printer::plain(),
        report,
    };
    if args.version {
        return show::version(&mut context);
    }
    match &args.command {
        None => Err(Problem::Other(
            "there is no command; `kiln oci-runtime --help` lists them".to_owned(),
        )),
        Some(Command::Create(args)) => lifecycle::create(args, &context),
        Some(Command::Run(args)) => lifecycle::run(args, &context),
        Some(Command::Start(args)) => lifecycle::start(args, &context),
        Some(Command::State(args)) => show::state(args, &mut context),
        Some(Command::Kill(args)) => lifecycle::kill(args, &context),
        Some(Command::Delete(args)) => lifecycle::delete(args, &context),
        Some(Command::Exec(args)) => exec::run(args, &context),
        Some(Command::Pause(args)) => lifecycle::pause(args, &context),
        Some(Command::Resume(args)) => lifecycle::resume(args, &context),
        Some(Command::Update(args)) => update::run(args, &context),
        Some(Command::Ps(args)) => show::processes(args, &mut context),
        Some(Command::List(args)) => show::list(args, &mut context),
        Some(Command::Events(args)) => show::events(args, &mut context),
        Some(Command::Spec(args)) => show::spec(args),
        Some(Command::Features) => show::features(&mut context),
    }
}

/// Where the state is: as asked for, else a folder that goes with the machine's or the user's session.
fn state_folder(args: &Args, environment: &Environment) -> PathBuf {
    if let Some(root) = &args.root {
        return root.clone();
    }
    let session = environment.raw("XDG_RUNTIME_DIR").map(PathBuf::from);
    match session.filter(|_| !rustix::process::geteuid().is_root()) {
        Some(session) => session.join("kiln-oci"),
        None => PathBuf::from("/run/kiln-oci"),
    }
}
