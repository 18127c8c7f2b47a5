//! `kiln referrers`: what is attached to an image in its registry.

use kiln_attest::{ENVELOPE_TYPE, IN_TOTO_TYPE, SIGNATURE_ARTIFACT_TYPE, SbomFormat};
use kiln_oci::{Platform, Reference};
use serde_json::json;

use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::transfers::TransferArgs;
use crate::verbs::Format;

/// List what is attached to an image in its registry
///
/// Signatures, lists of parts, provenance, and whatever others attached, also under the tags of
/// cosign (`sha256-….sig`, `.att`, `.sbom`). None of it is verified.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln referrers registry.example.com/team/notes:1.2
  kiln referrers --type signature registry.example.com/team/notes:1.2
  kiln referrers --platform linux/arm64 registry.example.com/team/notes:1.2
  kiln referrers --format json debian:12 | jq -r '.[].artifactType'")]
pub(crate) struct Args {
    /// Image, as `[registry/]repository[:tag][@digest]`
    image: Reference,

    /// List only this: signature, envelope, spdx, cyclonedx, provenance, or an artifact type
    #[arg(long = "type", value_name = "TYPE")]
    artifact_type: Option<String>,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    /// List what is attached to the image for this platform, of one that is for several
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    #[command(flatten)]
    how: TransferArgs,
}

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let session = local::session(settings)?;
    let wanted = args.artifact_type.as_deref().map(full_type);
    let found = args.how.with(settings, &session, |transfer| {
        let (registry, cancel) = (transfer.registry, transfer.cancel);
        let digest = match &args.platform {
            Some(platform) => registry.resolve(&args.image, platform, cancel)?.manifest,
            None => registry.fetch_root(&args.image, cancel)?.digest,
        };
        let mut found = kiln_transfer::attached(registry, &args.image, digest, cancel)?;
        found.retain(|entry| wanted.is_none() || entry.artifact_type.as_deref() == wanted);
        Ok(found)
    })?;
    session.finish()?;
    if args.format == Format::Json {
        return printer.json(&json!(found));
    }
    if found.is_empty() {
        printer.note(format!("nothing is attached to {}", args.image));
        return Ok(());
    }
    let mut rows = vec![["TYPE", "DIGEST", "SAYS"].map(String::from).to_vec()];
    rows.extend(found.iter().map(|entry| {
        let annotation = |name| entry.annotations.get(name);
        let says = annotation("in-toto.io/predicate-type")
            .or_else(|| annotation("org.opencontainers.image.ref.name"));
        vec![
            text::harmless(entry.artifact_type.as_deref().unwrap_or("-")),
            entry.digest.to_string(),
            text::harmless(says.map_or("", String::as_str)),
        ]
    }));
    printer.data(text::table(&rows))
}

/// The artifact type of what has a short name here.
fn full_type(name: &str) -> &str {
    match name {
        "signature" => SIGNATURE_ARTIFACT_TYPE,
        "envelope" => ENVELOPE_TYPE,
        "provenance" => IN_TOTO_TYPE,
        "spdx" => SbomFormat::Spdx.media_type(),
        "cyclonedx" => SbomFormat::CycloneDx.media_type(),
        other => other,
    }
}
