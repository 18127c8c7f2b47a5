//! `kiln df`: what uses the disk.

use serde_json::json;

use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;
use crate::words;

/// Show what uses the disk, and how much of it `kiln gc` can free
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln df
  kiln df --format json")]
pub(crate) struct Args {
    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// Prints the table.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    let used = store.disk_use()?;
    if args.format == Format::Json {
        return printer.json(&json!(used));
    }
    let row = |name: &str, [count, bytes, free]: [u64; 3]| {
        vec![
            name.to_owned(),
            count.to_string(),
            text::bytes(bytes),
            text::bytes(free),
        ]
    };
    let mut rows = vec![
        ["WHAT", "COUNT", "SIZE", "RECLAIMABLE"]
            .map(String::from)
            .to_vec(),
    ];
    let mut sum = [0; 3];
    for (area, usage) in &used.areas {
        let numbers = [
            usage.total.count,
            usage.total.bytes,
            usage.reclaimable.bytes,
        ];
        for (sum, number) in sum.iter_mut().zip(numbers) {
            *sum += number;
        }
        rows.push(row(words::area(*area), numbers));
    }
    rows.push(row("all", sum));
    printer.data(text::table(&rows))?;
    printer.note(format!("in {}", store.path().display()));
    Ok(())
}
