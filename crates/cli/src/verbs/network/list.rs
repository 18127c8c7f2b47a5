//! `kiln network ls`.

use kiln_network::Network;
use serde_json::json;

use super::{Entered, inspect};
use crate::errors::Outcome;
use crate::form::{self, Form};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// List networks; with `-q` only their ids
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln network ls
  kiln network ls --filter label=project=notes -q")]
pub(crate) struct Args {
    /// List only those for which this holds: `name=`, `id=`, `driver=` or `label=`
    #[arg(short, long, value_name = "FILTER", value_parser = filter)]
    filter: Vec<Filter>,

    /// Choose the form of the listing: `text`, `json`, or a template of docker's, such as '{{.Name}}'; behind `table `
    /// with a head
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse)]
    format: Form,
}

/// What is asked of a network.
#[derive(Clone, Debug)]
enum Filter {
    Name(String),
    Id(String),
    Driver(String),
    Label(String, Option<String>),
}

fn filter(text: &str) -> Result<Filter, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let value = value.to_owned();
    match key {
        "name" => Ok(Filter::Name(value)),
        "id" => Ok(Filter::Id(value)),
        "driver" => Ok(Filter::Driver(value)),
        "label" => Ok(match value.split_once('=') {
            Some((key, value)) => Filter::Label(key.to_owned(), Some(value.to_owned())),
            None => Filter::Label(value, None),
        }),
        _ => Err("filter by `name=`, `id=`, `driver=` or `label=`".to_owned()),
    }
}

impl Filter {
    fn takes(&self, id: &str, name: &str, driver: &str, network: Option<&Network>) -> bool {
        match self {
            Self::Name(part) => name.contains(&**part),
            Self::Id(part) => !id.is_empty() && id.starts_with(&**part),
            Self::Driver(wanted) => driver == wanted,
            Self::Label(key, value) => network.is_some_and(|network| {
                let own = network.record.labels.get(key);
                own.is_some_and(|own| value.as_ref().is_none_or(|value| own == value))
            }),
        }
    }
}

/// Networks that are no bridges have no record and no id.
const OTHERS: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// What docker calls the columns.
const HEADS: [(&str, &str); 7] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
];

/// Prints the list.
pub(super) fn run(
    args: &Args,
    entered: &Entered,
    settings: &Settings,
    printer: &mut Printer,
) -> Outcome {
    let networks = entered.networks.list(entered.now)?;
    let bridges = networks.iter().map(|network| {
        let record = &network.record;
        (&*record.id, record.name.as_str(), "bridge", Some(network))
    });
    let others = OTHERS.map(|(name, driver)| ("", name, driver, None));
    let mut rows: Vec<_> = bridges.chain(others).collect();
    rows.retain(|(id, name, driver, network)| {
        let mut filters = args.filter.iter();
        filters.all(|filter| filter.takes(id, name, driver, *network))
    });
    rows.sort_by_key(|(_, name, ..)| *name);
    let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
    match &args.format {
        Form::Text => {}
        Form::Json => {
            let rows = rows
                .iter()
                .map(|(id, name, driver, network)| match network {
                    Some(network) => inspect::document(network),
                    None => json!({ "Id": id, "Name": name, "Driver": driver, "Scope": "local" }),
                });
            return printer.json(&rows.collect());
        }
        Form::Filled(filling) => {
            let rows = rows.iter().map(|(id, name, driver, network)| {
                let record = network.map(|network| &network.record);
                json!({
                    "ID": short(id),
                    "Name": name,
                    "Driver": driver,
                    "Scope": "local",
                    "IPv6": record.is_some_and(|record| record.has_ipv6()).to_string(),
                    "Internal": record.is_some_and(|record| record.internal).to_string(),
                    "Labels": record.map(|record| form::labels(&record.labels)).unwrap_or_default(),
                })
            });
            return printer.data(filling.fill(&HEADS, rows.collect())?);
        }
    }
    if settings.quiet {
        let ids = rows.iter().filter(|(id, ..)| !id.is_empty());
        let ids: Vec<Vec<String>> = ids.map(|(id, ..)| vec![short(id)]).collect();
        return printer.data(text::table(&ids));
    }
    let mut table = vec![
        ["NETWORK ID", "NAME", "DRIVER", "SCOPE"]
            .map(String::from)
            .to_vec(),
    ];
    table.extend(rows.iter().map(|(id, name, driver, _)| {
        let id = if id.is_empty() {
            "-".to_owned()
        } else {
            short(id)
        };
        vec![
            id,
            (*name).to_owned(),
            (*driver).to_owned(),
            "local".to_owned(),
        ]
    }));
    printer.data(text::table(&table))
}
