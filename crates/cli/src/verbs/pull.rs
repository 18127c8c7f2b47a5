//! `kiln pull`: images of registries into the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use kiln_client::Progress;
use kiln_oci::{Platform, Reference};

use crate::errors::Outcome;
use crate::local;
use crate::printer::Printer;
use crate::progress::blobs::{BlobReport, BlobView};
use crate::settings::Settings;
use crate::transfers::TransferArgs;

/// Bring images of registries into the store
///
/// What is there already is not sent again, and a pull that was interrupted goes on where it
/// stopped. Prints the name and digest of each image.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln pull registry.example.com/team/notes:1.2
  kiln pull --platform linux/arm64 docker.io/library/debian:12
  kiln pull debian@sha256:3f2a…")]
pub(crate) struct Args {
    /// Images, as `[registry/]repository[:tag][@digest]`
    #[arg(required = true)]
    images: Vec<Reference>,

    /// Take the image for this platform instead of this machine's
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,

    #[command(flatten)]
    how: TransferArgs,
}

/// Pulls one after the other; each has its name as soon as it is whole.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let host = local::enter(&store)?;
    local::warn_of_one_owner(&host, printer);
    let session = local::session(settings)?;
    let unpack = super::load::unpack_settings(host.privileges());
    let platform = args.platform.clone().unwrap_or_else(Platform::host);
    for reference in &args.images {
        // Whoever typed a short name sees what it was taken for.
        printer.note(format!("pulling {reference}"));
        let view = BlobView::start(settings);
        let coming = Mutex::new(BTreeSet::new());
        let show = |now: Progress| {
            let mut coming = coming.lock().unwrap_or_else(PoisonError::into_inner);
            // A blob that is here is never on its way.
            let was_here = coming.insert(now.digest) && now.committed;
            let ended = if was_here { "already here" } else { "pulled" };
            view.report(&BlobReport {
                digest: now.digest,
                done_bytes: now.done_bytes,
                total_bytes: now.total_bytes,
                ended: now.committed.then(|| ended.to_owned()),
            });
        };
        let image = args.how.with(settings, &session, |transfer| {
            transfer.pull(reference, &platform, &unpack, &show)
        })?;
        let name = reference.clone().without_digest();
        let names = BTreeMap::from([(name, image.descriptor.clone())]);
        store.references().set(&session, &names)?;
        printer.line(pinned(reference, &image.descriptor.digest))?;
    }
    session.finish()?;
    Ok(store.tidy()?)
}

/// A name with what it stands for now.
pub(super) fn pinned(reference: &Reference, digest: &kiln_oci::Digest) -> String {
    reference.clone().with_digest(*digest).to_string()
}
