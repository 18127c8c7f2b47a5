//! What the verbs that talk to registries share: the client, signals, what is shown, classes of errors.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use kiln_client::{Outcome as Ending, Progress, PushProgress, Registry};
use kiln_http::Cancel;
use kiln_image::{Image, UnpackSettings};
use kiln_oci::{Descriptor, Digest, Platform, Reference};
use kiln_store::Session;
use kiln_transfer::{Transfer, TransferError};

use crate::errors::{Class, Classify, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::progress::blobs::{BlobReport, BlobView};
use crate::settings::Settings;
use crate::signals;
use crate::verbs::load::unpack_settings;
use crate::workbench::Entered;

/// How blobs are transferred; for every verb that does.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Transferring")]
pub(crate) struct TransferArgs {
    /// Transfer at most this many blobs at once [default: 6]
    #[arg(short, long, value_name = "NUMBER", value_parser = crate::settings::jobs)]
    jobs: Option<NonZeroUsize>,
}

impl TransferArgs {
    /// The registries, as the settings describe them.
    pub(crate) fn registry(&self, settings: &Settings) -> Registry {
        settings.registry(self.jobs)
    }

    /// Pulls an image, shows how far it is, and gives it its name.
    ///
    /// # Errors
    /// The registry does not have it, or what it has cannot be used.
    pub(crate) fn pull(
        &self,
        reference: &Reference,
        platform: &Platform,
        settings: &Settings,
        entered: &Entered,
        printer: &mut Printer,
    ) -> Outcome<Image> {
        self.pull_as(
            reference,
            settings,
            entered,
            printer,
            |transfer, unpack, show| transfer.pull(reference, platform, unpack, show),
            |image| image.descriptor.clone(),
        )
    }

    /// Pulls an image for all platforms that there are, like [`Self::pull`].
    ///
    /// # Errors
    /// As [`Self::pull`].
    pub(crate) fn pull_all(
        &self,
        reference: &Reference,
        settings: &Settings,
        entered: &Entered,
        printer: &mut Printer,
    ) -> Outcome<Descriptor> {
        self.pull_as(
            reference,
            settings,
            entered,
            printer,
            |transfer, unpack, show| transfer.pull_all(reference, unpack, show),
            Descriptor::clone,
        )
    }

    /// Pulls by `pull`, shows how far it is, and gives what `points_at` says its name.
    fn pull_as<T>(
        &self,
        reference: &Reference,
        settings: &Settings,
        entered: &Entered,
        printer: &mut Printer,
        pull: impl FnOnce(
            &Transfer<'_>,
            &UnpackSettings,
            &(dyn Fn(Progress) + Sync),
        ) -> Result<T, TransferError>,
        points_at: impl FnOnce(&T) -> Descriptor,
    ) -> Outcome<T> {
        let Entered { session, host } = entered;
        // Whoever typed a short name sees what it was taken for.
        printer.note(format!("pulling {reference}"));
        local::warn_of_one_owner(host, printer);
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
        let unpack = unpack_settings(host.privileges());
        let pulled = self.with(settings, session, |transfer| pull(transfer, &unpack, &show))?;
        let name = reference.clone().without_digest();
        let names = BTreeMap::from([(name, points_at(&pulled))]);
        session.store().references().set(session, &names)?;
        Ok(pulled)
    }

    /// Does `work` with store and registries until a signal stops it.
    ///
    /// # Errors
    /// Those of `work`.
    pub(crate) fn with<T>(
        &self,
        settings: &Settings,
        session: &Session,
        work: impl FnOnce(&Transfer<'_>) -> Result<T, TransferError>,
    ) -> Outcome<T> {
        let registry = self.registry(settings);
        let done = watched(|cancel| {
            work(&Transfer {
                session,
                registry: &registry,
                cancel,
            })
        });
        // What came until then is to last, so that the next try goes on from there.
        session.sync()?;
        done
    }
}

/// Does `work` until a signal stops it.
///
/// # Errors
/// Those of `work`.
pub(crate) fn watched<T, E: Classify + std::error::Error>(
    work: impl FnOnce(&Cancel) -> Result<T, E>,
) -> Outcome<T>
where
    Failure: From<E>,
{
    let cancel = Cancel::new();
    let done = signals::with_signals(&|| cancel.cancel(), || work(&cancel))?;
    done.map_err(|error| {
        if error.class() != Class::Interrupted {
            return error.into();
        }
        let help = "the same command goes on where it stopped".to_owned();
        Failure::message(Class::Interrupted, "stopped", Some(help))
    })
}

/// Shows how far a pushed blob is.
pub(crate) fn show_push(view: &BlobView, now: &PushProgress) {
    let ended = now.outcome.as_ref().map(|ending| match ending {
        Ending::Pushed => "pushed".to_owned(),
        Ending::Mounted(from) => format!("taken from {from}"),
        Ending::There => "already there".to_owned(),
    });
    view.report(&BlobReport {
        digest: now.digest,
        done_bytes: now.sent_bytes,
        total_bytes: now.total_bytes,
        ended,
    });
}

/// A name with what it stands for now.
pub(crate) fn pinned(reference: &Reference, digest: &Digest) -> String {
    reference.clone().with_digest(*digest).to_string()
}

impl Classify for TransferError {
    fn class(&self) -> Class {
        match self {
            Self::Client(error) => error.class(),
            Self::Image(error) => error.class(),
            Self::Store(error) => error.class(),
            Self::TooMuch { .. } | Self::NoList { .. } => Class::User,
        }
    }
}
