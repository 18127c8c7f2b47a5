//! How a container lives: its name, what happens when it ends, where its output goes, whether it is well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kiln_manifest::value::TimeSpan;
use kiln_oci::RunConfig;
use kiln_runtime::{DetachKeys, HealthCheck, HttpProbe, LogOptions, Probe, RestartPolicy, shell};

use crate::container::read_lines;
use crate::errors::{Class, Failure, Outcome};
use crate::measures::size;
use crate::settings::Settings;

/// Flags that `run` and `create` share.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Life")]
pub(crate) struct LifeArgs {
    /// Name the container
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Remove the container when it has ended
    #[arg(long)]
    pub(crate) rm: bool,

    /// Start it again when it ends: `no`, `on-failure[:NUMBER]`, `always` or `unless-stopped`
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub(crate) restart: RestartPolicy,

    /// Note something about it
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,

    /// Note what a file of NAME=VALUE lines says
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,

    /// Write its id to a file that is not there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,

    /// Choose whether its output is kept
    #[arg(long, value_name = "DRIVER", default_value = "json-file")]
    log_driver: LogDriver,

    /// Limit the log: max-size=SIZE begins the next file, of max-file=NUMBER that are kept
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,

    /// Ask it whether it is well by a command in it
    #[arg(long, value_name = "SCRIPT", conflicts_with_all = ["health_http", "health_tcp"])]
    health_cmd: Option<String>,

    /// Ask its web server, from outside the image, such as http://localhost:8000/healthz
    #[arg(long, value_name = "URL", value_parser = HttpProbe::parse, conflicts_with = "health_tcp")]
    health_http: Option<HttpProbe>,

    /// Ask whether a port of it takes connections, from outside the image
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    health_tcp: Option<u16>,

    /// Wait this long between two questions [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    health_interval: Option<Duration>,

    /// Wait this long for an answer [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    health_timeout: Option<Duration>,

    /// Let bad answers not count for this long after the start
    #[arg(long, value_name = "TIME", value_parser = time)]
    health_start_period: Option<Duration>,

    /// Wait this long between two questions until then, as long as no answer was good [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    health_start_interval: Option<Duration>,

    /// Take it for unhealthy after so many bad answers in a row [default: 3]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    health_retries: Option<u32>,

    /// Do not ask, even if the image wants it
    #[arg(long, conflicts_with_all = ["health_cmd", "health_http", "health_tcp"])]
    no_healthcheck: bool,
}

/// The size and number of files that docker's `local` has if nobody says more.
const LOCAL_LOG: (Option<u64>, u32) = (Some(20 << 20), 5);

/// Whether output is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogDriver {
    /// In files of JSON lines
    #[default]
    JsonFile,
    /// The same, in at most 5 files of 20 MiB
    Local,
    /// Not at all
    None,
}

/// The keys that leave a container alone.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DetachArgs {
    /// Leave the container alone with these keys, such as ctrl-x,q; none if empty [default: ctrl-p,ctrl-q]
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<DetachKeys>,
}

impl DetachArgs {
    /// Those that were typed, else the user's settings', else docker's.
    pub(crate) fn keys(&self, settings: &Settings) -> DetachKeys {
        let settled = settings.user.run.detach_keys.as_ref();
        let settled = settled.map(|keys| keys.0.clone());
        self.detach_keys.clone().or(settled).unwrap_or_default()
    }
}

fn time(text: &str) -> Result<Duration, String> {
    TimeSpan::parse(text)
        .map(|time| time.0)
        .map_err(|error| format!("it {error}; {}", error.help))
}

impl LifeArgs {
    /// What is noted about it, the image's notes included.
    ///
    /// # Errors
    /// A label without a name.
    pub(crate) fn labels(&self, image: &RunConfig) -> Outcome<BTreeMap<String, String>> {
        let mut labels = image.labels.clone();
        for path in &self.label_file {
            labels.extend(parse_labels(&read_lines(path, "--label-file")?)?);
        }
        labels.extend(parse_labels(&self.label)?);
        Ok(labels)
    }

    /// Where its output goes.
    ///
    /// # Errors
    /// An option that there is not.
    pub(crate) fn log(&self) -> Outcome<LogOptions> {
        let help = "write max-size=10MB or max-file=3";
        let wrong = |message: String| Failure::message(Class::User, message, Some(help.to_owned()));
        let mut options = LogOptions {
            kept: self.log_driver != LogDriver::None,
            ..LogOptions::default()
        };
        if self.log_driver == LogDriver::Local {
            (options.max_bytes, options.max_files) = LOCAL_LOG;
        }
        if let (LogDriver::None, Some(option)) = (self.log_driver, self.log_opt.first()) {
            let message = format!("output that is not kept has no option `{option}`");
            let help = "leave out --log-opt, or --log-driver none";
            return Err(Failure::message(
                Class::User,
                message,
                Some(help.to_owned()),
            ));
        }
        for text in &self.log_opt {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            match name {
                "max-size" => {
                    let size = size(value).ok().filter(|size| *size > 0);
                    let size =
                        size.ok_or_else(|| wrong(format!("`{value}` is not the size of a log")))?;
                    options.max_bytes = Some(size);
                }
                "max-file" => {
                    let count = value
                        .parse()
                        .ok()
                        .filter(|count| (1..=1000).contains(count));
                    options.max_files = count
                        .ok_or_else(|| wrong(format!("`{value}` is not a number of log files")))?;
                }
                _ => return Err(wrong(format!("a log has no option `{name}`"))),
            }
        }
        if options.max_files > 1 && options.max_bytes.is_none() {
            return Err(wrong("a number of log files needs a size".to_owned()));
        }
        Ok(options)
    }

    /// How to find out whether it is well.
    pub(crate) fn health(&self, image: &RunConfig) -> Option<HealthCheck> {
        if self.no_healthcheck {
            return None;
        }
        let asked = match (&self.health_cmd, &self.health_http, self.health_tcp) {
            (Some(script), _, _) => Some(Probe::Command(shell(script))),
            (None, Some(probe), _) => Some(Probe::Http(probe.clone())),
            (None, None, Some(port)) => Some(Probe::Tcp(port)),
            (None, None, None) => None,
        };
        let of_image = image.healthcheck.as_ref().and_then(HealthCheck::of_image);
        let mut check = asked.map(HealthCheck::new).or(of_image)?;
        check.interval = self.health_interval.unwrap_or(check.interval);
        check.timeout = self.health_timeout.unwrap_or(check.timeout);
        check.start_period = self.health_start_period.unwrap_or(check.start_period);
        check.start_interval = self.health_start_interval.unwrap_or(check.start_interval);
        check.retries = self.health_retries.unwrap_or(check.retries);
        Some(check)
    }
}

/// Reads `NAME=VALUE` pairs; a name alone has an empty value.
///
/// # Errors
/// A label without a name.
pub(crate) fn parse_labels(texts: &[String]) -> Outcome<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            let message = format!("the label `{text}` has no name");
            return Err(Failure::message(Class::User, message, None));
        }
        labels.insert(name.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_logs_are_checked() {
        let log = |options: &[&str]| {
            let args = LifeArgs {
                log_opt: options.iter().map(|&text| text.to_owned()).collect(),
                ..LifeArgs::default()
            };
            args.log().map(|log| (log.max_bytes, log.max_files))
        };
        assert_eq!(log(&[]).ok(), Some((None, 1)));
        let three = log(&["max-size=1k", "max-file=3"]).ok();
        assert_eq!(three, Some((Some(1024), 3)));
        for wrong in [
            &["max-file=3"] as &[&str],
            &["max-size=x"],
            &["tag=x"],
            &["x"],
        ] {
            assert!(log(wrong).is_err(), "{wrong:?}");
        }
        let driver = |log_driver, options: &[&str]| {
            let args = LifeArgs {
                log_driver,
                log_opt: options.iter().map(|&text| text.to_owned()).collect(),
                ..LifeArgs::default()
            };
            let log = args.log().ok();
            log.map(|log| (log.kept, log.max_bytes, log.max_files))
        };
        let local = Some((true, Some(20 << 20), 5));
        assert_eq!(driver(LogDriver::Local, &[]), local);
        let smaller = Some((true, Some(1024), 5));
        assert_eq!(driver(LogDriver::Local, &["max-size=1k"]), smaller);
        assert_eq!(driver(LogDriver::None, &[]), Some((false, None, 1)));
        assert_eq!(driver(LogDriver::None, &["max-size=1k"]), None);
    }

    #[test]
    fn what_is_asked_wins_over_the_image() {
        let image = RunConfig {
            healthcheck: Some(kiln_oci::Healthcheck {
                test: ["CMD", "true"].map(str::to_owned).to_vec(),
                ..Default::default()
            }),
            ..RunConfig::default()
        };
        let mut args = LifeArgs::default();
        let command = Probe::Command(vec!["true".to_owned()]);
        assert_eq!(args.health(&image).map(|it| it.probe), Some(command));
        assert_eq!(args.health(&RunConfig::default()), None);
        args.health_retries = Some(7);
        args.health_tcp = Some(80);
        let check = args.health(&image).expect("a check");
        assert_eq!((check.probe, check.retries), (Probe::Tcp(80), 7));
        args.no_healthcheck = true;
        assert_eq!(args.health(&image), None);
    }
}
