//! `kiln inspect`: everything about containers, an image, volumes or networks, as JSON.

use clap::ValueEnum;
use kiln_oci::Platform;
use kiln_runtime::StoredContainer;
use kiln_store::{Store, StoreError};
use serde_json::{Value, json};

use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::form::DocumentForm;
use crate::inspection;
use crate::local;
use crate::ports::Places;
use crate::printer::Printer;
use crate::project::Project;
use crate::settings::Settings;
use crate::suggest;
use crate::verbs::{network, volume};

/// Show everything about containers, an image, volumes or networks, as JSON
///
/// A name is looked for among the containers first, then among images, networks and volumes, and the beginning of an
/// id last; all but images come as a list, with docker's names for what docker has; templates have these for images,
/// too.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln inspect                          the project's default image
  kiln inspect app | jq .config.config  how a container of it starts
  kiln inspect 3f2a91                   by the beginning of its id
  kiln inspect web | jq '.[].State'     what a container is doing
  kiln inspect --type volume data
  kiln inspect -f '{{.State.Status}}' web
  kiln inspect -f '{{.Os}}/{{.Architecture}}' app
  kiln inspect app | jq '.index.manifests[].platform'
                                        what an image for several platforms is for")]
pub(crate) struct Args {
    /// Containers; or an image or service of the project, reference, or id; or a network or volume
    names: Vec<String>,

    /// Only containers, or an image, or volumes or networks, of that name
    #[arg(long = "type", value_name = "WHAT")]
    kind: Option<Kind>,

    /// Show only this, by a template of docker's, such as '{{.State.Status}}'
    #[arg(short, long, value_name = "TEMPLATE", default_value = "json", value_parser = DocumentForm::parse)]
    format: DocumentForm,

    /// Take the image for this platform, of one that is for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
}

/// What a name is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Containers
    Container,
    /// An image
    Image,
    /// Volumes
    Volume,
    /// Networks
    Network,
}

/// Prints the documents.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    match args.kind {
        Some(Kind::Volume) => {
            return args
                .format
                .print(volume::inspection(&args.names, settings)?, printer);
        }
        Some(Kind::Network) => {
            return args
                .format
                .print(network::inspection(&args.names, settings)?, printer);
        }
        Some(Kind::Image) if args.names.len() > 1 => {
            let help = "name one at a time".to_owned();
            let message = "only one image can be inspected";
            return Err(Failure::message(Class::User, message, Some(help)));
        }
        Some(Kind::Container | Kind::Image) | None => {}
    }
    let store = local::open(settings)?;
    let mut containers = Vec::new();
    let named = args.names.iter();
    for name in named.filter(|_| args.kind != Some(Kind::Image)) {
        if args.kind == Some(Kind::Container) {
            let places = Places::read(&store)?;
            containers.push(inspection::container(&store, &places, &find(&store, name)?));
            continue;
        }
        match StoredContainer::find(&store, name) {
            Ok(found) if !found.is_called(name) && local::is_named(settings, &store, name)? => {}
            Err(StoreError::Ambiguous { .. }) if local::is_named(settings, &store, name)? => {}
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
        return args.format.print(Value::Array(containers), printer);
    }
    let name = args.names.first().map(String::as_str);
    let found = match name.filter(|_| args.kind.is_none()) {
        Some(name) => {
            let project = Project::load_if_any(settings)?;
            match local::find_if_any(project.as_ref(), &store, name)? {
                Some(found) => found,
                None => {
                    let found = other(name, project.as_ref(), &store, settings)?;
                    return args.format.print(found, printer);
                }
            }
        }
        None => local::find(settings, &store, name)?,
    };
    let image = found.load(&store, args.platform.as_ref())?;
    let image = kiln_image::inspect(&store, &found.descriptor, &image)?;
    let mut shown = json!(image);
    if args.format.is_template()
        && let Some(shown) = shown.as_object_mut()
    {
        shown.append(&mut inspection::image(&image));
    }
    args.format.print(shown, printer)
}

/// What is known about the network or the volume of a name that no container and no image has.
fn other(
    name: &str,
    project: Option<&Project>,
    store: &Store,
    settings: &Settings,
) -> Outcome<Value> {
    let names = [name.to_owned()];
    if network::is_there(name, settings)? {
        return network::inspection(&names, settings);
    }
    if volume::is_there(name, settings)? {
        return volume::inspection(&names, settings);
    }
    let message = format!("there is no container, image, network or volume `{name}`");
    let otherwise =
        || "see what there is: kiln ps -a, kiln images, kiln network ls, kiln volume ls".to_owned();
    let known = local::known_names(project, store)?;
    let help = suggest::help(name, known, otherwise);
    Err(Failure::message(Class::User, message, Some(help)))
}
