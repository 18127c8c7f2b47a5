//! Where the project is, and what its files say.

use std::path::{Path, PathBuf};

use crate::errors::{Class, Failure, Outcome};
use crate::settings::Settings;

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "kiln.toml";

/// Finds the project's folder: `-C` as it is, else the nearest `kiln.toml`
/// upwards from the working folder.
///
/// # Errors
/// There is none.
pub(crate) fn find_folder(settings: &Settings) -> Outcome<PathBuf> {
    let start = &settings.directory;
    let found = if settings.directory_is_given {
        start.join(MANIFEST).is_file().then_some(start.as_path())
    } else {
        start
            .ancestors()
            .find(|folder| folder.join(MANIFEST).is_file())
    };
    found
        .map(Path::to_path_buf)
        .ok_or_else(|| missing(start, settings.directory_is_given))
}

fn missing(start: &Path, is_given: bool) -> Failure {
    let message = if is_given {
        format!("there is no `{MANIFEST}` in `{}`", start.display())
    } else {
        format!(
            "there is no `{MANIFEST}` in `{}` or above it",
            start.display()
        )
    };
    let help = if is_given {
        format!("write one: kiln init -C {}", start.display())
    } else {
        "write one: kiln init".to_owned()
    };
    Failure::message(Class::User, message, Some(help))
}
