//! `kiln copy`: from one registry to another, past the store.

use kiln_client::Outcome as BlobOutcome;
use kiln_http::Cancel;
use kiln_oci::{Platform, Reference};

use crate::errors::Outcome;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;

/// Copy an image from one registry to another, without storing it
///
/// All platforms are copied unless one is chosen; digests stay what they are.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln copy debian:12-slim registry.example.com/base/debian:12-slim
  kiln copy --platform linux/arm64 registry.example.com/team/notes:1 registry.example.com/arm/notes:1")]
pub(crate) struct Args {
    /// Image to copy
    source: Reference,

    /// Name of the copy
    destination: Reference,

    /// Copy the image for one platform alone
    #[arg(long)]
    platform: Option<Platform>,
}

/// Copies, and prints the digest of the copy.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let copied = settings.registry().copy(
        &args.source,
        &args.destination,
        args.platform.as_ref(),
        &|_| {},
        &Cancel::new(),
    )?;
    let sent = copied
        .blobs
        .values()
        .filter(|how| **how == BlobOutcome::Pushed)
        .count();
    printer.note(if copied.changed {
        format!(
            "copied to {}: {} of {} sent, {}",
            args.destination.familiar(),
            sent,
            text::count(copied.blobs.len(), "blob"),
            text::bytes(copied.sent_bytes)
        )
    } else {
        format!("{} is this image already", args.destination.familiar())
    });
    printer.line(copied.digest.to_string())
}
