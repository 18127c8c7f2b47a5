//! `kiln push`: images of the store to registries.

use kiln_image::{ExportProgress, Image};
use kiln_oci::{Compression, Reference};

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::output::Method;
use crate::printer::Printer;
use crate::progress::blobs::{BlobReport, BlobView};
use crate::project::Project;
use crate::settings::Settings;
use crate::transfers::{TransferArgs, pinned, show_push};

/// Send an image to a registry
///
/// Nothing is sent that the registry has. The same image becomes the same digest on every machine.
/// Prints each name with its digest in the registry.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln push app                                        to the `tags` it has in kiln.toml
  kiln push app registry.example.com/team/notes:1.2    to another name
  kiln push registry.example.com/team/notes            an image of the store, as it is called
  kiln push --compress zstd app registry.example.com/team/notes")]
pub(crate) struct Args {
    /// Image or service of the project, reference, or id
    image: Option<String>,

    /// Names in registries; else the image's `tags`, or its own name
    references: Vec<Reference>,

    /// Choose how layers that were built here are compressed
    #[arg(long, value_name = "METHOD", default_value = "gzip")]
    compress: Method,

    #[command(flatten)]
    how: TransferArgs,
}

/// Pushes to one name after the other.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    let session = local::session(settings)?;
    let found = local::find(settings, &store, args.image.as_deref())?;
    let image = found.load(&store)?;
    let names = destinations(args, settings, found.reference.as_ref())?;
    let compression = args.compress.into();
    for reference in &names {
        let digest = push_to(args, settings, &session, &image, reference, compression)?;
        printer.line(pinned(reference, &digest))?;
    }
    Ok(session.finish()?)
}

fn push_to(
    args: &Args,
    settings: &Settings,
    session: &kiln_store::Session,
    image: &Image,
    reference: &Reference,
    compression: Compression,
) -> Outcome<kiln_oci::Digest> {
    let view = BlobView::start(settings);
    let compressing = |now: ExportProgress| {
        view.report(&BlobReport {
            digest: now.diff_id.0,
            done_bytes: now.done_bytes,
            total_bytes: now.total_bytes,
            ended: (now.done_bytes == now.total_bytes).then(|| "compressed".to_owned()),
        });
    };
    let sending = |now| show_push(&view, &now);
    let pushed = args.how.with(settings, session, |transfer| {
        transfer.push(image, reference, compression, &compressing, &sending)
    })?;
    Ok(pushed.digest)
}

/// Where to push: the names given, else those of the manifest, else the image's own.
fn destinations(
    args: &Args,
    settings: &Settings,
    own: Option<&Reference>,
) -> Outcome<Vec<Reference>> {
    if !args.references.is_empty() {
        return Ok(args.references.clone());
    }
    if let Some(project) = Project::load_if_any(settings)? {
        let tags = project.tags_of(args.image.as_deref())?;
        if !tags.is_empty() {
            return Ok(tags);
        }
    }
    // What kiln calls an image by itself is no name in a registry.
    if let Some(own) = own.filter(|own| own.registry() != "localhost") {
        return Ok(vec![own.clone()]);
    }
    Err(Failure::message(
        Class::User,
        "nothing says where to push the image to",
        Some(
            "name it: kiln push IMAGE registry.example.com/team/name:tag, or give the image `tags`"
                .to_owned(),
        ),
    ))
}
