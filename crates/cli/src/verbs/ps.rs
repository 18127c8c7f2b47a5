//! `kiln ps`: lists containers.

use kiln_runtime::{Status, StoredContainer};
use serde_json::Value;

use crate::errors::Outcome;
use crate::listing::{self, Filters, Width};
use crate::local;
use crate::ports::Places;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks;
use crate::text;
use crate::verbs::Format;

/// List containers: those that run, or all
///
/// With -q only their ids.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln ps
  kiln ps -a --filter status=exited --filter label=team=web
  kiln ps -aq
  kiln ps --format json | jq -r '.[].Names'")]
pub(crate) struct Args {
    /// Those that do not run, too
    #[arg(short, long)]
    all: bool,

    /// Only those for which this holds, such as status=exited or name=web
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Only the newest one, whatever it does
    #[arg(short, long)]
    latest: bool,

    /// Only the newest ones, whatever they do
    #[arg(short = 'n', long, value_name = "NUMBER", conflicts_with = "latest")]
    last: Option<usize>,

    /// Show ids and commands whole
    #[arg(long)]
    no_trunc: bool,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let filters = Filters::parse(&args.filter)?;
    let (found, broken) = StoredContainer::list(&store)?;
    for container in &broken {
        let id = container.id.short();
        printer.warning(format!(
            "container {id}: {}; kiln rm -f {id} removes it",
            container.error
        ));
    }
    let count = args.last.or(args.latest.then_some(1));
    let all = args.all || count.is_some() || filters.mention_states();
    let mut containers = filters.choose(found)?;
    containers.retain(|it| all || !matches!(it.status, Status::Created | Status::Exited));
    containers.truncate(count.unwrap_or(usize::MAX));
    let now = tasks::clock();
    let width = if args.no_trunc {
        Width::Whole
    } else {
        Width::Cut
    };
    if settings.quiet {
        let ids = containers.iter().map(|it| listing::id(it, width) + "\n");
        return printer.data(ids.collect::<String>());
    }
    let places = Places::read(&store)?;
    if args.format == Format::Json {
        let rows = containers
            .iter()
            .map(|it| listing::row_json(it, &places, now));
        return printer.json(&Value::Array(rows.collect()));
    }
    let head = [
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(containers.iter().map(|it| {
        let created = listing::since(Some(it.config.created), now);
        vec![
            listing::id(it, width),
            it.config.image.clone(),
            listing::command(it, width),
            format!("{} ago", listing::about(created)),
            listing::status(it, now),
            places.column(it),
            it.display_name(),
        ]
    }));
    printer.data(text::table(&rows))
}
