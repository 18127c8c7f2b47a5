//! Containers as listings show them: docker's words for states and times.

use std::time::Duration;

use jiff::Timestamp;
use kiln_runtime::{PlannedNetwork, PlannedSource, Status, StoredContainer};
use serde_json::{Value, json};

use crate::errors::{Class, Failure, Outcome};
use crate::ports::Places;
use crate::text;

/// Most characters of a command in a table.
const COMMAND_COLUMNS: usize = 20;

/// `5 seconds`, `About a minute`, `3 hours`: as docker says it.
pub(crate) fn about(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago that was.
pub(crate) fn since(time: Option<Timestamp>, now: Timestamp) -> Duration {
    let time = time.unwrap_or(now);
    Duration::try_from(now.duration_since(time)).unwrap_or(Duration::ZERO)
}

/// What a container is doing, as docker's `STATUS` says it.
pub(crate) fn status(container: &StoredContainer, now: Timestamp) -> String {
    let state = &container.state;
    let code = state.exit_code(container.status);
    let up = || format!("Up {}", about(since(state.started, now)));
    match container.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match &state.health {
            Some(health) if health.status == kiln_runtime::HealthStatus::Starting => {
                format!("{} (health: starting)", up())
            }
            Some(health) => format!("{} ({})", up(), health.status.as_str()),
            None => up(),
        },
        Status::Paused => format!("{} (Paused)", up()),
        Status::Restarting => {
            format!(
                "Restarting ({code}) {} ago",
                about(since(state.finished, now))
            )
        }
        Status::Exited => {
            // Whoever ran it may have been killed before it could note the time.
            let ended = state.finished.or(state.started);
            format!("Exited ({code}) {} ago", about(since(ended, now)))
        }
    }
}

/// Whether ids and commands are shown whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// As far as they are useful.
    Cut,
    /// Whole.
    Whole,
}

/// What a container runs, in quotes.
pub(crate) fn command(container: &StoredContainer, width: Width) -> String {
    let words = container.config.plan.argv.join(" ");
    let words = text::harmless(&words.replace('\n', " "));
    match width {
        Width::Cut => format!("\"{}\"", text::cut(&words, COMMAND_COLUMNS)),
        Width::Whole => format!("\"{words}\""),
    }
}

/// Its id.
pub(crate) fn id(container: &StoredContainer, width: Width) -> String {
    match width {
        Width::Cut => container.id().short().to_owned(),
        Width::Whole => container.id().to_string(),
    }
}

/// One container as JSON, with docker's names.
pub(crate) fn row_json(container: &StoredContainer, places: &Places, now: Timestamp) -> Value {
    let config = &container.config;
    let mounts = config.plan.mounts.values();
    let mounts: Vec<String> = mounts.map(|mount| source_text(&mount.source)).collect();
    json!({
        "ID": container.id(),
        "Names": container.display_name(),
        "Image": config.image,
        "Command": command(container, Width::Whole),
        "CreatedAt": config.created,
        "RunningFor": format!("{} ago", about(since(Some(config.created), now))),
        "State": container.status.as_str(),
        "Status": status(container, now),
        "Ports": places.column(container),
        "Labels": config.labels,
        "Mounts": mounts,
        "Pid": container.state.process.filter(|_| is_alive(container)).map(|(pid, _)| pid),
        "ExitCode": container.state.exit_code(container.status),
    })
}

/// The networks it is made for, by name.
pub(crate) fn networks(container: &StoredContainer) -> Vec<String> {
    match &container.config.plan.network {
        PlannedNetwork::None => vec!["none".to_owned()],
        PlannedNetwork::Host => vec!["host".to_owned()],
        // As docker has it: the networks are the other's.
        PlannedNetwork::Container(_) => Vec::new(),
        PlannedNetwork::Bridges(memberships) => {
            let names = memberships.iter().map(|one| one.network.clone());
            names.collect()
        }
    }
}

/// Whether it has a first process.
pub(crate) fn is_alive(container: &StoredContainer) -> bool {
    matches!(container.status, Status::Running | Status::Paused)
}

/// What a mount shows, in a word.
pub(crate) fn source_text(source: &PlannedSource) -> String {
    match source {
        PlannedSource::Project(path) => path.clone(),
        PlannedSource::Host(path) | PlannedSource::Device(path) => path.display().to_string(),
        PlannedSource::Volume(name) => name.to_string(),
        PlannedSource::Tmpfs(_) => "tmpfs".to_owned(),
    }
}

/// Conditions on containers: those for one key are alternatives, those for several keys must all hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filters(Vec<(String, String)>);

/// The keys, for whoever misspelt one.
const KEYS: [&str; 12] = [
    "id",
    "name",
    "label",
    "status",
    "exited",
    "ancestor",
    "before",
    "since",
    "volume",
    "network",
    "health",
    "restart-policy",
];

impl Filters {
    /// Reads `KEY=VALUE` texts.
    ///
    /// # Errors
    /// A key that there is not, or a value that it cannot have.
    pub(crate) fn parse(texts: &[String]) -> Outcome<Self> {
        let known = KEYS;
        let mut filters = Vec::new();
        for text in texts {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            let wrong = |message: String, help: String| {
                Err(Failure::message(Class::User, message, Some(help)))
            };
            if !known.contains(&key) || value.is_empty() {
                let help = format!("write KEY=VALUE with one of {}", known.join(", "));
                return wrong(format!("`{text}` is not a filter"), help);
            }
            let states = Status::ALL.map(Status::as_str);
            if key == "status" && !states.contains(&value) {
                let help = format!("there are {}", states.join(", "));
                return wrong(format!("no container is ever `{value}`"), help);
            }
            if key == "exited" && value.parse::<i32>().is_err() {
                let help = "write a number, such as exited=0".to_owned();
                return wrong(format!("`{value}` is no exit code"), help);
            }
            filters.push((key.to_owned(), value.to_owned()));
        }
        Ok(Self(filters))
    }

    /// Whether they say something about what containers do: then those that have ended are meant, too.
    pub(crate) fn mention_states(&self) -> bool {
        self.0
            .iter()
            .any(|(key, _)| matches!(key.as_str(), "status" | "exited"))
    }

    /// Those of `all` for which they hold.
    ///
    /// # Errors
    /// `before` or `since` name a container that is not there.
    pub(crate) fn choose(&self, all: Vec<StoredContainer>) -> Outcome<Vec<StoredContainer>> {
        let mut times = Vec::new();
        for (key, value) in &self.0 {
            if !matches!(key.as_str(), "before" | "since") {
                continue;
            }
            let meant = all.iter().find(|it| {
                it.display_name() == *value || it.id().as_str().starts_with(value.as_str())
            });
            let missing = || {
                let message = format!("there is no container `{value}`");
                Failure::message(Class::User, message, None)
            };
            times.push((key.as_str(), meant.ok_or_else(missing)?.config.created));
        }
        let wanted = |it: &StoredContainer| {
            let in_time = times.iter().all(|(key, time)| match *key {
                "before" => it.config.created < *time,
                _ => it.config.created > *time,
            });
            in_time
                && KEYS.iter().all(|key| {
                    let mut values = self.0.iter().filter(|(it, _)| it == key).peekable();
                    values.peek().is_none() || values.any(|(_, value)| holds(it, key, value))
                })
        };
        Ok(all.into_iter().filter(wanted).collect())
    }
}

fn holds(container: &StoredContainer, key: &str, value: &str) -> bool {
    let config = &container.config;
    match key {
        "id" => container.id().as_str().starts_with(value),
        "name" => container
            .display_name()
            .contains(value.trim_start_matches('/')),
        "label" => match value.split_once('=') {
            Some((name, value)) => config.labels.get(name).is_some_and(|it| it == value),
            None => config.labels.contains_key(value),
        },
        "status" => container.status.as_str() == value,
        "exited" => {
            container.status == Status::Exited
                && value.parse() == Ok(container.state.exit_code(Status::Exited))
        }
        "ancestor" => {
            let id = config.image_id.map(|id| id.hex()).unwrap_or_default();
            config.image == value
                || config.image.split(':').next() == Some(value)
                || value.len() >= 4 && id.starts_with(value.trim_start_matches("sha256:"))
        }
        "volume" => config
            .plan
            .mounts
            .iter()
            .any(|(target, mount)| target == value || source_text(&mount.source) == value),
        "network" => networks(container).iter().any(|name| name == value),
        "health" => match &container.state.health {
            Some(health) => health.status.as_str() == value,
            None => value == "none",
        },
        "restart-policy" => {
            let policy = config.restart.to_string();
            policy.split(':').next() == Some(value)
        }
        // Looked at before.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_docker_does() {
        let said = |seconds| about(Duration::from_secs(seconds));
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3600, "About an hour"),
            (3600 * 5, "5 hours"),
            (3600 * 24 * 3, "3 days"),
            (3600 * 24 * 20, "2 weeks"),
            (3600 * 24 * 90, "3 months"),
            (3600 * 24 * 365 * 3, "3 years"),
        ] {
            assert_eq!(said(seconds), text);
        }
    }

    #[test]
    fn filters_that_mean_nothing_are_refused() {
        let parse = |text: &str| Filters::parse(&[text.to_owned()]).is_ok();
        for text in [
            "name=x",
            "status=exited",
            "exited=3",
            "label=a=b",
            "network=x",
        ] {
            assert!(parse(text), "{text}");
        }
        for text in ["", "nam=x", "name", "name=", "status=dead", "exited=x"] {
            assert!(!parse(text), "{text}");
        }
    }
}
