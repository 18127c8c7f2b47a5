//! `kiln gc`: frees what nothing reaches.

use kiln_manifest::value::TimeSpan;
use kiln_store::{GcPolicy, Timestamp};
use serde_json::json;

use crate::errors::Outcome;
use crate::local;
use crate::measures::{explained, size};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;
use crate::words;

/// Remove what no image, container or recent build uses
///
/// Images that have a name and volumes always stay; see `kiln rmi`. Without
/// `--keep` and `--older` all results of earlier builds go, and the next build
/// starts from nothing.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln gc --keep 20GB          the least recently used first, until 20 GB are left
  kiln gc --older 14d          what was not used for two weeks
  kiln gc --older 14d --dry-run")]
pub(crate) struct Args {
    /// Remove until no more than this is left, least recently used first
    #[arg(long, value_name = "SIZE", value_parser = size)]
    keep: Option<u64>,

    /// Remove only what was not used for this long
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    older: Option<u64>,

    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Choose the form of the report
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

fn seconds(text: &str) -> Result<u64, String> {
    TimeSpan::parse(text)
        .map(|time| time.0.as_secs())
        .map_err(explained)
}

/// Collects garbage.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    let now = Timestamp::from_seconds(settings.now_seconds());
    let report = store.gc(GcPolicy {
        unused_since: args.older.map(|seconds| now.earlier_by(seconds)),
        keep_bytes: args.keep,
        dry_run: args.dry_run,
    })?;
    if args.format == Format::Json {
        return printer.json(&json!(report));
    }
    let mut rows = Vec::new();
    for (area, tally) in &report.removed {
        rows.push(vec![
            words::area(*area).to_owned(),
            tally.count.to_string(),
            text::bytes(tally.bytes),
        ]);
    }
    if !rows.is_empty() {
        rows.insert(0, ["WHAT", "COUNT", "SIZE"].map(String::from).to_vec());
        printer.data(text::table(&rows))?;
    }
    let freed = text::bytes(report.before_bytes.saturating_sub(report.after_bytes));
    let left = text::bytes(report.after_bytes);
    printer.note(if args.dry_run {
        format!("{freed} would be freed, {left} left")
    } else {
        format!("{freed} freed, {left} left")
    });
    Ok(())
}
