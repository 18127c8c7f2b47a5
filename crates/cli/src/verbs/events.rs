//! `kiln events`: what happens to containers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kiln_runtime::Event;
use kiln_store::Store;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use serde_json::{Value, json};

use crate::errors::{Class, Failure, Outcome};
use crate::form::Form;
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::tasks;
use crate::text;
use crate::verbs::logs::When;

/// Show what happens to containers, until it is interrupted
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln events
  kiln events --since 10m --until 0s --filter container=web
  kiln events --format json | jq -r .Action")]
pub(crate) struct Args {
    /// What happened since then, too: a time, or so long ago
    #[arg(long, value_name = "TIME", value_parser = When::parse)]
    since: Option<When>,

    /// End there: a time, or so long ago
    #[arg(long, value_name = "TIME", value_parser = until)]
    until: Option<When>,

    /// Only this: container=NAME, event=ACTION, image=NAME, label=NAME[=VALUE], type=container
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,

    /// Choose the form: `text`, `json` for a line of JSON for each event, or a template of docker's, such as '{{.Action}}'
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse_line)]
    format: Form,
}

/// Reads a point in time; `0s` is now.
fn until(text: &str) -> Result<When, String> {
    match text {
        "0s" | "now" => Ok(When::Ago(std::time::Duration::ZERO)),
        text => When::parse(text),
    }
}

/// How long to wait at most before looking at the clock.
const PAUSE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// Prints them.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let filters = parse_filters(&args.filter)?;
    let now = tasks::clock();
    let since = args.since.map_or(now, |time| time.resolve(now));
    let until = args.until.map(|time| time.resolve(now));
    let failed = |error: rustix::io::Errno| {
        let message = format!("events cannot be watched: {error}");
        Failure::message(Class::Environment, message, None)
    };
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)
        .map_err(failed)?;
    let [file, _] = store.events().files();
    let folder: PathBuf = file.parent().map(PathBuf::from).unwrap_or_default();
    std::fs::create_dir_all(&folder).map_err(|error| {
        let message = format!("`{}`: {error}", folder.display());
        Failure::message(Class::Environment, message, None)
    })?;
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, &folder, changes).map_err(failed)?;
    let mut seen = Seen::default();
    loop {
        let is_over = until.is_some_and(|until| tasks::clock() >= until);
        for event in seen.new_ones(&store)? {
            let time = event.timestamp();
            let in_time = time >= since && until.is_none_or(|until| time < until);
            if in_time && wanted(&event, &filters) {
                print(&event, &args.format, printer)?;
            }
        }
        if is_over {
            return Ok(());
        }
        let mut polls = [PollFd::new(&watch, PollFlags::IN)];
        let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, Some(&PAUSE)));
        if ready.map_err(failed)? > 0 {
            let mut buffer = [0_u8; 4096];
            match rustix::io::read(&watch, &mut buffer) {
                Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// How often each line was seen: the files only grow, and begin anew.
#[derive(Default)]
struct Seen {
    last: Option<String>,
    count: usize,
}

impl Seen {
    fn new_ones(&mut self, store: &Store) -> Outcome<Vec<Event>> {
        let lines = store.events().lines()?;
        // Where it was; the older file may have gone since.
        let start = match &self.last {
            None => 0,
            Some(last) if lines.get(self.count - 1) == Some(last) => self.count,
            Some(last) => lines
                .iter()
                .rposition(|line| line == last)
                .map_or(0, |at| at + 1),
        };
        let new = &lines[start.min(lines.len())..];
        let events = new
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        self.count = lines.len();
        self.last = lines.last().cloned();
        Ok(events)
    }
}

fn parse_filters(texts: &[String]) -> Outcome<BTreeMap<String, Vec<String>>> {
    const KEYS: [&str; 5] = ["container", "event", "image", "label", "type"];
    let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in texts {
        match text.split_once('=') {
            Some((key, value)) if KEYS.contains(&key) && !value.is_empty() => {
                filters
                    .entry(key.to_owned())
                    .or_default()
                    .push(value.to_owned());
            }
            _ => {
                let message = format!("`{text}` is not a filter");
                let help = format!("write KEY=VALUE with one of {}", KEYS.join(", "));
                return Err(Failure::message(Class::User, message, Some(help)));
            }
        }
    }
    Ok(filters)
}

fn wanted(event: &Event, filters: &BTreeMap<String, Vec<String>>) -> bool {
    let attributes = &event.actor.attributes;
    let is = |key: &str, value: &str| attributes.get(key).is_some_and(|it| it == value);
    filters.iter().all(|(key, values)| {
        values.iter().any(|value| match key.as_str() {
            "container" => is("name", value) || event.actor.id.starts_with(value.as_str()),
            "event" => event.action.split(':').next() == Some(value) || event.action == *value,
            "image" => is("image", value),
            "type" => event.kind == *value,
            _ => match value.split_once('=') {
                Some((name, value)) => is(name, value),
                None => attributes.contains_key(value),
            },
        })
    })
}

fn print(event: &Event, format: &Form, printer: &mut Printer) -> Outcome {
    match format {
        Form::Text => {}
        Form::Json => {
            let line = serde_json::to_string(event).expect("events have only text keys");
            return printer.line(line);
        }
        Form::Filled(filling) => return printer.line(filling.line(&fields(event))?),
    }
    let attributes = event.actor.attributes.iter();
    let attributes: Vec<String> = attributes
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let line = format!(
        "{:.9} {} {} {} ({})",
        event.timestamp(),
        event.kind,
        event.action,
        event.actor.id,
        attributes.join(", ")
    );
    printer.line(text::harmless(&line.replace('\n', " ")))
}

/// An event as templates of docker's see it.
fn fields(event: &Event) -> Value {
    let mut fields = json!(event);
    fields["ID"] = json!(event.actor.id);
    fields["Status"] = json!(event.action);
    fields["From"] = json!(event.actor.attributes.get("image"));
    fields["Time"] = json!(event.time);
    fields["TimeNano"] = json!(event.time_nanoseconds);
    fields
}
