//! `kiln rename`: gives a container another name.

use crate::containers::find;
use crate::errors::Outcome;
use crate::local;
use crate::monitors;
use crate::printer::Printer;
use crate::settings::Settings;

/// Give a container another name
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// The name from now on
    name: String,
}

/// Renames it.
pub(crate) fn run(args: &Args, settings: &Settings, _printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let container = find(&store, &args.container)?;
    let name = kiln_store::Name::new(&args.name)?;
    store.containers().rename(container.id(), &name)?;
    let before = [("oldName", container.display_name())];
    monitors::tell(&store, &container.config, name.as_str(), "rename", &before)
}
