//! `kiln exec`: runs a further process in a running container.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_runtime::{ExecOrder, ExecRequest};
use kiln_sandbox::{WindowSize, window_size};

use crate::container;
use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::life::DetachArgs;
use crate::local;
use crate::monitors;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks::exec_failure;

/// Run a further process in a running container
///
/// It has no more rights than the container. The exit code is that of the
/// process; as with docker, 126 says that the program cannot be executed, 127
/// that it is not there.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln exec -it web sh
  kiln exec -u postgres db pg_dump notes > notes.sql
  kiln exec -d web touch /tmp/x")]
pub(crate) struct Args {
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// Let it run in the background
    #[arg(short, long)]
    detach: bool,

    /// Set a variable; without a value, take that of the caller
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Set the variables of a file of NAME=VALUE lines
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Run as this user, by name or number
    #[arg(
        short,
        long,
        value_name = "USER[:GROUP]",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    user: Option<String>,

    /// Start in this folder of the container
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,

    #[command(flatten)]
    keys: DetachArgs,

    /// Name or id
    container: String,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Becomes the process that runs it; comes back only if that fails.
pub(crate) fn run(args: &Args, settings: &Settings, _printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let found = find(&store, &args.container)?;
    let mut env = BTreeMap::new();
    for path in &args.env_file {
        env.extend(container::read_env_file(path, &settings.environment)?);
    }
    for text in &args.env {
        env.extend(container::variable(text, &settings.environment)?);
    }
    let order = ExecOrder::new(
        &found,
        ExecRequest {
            command: args.command.clone(),
            env,
            user: args.user.clone(),
            workdir: args.workdir.clone(),
            terminal: terminal(args)?,
            keys: Some(args.keys.keys(settings)),
            detached: args.detach,
        },
    )
    .map_err(|error| exec_failure(&error))?;
    let name = found.display_name();
    let command = args.command.join(" ");
    monitors::tell(
        &store,
        &found.config,
        &name,
        "exec_start",
        &[("execCommand", command)],
    )?;
    if args.detach || !args.interactive && !args.tty {
        replace_by_nothing(&[0])?;
    }
    if args.detach {
        replace_by_nothing(&[1, 2])?;
    }
    drop(store);
    let failed = order.become_exec();
    match failed {
        Err(error) => Err(exec_failure(&error)),
        Ok(never) => match never {},
    }
}

fn terminal(args: &Args) -> Outcome<Option<WindowSize>> {
    if !args.tty || args.detach {
        return Ok(None);
    }
    let size = window_size(std::io::stdin()).filter(|_| window_size(std::io::stdout()).is_some());
    match size {
        Some(size) => Ok(Some(size)),
        None => Err(Failure::message(
            Class::User,
            "standard input and output are no terminal, so there is none to pass on",
            Some("leave out --tty".to_owned()),
        )),
    }
}

/// Lets the process read nothing, and write to nowhere.
fn replace_by_nothing(numbers: &[i32]) -> Outcome {
    use std::os::fd::AsFd;
    let failed = |error: std::io::Error| {
        let message = format!("cannot use /dev/null: {error}");
        Failure::message(Class::Environment, message, None)
    };
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    for number in numbers {
        let done = match number {
            0 => rustix::stdio::dup2_stdin(null.as_fd()),
            1 => rustix::stdio::dup2_stdout(null.as_fd()),
            _ => rustix::stdio::dup2_stderr(null.as_fd()),
        };
        done.map_err(|error| failed(error.into()))?;
    }
    Ok(())
}
