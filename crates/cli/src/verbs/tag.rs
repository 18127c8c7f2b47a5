//! `kiln tag`: further names for an image of the store.

use std::collections::BTreeMap;

use kiln_oci::Reference;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Give an image of the store further names
///
/// A name that stood for another image stands for this one then.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln tag app registry.example.com/team/notes:1.2
  kiln tag 3f2a91 localhost/notes/app:old")]
pub(crate) struct Args {
    /// Image or service of the project, reference, or id
    image: String,

    /// Names, as `[registry/]repository[:tag]`
    #[arg(required = true)]
    references: Vec<Reference>,
}

/// Gives all names at once.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    if let Some(pinned) = args.references.iter().find(|it| it.digest().is_some()) {
        let message = format!("`{pinned}` has a digest, which nobody can give to an image");
        let help = "leave out everything from the `@` on".to_owned();
        return Err(Failure::message(Class::User, message, Some(help)));
    }
    let session = local::session(settings)?;
    let store = session.store();
    let found = local::find(settings, store, Some(&args.image))?;
    let names: BTreeMap<Reference, _> = args
        .references
        .iter()
        .map(|reference| (reference.clone(), found.descriptor.clone()))
        .collect();
    store.references().set(&session, &names)?;
    for reference in names.keys() {
        printer.note(format!("{} is {}", reference.familiar(), args.image));
    }
    Ok(session.finish()?)
}
