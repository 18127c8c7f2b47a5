//! One more process in a container.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use kiln_bundle::spec::{ConsoleSize, Process};
use kiln_bundle::{Container, ExecOptions, Follow, SubGroup, follow};

use super::{Context, Outcome, Problem};

/// Start one more process in a container
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Take the process from this file, as `process` of a bundle has it
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,

    /// Do not wait for its end
    #[arg(short, long)]
    detach: bool,

    /// Hand the terminal to this socket
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,

    /// Write its number to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// Run it as this user
    #[arg(short, long, value_name = "UID[:GID]", value_parser = parse_user)]
    user: Option<(u32, Option<u32>)>,

    /// Give it more groups
    #[arg(short = 'g', long, value_name = "GID")]
    additional_gids: Vec<u32>,

    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Run it in this directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,

    /// Give it a capability more
    #[arg(short, long, value_name = "NAME")]
    cap: Vec<String>,

    /// Let no program gain rights
    #[arg(long)]
    no_new_privs: bool,

    /// Run it under this AppArmor profile
    #[arg(long, value_name = "NAME")]
    apparmor: Option<String>,

    /// Run it with this SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,

    /// Leave this many descriptors open beside 0 to 2
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    preserve_fds: u32,

    /// Go ahead though the container is paused
    #[arg(long)]
    ignore_paused: bool,

    /// Run it in this group below the container's, of all controllers or of some (version 1)
    #[arg(long, value_name = "[CONTROLLER,...:]PATH", value_parser = parse_group)]
    cgroup: Vec<SubGroup>,

    /// The container
    #[arg(value_name = "ID")]
    id: String,

    /// Program and arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<String>,
}

fn parse_user(text: &str) -> Result<(u32, Option<u32>), String> {
    let number = |text: &str| {
        // `+5` is a number to others.
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text
            .parse::<u32>()
            .ok()
            .filter(|number| digits && *number != u32::MAX);
        number.ok_or_else(|| format!("`{text}` is not the number of a user or group"))
    };
    match text.split_once(':') {
        Some((user, group)) => Ok((number(user)?, Some(number(group)?))),
        None => Ok((number(text)?, None)),
    }
}

fn parse_group(text: &str) -> Result<SubGroup, std::convert::Infallible> {
    let (controllers, path) = text.split_once(':').unwrap_or(("", text));
    let names = controllers.split(',').filter(|name| !name.is_empty());
    Ok(SubGroup {
        controllers: names.map(str::to_owned).collect(),
        path: PathBuf::from(path),
    })
}

pub(super) fn run(args: &Args, context: &Context<'_>) -> Outcome {
    let container = Container::find(&context.root, &args.id)?;
    let process = process(args, &container)?;
    let mut options = ExecOptions {
        pid_file: args.pid_file.clone(),
        console: None,
        preserve_fds: args.preserve_fds,
        ignore_paused: args.ignore_paused,
        cgroups: args.cgroup.clone(),
    };
    if let Some(path) = args.console_socket.as_ref().filter(|_| process.terminal) {
        options.console = Some(kiln_bundle::connect_console(path)?);
    }
    if args.detach {
        kiln_bundle::exec(&container, &process, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let terminal = process.terminal && options.console.is_none();
    let stay = Follow::new(terminal)?;
    if terminal {
        options.console = stay.console();
    }
    let started = kiln_bundle::exec(&container, &process, &options)?;
    let code = follow(&stay, &started)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// The process: from its file, or the container's own with what the command line says.
fn process(args: &Args, container: &Container) -> Outcome<Process> {
    if let Some(path) = &args.process {
        let mut text = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(1 << 24).read_to_end(&mut text))
            .map_err(Problem::io("read", path))?;
        return serde_json::from_slice(&text)
            .map_err(|error| Problem::Other(format!("`{}`: {error}", path.display())));
    }
    let mut process = container.own_process()?;
    process.args.clone_from(&args.command);
    process.terminal = args.tty;
    process.console_size = None::<ConsoleSize>;
    process.env.extend(args.env.iter().cloned());
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some((uid, gid)) = args.user {
        process.user.uid = uid;
        process.user.gid = gid.unwrap_or(process.user.gid);
    }
    process.user.additional_gids.extend(&args.additional_gids);
    if !args.cap.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        for name in &args.cap {
            for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
                set.insert(name.clone());
            }
        }
    }
    process.no_new_privileges |= args.no_new_privs;
    if let Some(profile) = &args.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &args.process_label {
        process.selinux_label.clone_from(label);
    }
    Ok(process)
}
