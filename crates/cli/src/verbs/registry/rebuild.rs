//! `kiln registry rebuild`: the index from storage.

use super::place::Place;
use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// Make the registry's index again, from its journal and the names of its files
///
/// For an index that is lost or damaged; the one that was there is kept beside
/// the new one. The registry must not be running.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
}

/// Makes it again.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let config = args.place.config(settings)?;
    let folder = args.place.folder(&config, settings)?;
    let rebuilt = kiln_registry::rebuild(&folder, &config, &Settings::clock())?;
    let count =
        |number: u64, noun| text::count(usize::try_from(number).unwrap_or(usize::MAX), noun);
    printer.note(format!(
        "the index was made from {} and {}",
        count(rebuilt.blobs, "blob"),
        count(rebuilt.changes, "change")
    ));
    if let Some(old) = &rebuilt.old {
        printer.note(format!("the old one is {old}"));
    }
    Ok(())
}
