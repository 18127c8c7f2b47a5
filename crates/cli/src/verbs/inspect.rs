//! `kiln inspect`: everything about containers or an image, as JSON.

use kiln_oci::Platform;
use kiln_runtime::StoredContainer;
use kiln_store::StoreError;
use serde_json::{Value, json};

use crate::errors::{Class, Failure, Outcome};
use crate::inspection;
use crate::local;
use crate::ports::Places;
use crate::printer::Printer;
use crate::settings::Settings;

/// Show everything about containers or an image, as JSON
///
/// A name is looked for among the containers first; those come as a list, with
/// docker's names for what docker has.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln inspect                          the project's default image
  kiln inspect app | jq .config.config  how a container of it starts
  kiln inspect 3f2a91                   by the beginning of its id
  kiln inspect web | jq '.[].State'     what a container is doing
  kiln inspect app | jq '.index.manifests[].platform'
                                        what an image for several platforms is for")]
pub(crate) struct Args {
    /// Containers; or an image or service of the project, reference, or id
    names: Vec<String>,

    /// Take the image for this platform, of one that is for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
}

/// Prints the documents.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let mut containers = Vec::new();
    for name in &args.names {
        match StoredContainer::find(&store, name) {
            Ok(found) => {
                let places = Places::read(&store)?;
                containers.push(inspection::container(&store, &places, &found));
            }
            Err(StoreError::Missing { .. }) if args.names.len() == 1 => {}
            Err(StoreError::Missing { .. }) => {
                let message = format!("there is no container `{name}`");
                let help = "of images, name one at a time".to_owned();
                return Err(Failure::message(Class::User, message, Some(help)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if !containers.is_empty() {
        return printer.json(&Value::Array(containers));
    }
    let name = args.names.first().map(String::as_str);
    let found = local::find(settings, &store, name)?;
    let image = found.load(&store, args.platform.as_ref())?;
    printer.json(&json!(kiln_image::inspect(
        &store,
        &found.descriptor,
        &image
    )?))
}
