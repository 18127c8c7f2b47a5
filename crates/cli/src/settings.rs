//! Flags, environment and the user's settings file, resolved once.
//!
//! The only place that reads the environment or the clock. What a verb needs
//! of either is in [`Settings`] when it starts.
//!
//! Precedence, strongest first: flag, environment, settings file, default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::app::{GlobalArgs, ProgressForm};
use crate::errors::{Class, Failure, Outcome};
use crate::printer;

/// Width where no terminal says another.
const DEFAULT_COLUMNS: usize = 100;

/// The environment of this process, as it was when kiln started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub(crate) fn read() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// A variable that is set and not empty, if it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0
            .get(std::ffi::OsStr::new(name))
            .and_then(|value| value.to_str())
            .filter(|value| !value.is_empty())
    }

    /// A variable that is set and not empty, as a path.
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.0
            .get(std::ffi::OsStr::new(name))
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }
}

/// What the user's `kiln/config.toml` says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserFile {
    /// `[store]`
    pub(crate) store: UserStore,
}

/// `[store]` of the user's settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct UserStore {
    /// Where the store is, unless `KILN_HOME` says it.
    pub(crate) path: Option<PathBuf>,
}

/// Everything a verb may want to know about how it was called.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `-C`, else the working folder.
    pub(crate) directory: PathBuf,
    /// Whether `-C` was given: then no parent folder is searched.
    pub(crate) directory_is_given: bool,
    /// The store's folder.
    pub(crate) home: PathBuf,
    pub(crate) profile: Option<String>,
    pub(crate) set: BTreeMap<String, String>,
    pub(crate) progress: ProgressForm,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    pub(crate) stderr_is_terminal: bool,
    pub(crate) colour_on_stderr: bool,
    /// Width of the terminal.
    pub(crate) columns: usize,
    pub(crate) environment: Environment,
}

impl Settings {
    /// Resolves what was typed against environment and settings file.
    ///
    /// # Errors
    /// The settings file is broken, or the working folder is gone.
    pub(crate) fn resolve(global: &GlobalArgs, environment: Environment) -> Outcome<Self> {
        let user = read_user_file(&environment)?;
        let (_, stderr_is_terminal) = printer::terminals();
        let directory = match &global.directory {
            Some(directory) => directory.clone(),
            None => std::env::current_dir().map_err(|error| {
                Failure::message(
                    Class::Environment,
                    format!("the working folder cannot be read: {error}"),
                    Some("change to a folder that exists".to_owned()),
                )
            })?,
        };
        Ok(Self {
            directory,
            directory_is_given: global.directory.is_some(),
            home: store_folder(&environment, &user)?,
            profile: global.profile.clone(),
            set: global.set.iter().cloned().collect(),
            progress: global.progress,
            quiet: global.quiet,
            verbose: global.verbose,
            stderr_is_terminal,
            colour_on_stderr: stderr_is_terminal
                && environment.text("NO_COLOR").is_none()
                && environment.text("TERM") != Some("dumb"),
            columns: environment
                .text("COLUMNS")
                .and_then(|columns| columns.parse().ok())
                .unwrap_or(DEFAULT_COLUMNS),
            environment,
        })
    }
}

/// The store's folder: `KILN_HOME`, the settings file, then by user.
fn store_folder(environment: &Environment, user: &UserFile) -> Outcome<PathBuf> {
    if let Some(home) = environment.path("KILN_HOME") {
        return Ok(home);
    }
    if let Some(path) = &user.store.path {
        return Ok(path.clone());
    }
    if is_root() {
        return Ok(PathBuf::from("/var/lib/kiln"));
    }
    environment
        .path("XDG_DATA_HOME")
        .or_else(|| {
            environment
                .path("HOME")
                .map(|home| home.join(".local/share"))
        })
        .map(|data| data.join("kiln"))
        .ok_or_else(|| {
            Failure::message(
                Class::Environment,
                "there is no folder for the store: neither `KILN_HOME` nor `HOME` is set",
                Some("set `KILN_HOME` to a folder with enough room".to_owned()),
            )
        })
}

/// Whether this process belongs to root.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Reads `$XDG_CONFIG_HOME/kiln/config.toml`; nothing there is fine.
fn read_user_file(environment: &Environment) -> Outcome<UserFile> {
    let folder = environment
        .path("XDG_CONFIG_HOME")
        .or_else(|| environment.path("HOME").map(|home| home.join(".config")));
    let Some(folder) = folder else {
        return Ok(UserFile::default());
    };
    let path = folder.join("kiln/config.toml");
    match fs::read_to_string(&path) {
        Ok(text) => parse_user_file(&path, &text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(UserFile::default()),
        Err(error) => Err(Failure::message(
            Class::Environment,
            format!("`{}`: {error}", path.display()),
            None,
        )),
    }
}

fn parse_user_file(path: &Path, text: &str) -> Outcome<UserFile> {
    toml::from_str(text).map_err(|error| {
        Failure::message(
            Class::User,
            format!("`{}`: {}", path.display(), error.to_string().trim_end()),
            Some("these are your own settings, not the project's".to_owned()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment(
            pairs
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)))
                .collect(),
        )
    }

    #[test]
    fn kiln_home_wins_over_the_settings_file() {
        let user = parse_user_file(Path::new("c"), "[store]\npath = \"/b\"").expect("valid");
        let home = store_folder(&environment(&[("KILN_HOME", "/a")]), &user).expect("a store");
        assert_eq!(home, Path::new("/a"));
        let home = store_folder(&environment(&[]), &user).expect("a store");
        assert_eq!(home, Path::new("/b"));
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_the_file() {
        let failure = parse_user_file(Path::new("/c/config.toml"), "sotre = 1").expect_err("typo");
        assert!(failure.report.to_string().contains("/c/config.toml"));
        assert_eq!(failure.class, Class::User);
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        assert_eq!(environment(&[("NO_COLOR", "")]).text("NO_COLOR"), None);
    }
}
