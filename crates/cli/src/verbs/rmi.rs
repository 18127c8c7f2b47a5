//! `kiln rmi`: takes names of images away.

use std::collections::BTreeSet;

use kiln_oci::{Descriptor, Reference};

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;

/// Remove images from the store, by name or id
///
/// What no other image uses is removed from the disk by `kiln gc`.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln rmi app
  kiln rmi localhost/notes/app:old registry.example.com/team/notes")]
pub(crate) struct Args {
    /// Do not mind those that are not there
    #[arg(short, long)]
    force: bool,

    /// Images or services of the project, references, or ids
    #[arg(required = true)]
    images: Vec<String>,
}

/// Removes them; all are found before the first one goes.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let session = local::session(settings)?;
    let store = session.store();
    let mut references = BTreeSet::new();
    let project = Project::load_if_any(settings)?;
    for image in &args.images {
        if args.force && !local::is_there(project.as_ref(), store, image)? {
            continue;
        }
        let found = local::find(settings, store, Some(image))?;
        match found.reference {
            Some(reference) => {
                references.insert(reference);
            }
            // An id stands for all names that the image has.
            None => {
                let names = store.references().list()?.into_iter();
                let of_image = |(reference, descriptor): (Reference, Descriptor)| {
                    (descriptor.digest == found.descriptor.digest).then_some(reference)
                };
                let names: Vec<Reference> = names.filter_map(of_image).collect();
                if names.is_empty() {
                    return Err(Failure::message(
                        Class::User,
                        format!(
                            "`{image}` is the image for one of several platforms, and has no name of its own"
                        ),
                        Some("name the whole image; these are there: kiln images".to_owned()),
                    ));
                }
                references.extend(names);
            }
        }
    }
    for reference in references {
        let removed = store.references().remove(&session, &reference)?;
        if !removed {
            return Err(Failure::message(
                Class::User,
                format!("`{}` was removed by someone else", reference.familiar()),
                None,
            ));
        }
        printer.note(format!("removed {}", reference.familiar()));
    }
    Ok(session.finish()?)
}
