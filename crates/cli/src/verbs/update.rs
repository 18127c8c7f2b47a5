//! `kiln update`: changes limits and restart policy of containers.

use kiln_runtime::{Changes, RestartPolicy};
use kiln_sandbox::{Group, Limits, PidsLimit, SandboxError};

use crate::container;
use crate::containers::{each, find};
use crate::errors::{Class, Failure, Outcome};
use crate::listing;
use crate::local;
use crate::measures::size;
use crate::monitors;
use crate::printer::Printer;
use crate::settings::Settings;

/// Change limits and restart policy of containers, also while they run
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln update --memory 1GB --cpus 2 web
  kiln update --restart always web db")]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,

    /// Limit the memory
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// Limit the processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = container::thousandths)]
    cpus: Option<u32>,

    /// Limit the number of processes and threads
    #[arg(long, alias = "pids-limit", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    pids: Option<u32>,

    /// Start it again when it ends: `no`, `on-failure[:NUMBER]`, `always` or `unless-stopped`
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,
}

/// Changes them.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let changes = Changes {
        memory_bytes: args.memory,
        cpu_thousandths: args.cpus,
        pids: args.pids,
        restart: args.restart,
    };
    if changes == Changes::default() {
        let help = "see what can be changed: kiln update --help".to_owned();
        let message = "nothing is to be changed";
        return Err(Failure::message(Class::User, message, Some(help)));
    }
    let store = local::open(settings)?;
    each(&args.containers, printer, |name, _| {
        let container = find(&store, name)?;
        if container.config.auto_remove && args.restart.is_some_and(|it| it != RestartPolicy::No) {
            let message = format!("container {name} is removed when it ends");
            return Err(Failure::message(Class::User, message, None));
        }
        if listing::is_alive(&container) {
            let limits = Limits {
                memory_bytes: args.memory,
                cpu_thousandths: args.cpus,
                pids: args.pids.map_or(PidsLimit::Default, PidsLimit::AtMost),
                ..Limits::default()
            };
            let group = Group::new(container.state.groups.clone());
            group.update(&limits).map_err(SandboxError::from)?;
        }
        container.change(&store, changes)?;
        let shown = container.display_name();
        monitors::tell(&store, &container.config, &shown, "update", &[])
    })
}
