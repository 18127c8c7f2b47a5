//! `kiln ps`: lists containers.

mod row;

use kiln_runtime::{Status, StoredContainer};
use serde_json::{Value, json};

use crate::errors::Outcome;
use crate::form::Form;
use crate::listing::{self, Filters, Width};
use crate::local;
use crate::ports::Places;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::sizes::Sizes;
use crate::tasks;
use crate::text;

/// List containers: those that run, or all
///
/// With -q only their ids.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln ps
  kiln ps -a --filter status=exited --filter label=team=web
  kiln ps -aq
  kiln ps -as
  kiln ps --format '{{.Names}} {{.Status}}'
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

    /// Show how much room their own files take, and those of their images with them
    #[arg(short, long)]
    size: bool,

    /// Choose the form of the listing: `text`, `json`, or a template of docker's, such as '{{.Names}}'; behind `table `
    /// with a head
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse)]
    format: Form,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    // Their files belong to their users.
    let _host = args.size.then(|| local::enter(&store)).transpose()?;
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
    let sizes = containers.iter().filter(|_| args.size);
    let sizes: Vec<Sizes> = sizes
        .map(|it| Sizes::measure(&store, it))
        .collect::<Outcome<_>>()?;
    let rows = containers.iter().enumerate().map(|(number, it)| {
        let mut row = listing::row_json(it, &places, now);
        if let (Some(size), Value::Object(row)) = (sizes.get(number), &mut row) {
            row.insert("SizeRw".to_owned(), json!(size.own));
            row.insert("SizeRootFs".to_owned(), json!(size.all));
        }
        row
    });
    match &args.format {
        Form::Text => {}
        Form::Json => return printer.json(&rows.collect()),
        Form::Filled(filling) => {
            let size = |number| sizes.get(number).map(Sizes::text);
            let rows = containers.iter().zip(rows).enumerate();
            let rows = rows.map(|(number, (it, row))| row::fields(it, row, width, size(number)));
            return printer.data(filling.fill(&row::HEADS, rows.collect())?);
        }
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
    let head = head.into_iter().chain(args.size.then_some("SIZE"));
    let mut rows = vec![head.map(String::from).collect::<Vec<_>>()];
    rows.extend(containers.iter().enumerate().map(|(number, it)| {
        let created = listing::since(Some(it.config.created), now);
        let size = sizes.get(number).map(Sizes::text);
        let row = [
            listing::id(it, width),
            it.config.image.clone(),
            listing::command(it, width),
            format!("{} ago", listing::about(created)),
            listing::status(it, now),
            places.column(it),
            it.display_name(),
        ];
        row.into_iter().chain(size).collect()
    }));
    printer.data(text::table(&rows))
}
