//! Flags, environment and the user's settings file, resolved once.
//!
//! The only place that reads the environment or the clock. What a verb needs
//! of either is in [`Settings`] when it starts.
//!
//! Precedence, strongest first: flag, environment, settings file, default.

mod certificates;
mod user_file;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use kiln_manifest::Overrides;

use crate::app::{GlobalArgs, ProgressForm};
use crate::errors::{Class, Failure, Outcome};
use crate::notices::Listening;
use crate::printer;
use user_file::UserFile;

/// Width where no terminal says another.
const DEFAULT_COLUMNS: usize = 100;

/// Steps that run at once where nobody says another number: they wait more
/// than they compute.
const LEAST_JOBS: NonZeroUsize = NonZeroUsize::new(8).expect("8 is not 0");

/// The beginning of the variables that set arguments of the manifest.
const ARGUMENT_PREFIX: &str = "KILN_ARG_";

/// The environment of this process, as it was when kiln started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub(crate) fn read() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// All of them, as `NAME=value`, for this program executed again.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = OsString> {
        self.0.iter().map(|(name, value)| {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            pair
        })
    }

    /// A variable as it is.
    pub(crate) fn raw(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// A variable that is set, if it is text.
    pub(crate) fn exact(&self, name: &str) -> Option<&str> {
        self.raw(name).and_then(OsStr::to_str)
    }

    /// A variable that is set and not empty, if it is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.raw(name)
            .and_then(OsStr::to_str)
            .filter(|value| !value.is_empty())
    }

    /// A variable that is set and not empty, as a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.raw(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    }

    /// The folders of `PATH`, else those that every system has.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        match self.raw("PATH") {
            Some(path) => std::env::split_paths(path).collect(),
            None => ["/usr/bin", "/bin"].map(PathBuf::from).to_vec(),
        }
    }

    /// The first of two spellings that is set: programs disagree about the case of proxies.
    fn either(&self, one: &str, other: &str) -> Option<String> {
        self.text(one)
            .or_else(|| self.text(other))
            .map(str::to_owned)
    }

    /// An environment of exactly these variables.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
        Self(pairs.iter().map(owned).collect())
    }

    /// Variables that set arguments of the manifest, by their whole names.
    fn arguments(&self) -> BTreeMap<String, String> {
        self.0
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
            .filter(|(name, _)| name.starts_with(ARGUMENT_PREFIX))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

/// Everything a verb may want to know about how it was called.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// `-C`, else the working folder.
    pub(crate) directory: PathBuf,
    /// Whether `-C` was given: then no parent folder is searched.
    pub(crate) directory_is_given: bool,
    /// The store's folder; `None` if nothing says where it is, which many verbs do not need.
    pub(crate) home: Option<PathBuf>,
    /// What is said beside the manifest: `--set`, `--profile`, `KILN_ARG_*`.
    pub(crate) overrides: Overrides,
    /// Steps that run at once, unless the verb says another number.
    pub(crate) jobs: NonZeroUsize,
    /// Whether `CI` is set: nothing may be added to the lock then.
    pub(crate) is_ci: bool,
    /// `SOURCE_DATE_EPOCH`: seconds to which times in layers are clamped.
    pub(crate) epoch: Option<u64>,
    /// When kiln started.
    pub(crate) now: SystemTime,
    pub(crate) progress: ProgressForm,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    /// `KILN_LOG`, else as `--quiet` and `--verbose` say: what is told of all that libraries say.
    pub(crate) listening: Listening,
    pub(crate) stdin_is_terminal: bool,
    pub(crate) stdout_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
    /// Whether it is one that only writes one line after the other.
    pub(crate) stderr_is_dumb: bool,
    pub(crate) colour_on_stderr: bool,
    /// Width of messages.
    pub(crate) columns: usize,
    pub(crate) user: UserFile,
    pub(crate) environment: Environment,
}

impl Settings {
    /// Resolves what was typed against environment and settings file.
    ///
    /// # Errors
    /// The settings file is broken, or the working folder is gone.
    pub(crate) fn resolve(global: &GlobalArgs, environment: Environment) -> Outcome<Self> {
        let user = match settings_path(&environment) {
            Some(path) => user_file::read(&path)?,
            None => UserFile::default(),
        };
        let [stdin_is_terminal, stdout_is_terminal, stderr_is_terminal] = printer::terminals();
        #[expect(clippy::disallowed_methods, reason = "the one place that may")]
        let now = SystemTime::now();
        let is_dumb = environment.text("TERM") == Some("dumb");
        Ok(Self {
            directory: match &global.directory {
                Some(directory) => directory.clone(),
                None => working_folder()?,
            },
            directory_is_given: global.directory.is_some(),
            home: store_folder(&environment, &user),
            overrides: Overrides {
                host: kiln_oci::Platform::host(),
                platforms: Vec::new(),
                set: global.set.iter().cloned().collect(),
                environment: environment.arguments(),
                profiles: global.profile.clone(),
            },
            jobs: user.build.jobs.unwrap_or_else(default_jobs),
            is_ci: is_ci(&environment),
            epoch: epoch(&environment)?,
            now,
            progress: global.progress,
            quiet: global.quiet,
            verbose: global.verbose,
            listening: listening(global, &environment)?,
            stdin_is_terminal,
            stdout_is_terminal,
            stderr_is_terminal,
            stderr_is_dumb: is_dumb,
            colour_on_stderr: stderr_is_terminal
                && environment.text("NO_COLOR").is_none()
                && !is_dumb,
            columns: if stderr_is_terminal {
                printer::terminal_size().0
            } else {
                DEFAULT_COLUMNS
            },
            user,
            environment,
        })
    }

    /// Seconds since 1970 when kiln started.
    pub(crate) fn now_seconds(&self) -> u64 {
        self.now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_secs()
    }

    /// What the registry client has to know.
    pub(crate) fn registries(&self) -> kiln_client::Settings {
        let path = self.environment.raw("PATH").unwrap_or_default();
        kiln_client::Settings {
            registries: self.user.mirrors(),
            credentials: kiln_client::CredentialFiles {
                files: credential_files(&self.environment),
                helper_folders: std::env::split_paths(path).collect(),
            },
            ..kiln_client::Settings::default()
        }
    }

    /// A client for registries, which transfers at most `jobs` blobs at once if that is said.
    pub(crate) fn registry(&self, jobs: Option<NonZeroUsize>) -> kiln_client::Registry {
        let mut registries = self.registries();
        registries.jobs = jobs.unwrap_or(registries.jobs);
        kiln_client::Registry::new(kiln_http::Client::new(self.http()), registries)
    }

    /// Where a registry keeps everything, unless its settings say otherwise.
    pub(crate) fn registry_folder(&self) -> Option<PathBuf> {
        if is_root() {
            return Some(PathBuf::from("/var/lib/kiln-registry"));
        }
        data_folder(&self.environment).map(|data| data.join("kiln-registry"))
    }

    /// What tells the time to those who may not ask.
    #[expect(clippy::disallowed_methods, reason = "the one place that may")]
    pub(crate) fn clock() -> kiln_registry::Clock {
        std::sync::Arc::new(SystemTime::now)
    }

    /// The file that new credentials go to.
    pub(crate) fn credentials_home(&self) -> Option<PathBuf> {
        // Named in so many words, it need not exist yet.
        let named = self.environment.path("REGISTRY_AUTH_FILE");
        let credentials = self.registries().credentials;
        named.or_else(|| credentials.home().map(PathBuf::from))
    }

    /// What the HTTP client has to know.
    pub(crate) fn http(&self) -> kiln_http::Settings {
        let environment = &self.environment;
        let mut hosts = self.user.hosts();
        let found = certificates::hosts(&certificate_folders(environment));
        certificates::add(&mut hosts, found);
        let mut settings = kiln_http::Settings {
            proxies: kiln_http::Proxies {
                // As curl has it: `HTTP_PROXY` in capitals may come from a request header of a CGI.
                http: environment.either("http_proxy", "HTTP_PROXY"),
                https: environment.either("https_proxy", "HTTPS_PROXY"),
                no_proxy: environment.either("no_proxy", "NO_PROXY"),
            },
            roots: kiln_http::Roots {
                files: environment.path("SSL_CERT_FILE").into_iter().collect(),
                directories: environment.path("SSL_CERT_DIR").into_iter().collect(),
            },
            hosts,
            ..kiln_http::Settings::default()
        };
        let since = self
            .now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        settings.retry.seed = u64::from(since.subsec_nanos()) << 32 | u64::from(std::process::id());
        settings
    }
}

/// Where a user's programs have their settings.
fn configuration(environment: &Environment) -> Option<PathBuf> {
    environment
        .path("XDG_CONFIG_HOME")
        .or_else(|| environment.path("HOME").map(|home| home.join(".config")))
}

/// Where podman and docker have folders of certificates, most particular first.
fn certificate_folders(environment: &Environment) -> Vec<PathBuf> {
    let own = configuration(environment).map(|folder| folder.join("containers/certs.d"));
    let others = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    own.into_iter().chain(others).collect()
}

/// Where docker and podman keep credentials, most particular first.
fn credential_files(environment: &Environment) -> Vec<PathBuf> {
    let below = |folder: Option<PathBuf>, file: &str| folder.map(|folder| folder.join(file));
    let configuration = configuration(environment);
    let docker = environment
        .path("DOCKER_CONFIG")
        .or_else(|| below(environment.path("HOME"), ".docker"));
    [
        environment.path("REGISTRY_AUTH_FILE"),
        below(environment.path("XDG_RUNTIME_DIR"), "containers/auth.json"),
        below(configuration, "containers/auth.json"),
        below(docker, "config.json"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn working_folder() -> Outcome<PathBuf> {
    std::env::current_dir().map_err(|error| {
        Failure::message(
            Class::Environment,
            format!("the working folder cannot be read: {error}"),
            Some("change to a folder that exists".to_owned()),
        )
    })
}

/// Reads the value of `--jobs`.
///
/// # Errors
/// What to write instead.
pub(crate) fn jobs(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().or(Err("say a whole number from 1"))
}

/// At least [`LEAST_JOBS`], more on a machine with more processors.
fn default_jobs() -> NonZeroUsize {
    thread::available_parallelism().map_or(LEAST_JOBS, |processors| processors.max(LEAST_JOBS))
}

/// Whether a service for continuous integration started us.
fn is_ci(environment: &Environment) -> bool {
    environment
        .text("CI")
        .is_some_and(|value| value != "false" && value != "0")
}

fn listening(global: &GlobalArgs, environment: &Environment) -> Outcome<Listening> {
    match environment.text("KILN_LOG") {
        Some(text) => Listening::parse(text).ok_or_else(|| {
            Failure::message(
                Class::User,
                format!("`KILN_LOG` is `{text}`"),
                Some("set it to `off`, `warn` or `debug`, or unset it".to_owned()),
            )
        }),
        None if global.quiet => Ok(Listening::Off),
        None if global.verbose => Ok(Listening::Details),
        None => Ok(Listening::default()),
    }
}

fn epoch(environment: &Environment) -> Outcome<Option<u64>> {
    let Some(text) = environment.text("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    match text.parse() {
        Ok(seconds) => Ok(Some(seconds)),
        Err(error) => Err(Failure::message(
            Class::User,
            format!("`SOURCE_DATE_EPOCH` is `{text}`: {error}"),
            Some("set it to seconds since 1970, or unset it".to_owned()),
        )),
    }
}

fn settings_path(environment: &Environment) -> Option<PathBuf> {
    configuration(environment).map(|folder| folder.join("kiln/config.toml"))
}

/// The store's folder: `KILN_HOME`, the settings file, then by user.
fn store_folder(environment: &Environment, user: &UserFile) -> Option<PathBuf> {
    let said = environment
        .path("KILN_HOME")
        .or_else(|| user.store.path.clone());
    said.or_else(|| {
        if is_root() {
            return Some(PathBuf::from("/var/lib/kiln"));
        }
        data_folder(environment).map(|data| data.join("kiln"))
    })
}

/// Where programs of this user keep their data.
fn data_folder(environment: &Environment) -> Option<PathBuf> {
    environment.path("XDG_DATA_HOME").or_else(|| {
        environment
            .path("HOME")
            .map(|home| home.join(".local/share"))
    })
}

/// Whether this process belongs to root.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn kiln_home_wins_over_the_settings_file() {
        let mut user = UserFile::default();
        user.store.path = Some(PathBuf::from("/b"));
        let home = store_folder(&Environment::of(&[("KILN_HOME", "/a")]), &user).expect("a store");
        assert_eq!(home, Path::new("/a"));
        let home = store_folder(&Environment::of(&[]), &user).expect("a store");
        assert_eq!(home, Path::new("/b"));
    }

    #[test]
    fn an_empty_variable_is_an_unset_one() {
        assert_eq!(Environment::of(&[("NO_COLOR", "")]).text("NO_COLOR"), None);
        assert!(!is_ci(&Environment::of(&[("CI", "")])));
        assert!(!is_ci(&Environment::of(&[("CI", "false")])));
        assert!(is_ci(&Environment::of(&[("CI", "true")])));
    }

    #[test]
    fn an_epoch_that_is_no_number_is_an_error() {
        assert!(epoch(&Environment::of(&[("SOURCE_DATE_EPOCH", "soon")])).is_err());
        let seconds = epoch(&Environment::of(&[("SOURCE_DATE_EPOCH", "1")])).expect("a number");
        assert_eq!(seconds, Some(1));
    }

    #[test]
    fn only_variables_of_arguments_are_handed_on() {
        let found = Environment::of(&[("KILN_ARG_PORT", "1"), ("KILN_HOME", "/x"), ("PORT", "2")]);
        let names: Vec<String> = found.arguments().into_keys().collect();
        assert_eq!(names, ["KILN_ARG_PORT"]);
    }
}
