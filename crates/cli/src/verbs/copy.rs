//! `kiln copy`: from one registry to another, past the store.

use kiln_client::PushProgress;
use kiln_oci::{Platform, Reference};
use kiln_transfer::TransferError;

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::progress::blobs::BlobView;
use crate::settings::Settings;
use crate::transfers::{TransferArgs, pinned, show_push, watched};

/// Copy an image from one registry to another, without storing it
///
/// All platforms are copied unless one is chosen; digests stay what they are. With `--referrers`,
/// what is attached to the image, and to those for single platforms, is copied too: signatures,
/// lists of parts, provenance, and what is under the tags of cosign.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln copy debian:12-slim registry.example.com/base/debian:12-slim
  kiln copy --referrers registry.example.com/team/notes:1 other.example.com/team/notes:1
  kiln copy --platform linux/arm64 registry.example.com/team/notes:1 registry.example.com/arm/notes:1")]
pub(crate) struct Args {
    /// Image to copy
    source: Reference,

    /// Name of the copy
    destination: Reference,

    /// Copy the image for one platform alone
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    /// Copy what is attached to the image, too
    #[arg(long)]
    referrers: bool,

    #[command(flatten)]
    how: TransferArgs,
}

/// Copies, and prints the name and digest of the copy.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let Args {
        source,
        destination,
        platform,
        referrers,
        how,
    } = args;
    let view = BlobView::start(settings);
    let show = |now: PushProgress| show_push(&view, &now);
    let registry = how.registry(settings);
    let (copied, attached) = watched(|cancel| {
        let documents = registry.fetch_documents(source, platform.as_ref(), cancel)?;
        let copied = registry.copy_documents(&documents, source, destination, &show, cancel)?;
        let attached = if *referrers {
            let images = documents.parts.iter().chain([&documents.root]);
            let subjects = images.map(|document| document.digest);
            kiln_transfer::copy_attached(&registry, source, destination, subjects, &show, cancel)?
        } else {
            false
        };
        Ok::<_, TransferError>((copied, attached))
    })?;
    if attached {
        printer.note("copied what is attached to it");
    } else if !copied.changed {
        let name = destination.familiar();
        printer.note(format!("{name} is this image already"));
    }
    printer.line(pinned(destination, &copied.digest))
}
