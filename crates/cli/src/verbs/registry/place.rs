//! Which registry a verb is about.

use std::path::PathBuf;

use kiln_registry::{Command, Config};
use serde_json::Value;

use crate::errors::{Class, Failure, Outcome};
use crate::settings::Settings;

/// Where a registry is.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Place {
    /// File with the registry's settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Folder with everything, instead of the one the settings name
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Place {
    /// Its settings.
    pub(super) fn config(&self, settings: &Settings) -> Outcome<Config> {
        Ok(match &self.config {
            Some(path) => Config::read(&settings.directory.join(path))?,
            None => Config::default(),
        })
    }

    /// Its folder.
    pub(super) fn folder(&self, config: &Config, settings: &Settings) -> Outcome<PathBuf> {
        let named = self.data.as_ref().or(config.data.as_ref());
        if let Some(folder) = named {
            return Ok(settings.directory.join(folder));
        }
        settings.registry_folder().ok_or_else(|| {
            Failure::message(
                Class::User,
                "there is no folder for the registry: neither `--data` nor `HOME` is set",
                Some("name a folder with `--data`".to_owned()),
            )
        })
    }

    /// Has a command done.
    pub(super) fn command(&self, settings: &Settings, command: &Command) -> Outcome<Value> {
        let config = self.config(settings)?;
        let folder = self.folder(&config, settings)?;
        Ok(kiln_registry::command(
            &folder,
            config,
            command,
            Settings::clock(),
        )?)
    }
}

/// A number of a report.
pub(super) fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_default()
}
