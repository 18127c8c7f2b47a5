//! `kiln update`: changes limits and restart policy of containers.

use kiln_runtime::{Changes, PlannedLimits, RestartPolicy};
use kiln_sandbox::{Group, SandboxError};

use crate::containers::{each, find};
use crate::errors::{Class, Failure, Outcome};
use crate::limits::LimitArgs;
use crate::listing;
use crate::local;
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

    /// Start it again when it ends: `no`, `on-failure[:NUMBER]`, `always` or `unless-stopped`
    #[arg(long, value_name = "POLICY")]
    restart: Option<RestartPolicy>,

    #[command(flatten)]
    limits: LimitArgs,
}

/// Changes them.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let typed = args.limits.planned(&PlannedLimits::default());
    if args.restart.is_none() && typed.is_ok_and(|limits| limits == PlannedLimits::default()) {
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
        let before = &container.config.plan.limits;
        let changes = Changes {
            limits: args.limits.planned(before)?,
            restart: args.restart,
        };
        if listing::is_alive(&container) {
            // Swap beside the memory stays what it is, and so do the period and what may be used of it.
            let swap_bytes = changes.limits.memory_bytes.and(before.swap_bytes);
            let memory_bytes = changes.limits.swap_bytes.and(before.memory_bytes);
            let typed = &changes.limits;
            let quota = typed
                .cpu_quota_microseconds
                .or(typed.cpu_period_microseconds);
            let group = Group::new(container.state.groups.clone());
            let limits = changes.limits.clone().or(PlannedLimits {
                swap_bytes,
                memory_bytes,
                cpu_quota_microseconds: quota.and(before.cpu_quota_microseconds),
                cpu_period_microseconds: quota.and(before.cpu_period_microseconds),
                ..PlannedLimits::default()
            });
            let changed = group.update(&limits.for_sandbox());
            changed.map_err(SandboxError::from)?;
        }
        container.change(&store, changes)?;
        let shown = container.display_name();
        monitors::tell(&store, &container.config, &shown, "update", &[])
    })
}
