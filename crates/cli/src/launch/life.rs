//! How a container is to live.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_oci::RunConfig;
use kiln_runtime::{HealthCheck, LogOptions, RestartPolicy};

use crate::errors::{Class, Failure, Outcome};
use crate::life::LifeArgs;

/// How a container is to live.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) terminal: bool,
    pub(crate) open_input: bool,
    pub(crate) auto_remove: bool,
    pub(crate) restart: RestartPolicy,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) health: Option<HealthCheck>,
    pub(crate) log: LogOptions,
    /// Where its id is written.
    pub(crate) id_file: Option<PathBuf>,
}

impl Life {
    /// What flags and image say.
    ///
    /// # Errors
    /// Flags that make no sense.
    pub(crate) fn new(
        args: &LifeArgs,
        image: &RunConfig,
        terminal: bool,
        open_input: bool,
    ) -> Outcome<Self> {
        if args.rm && args.restart != RestartPolicy::No {
            return Err(Failure::message(
                Class::User,
                "a container cannot both be removed and be started again when it ends",
                Some("leave out --rm or --restart".to_owned()),
            ));
        }
        Ok(Self {
            terminal,
            open_input,
            auto_remove: args.rm,
            restart: args.restart,
            labels: args.labels(image)?,
            health: args.health(image),
            log: args.log()?,
            id_file: args.cidfile.clone(),
        })
    }

    /// Of a container that nobody looks for later.
    pub(crate) fn passing() -> Self {
        Self {
            terminal: false,
            open_input: true,
            auto_remove: true,
            restart: RestartPolicy::No,
            labels: BTreeMap::new(),
            health: None,
            log: LogOptions::default(),
            id_file: None,
        }
    }
}
