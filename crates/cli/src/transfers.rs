//! What the verbs that talk to registries share: the client, signals, what is shown, classes of errors.

use std::num::NonZeroUsize;

use kiln_client::Registry;
use kiln_http::{Cancel, Client};
use kiln_store::Session;
use kiln_transfer::{Transfer, TransferError};

use crate::errors::{Class, Classify, Failure, Outcome};
use crate::settings::Settings;
use crate::signals;

/// How blobs are transferred; for every verb that does.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Transferring")]
pub(crate) struct TransferArgs {
    /// Transfer at most this many blobs at once [default: 6]
    #[arg(short, long, value_name = "NUMBER")]
    jobs: Option<NonZeroUsize>,
}

impl TransferArgs {
    /// The registries, as the settings describe them.
    pub(crate) fn registry(&self, settings: &Settings) -> Registry {
        let mut registries = settings.registries();
        if let Some(jobs) = self.jobs {
            registries.jobs = jobs;
        }
        Registry::new(Client::new(settings.http()), registries)
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
        let cancel = Cancel::new();
        let transfer = Transfer {
            session,
            registry: &registry,
            cancel: &cancel,
        };
        let done = signals::with_signals(&|| cancel.cancel(), || work(&transfer))?;
        // What came until then is to last, so that the next try goes on from there.
        session.sync()?;
        done.map_err(|error| {
            if error.is_cancelled() {
                return Failure::message(
                    Class::Interrupted,
                    "stopped",
                    Some("the same command goes on where it stopped".to_owned()),
                );
            }
            error.into()
        })
    }
}

impl Classify for TransferError {
    fn class(&self) -> Class {
        match self {
            Self::Client(error) => error.class(),
            Self::Image(error) => error.class(),
            Self::Store(error) => error.class(),
        }
    }
}
