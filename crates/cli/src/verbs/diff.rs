//! `kiln diff`: what a container changed.

use std::os::fd::{AsFd, OwnedFd};

use kiln_image::lower_directories;
use kiln_layer::{Change, ChangeKind, CommitError, LowerStack, Ownership, changes};
use kiln_sandbox::Privileges;
use serde_json::{Value, json};

use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::text;
use crate::verbs::Format;
use crate::workbench;

/// Show what a container changed in its root file system
///
/// A is for added, C for changed, D for deleted. Volumes and mounts are no part of it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// Choose the form of the listing
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// How often a tree that changes is looked at.
const TRIES: usize = 5;

/// Prints the list.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let entered = workbench::enter(settings)?;
    let session = &entered.session;
    let store = session.store();
    let container = find(store, &args.container)?;
    let ownership = match entered.host.privileges() {
        Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
        Privileges::Single { .. } => Ownership::Flatten,
    };
    let mut lowers = lower_directories(session, &container.config.layers, ownership)?;
    lowers.reverse();
    let opened: Vec<OwnedFd> = lowers
        .iter()
        .map(|path| open(path))
        .collect::<Outcome<_>>()?;
    let lower = LowerStack::new(&opened).map_err(|error| unreadable(&error))?;
    let upper = open(&store.containers().folder(container.id()).join("upper"))?;
    let mut found = changes(upper.as_fd(), &lower);
    for _ in 1..TRIES {
        // A container that runs may remove what was just listed.
        if matches!(found, Ok(_) | Err(CommitError::WhiteoutName(_))) {
            break;
        }
        found = changes(upper.as_fd(), &lower);
    }
    let found = found.map_err(|error| unreadable(&error))?;
    if args.format == Format::Json {
        let rows = found
            .iter()
            .map(|change| json!({ "Kind": letter(change), "Path": shown(change) }));
        return printer.json(&Value::Array(rows.collect()));
    }
    let lines = found
        .iter()
        .map(|change| format!("{} {}\n", letter(change), text::harmless(&shown(change))));
    printer.data(lines.collect::<String>())
}

fn letter(change: &Change) -> &'static str {
    match change.kind {
        ChangeKind::Added => "A",
        ChangeKind::Modified => "C",
        ChangeKind::Deleted => "D",
    }
}

fn shown(change: &Change) -> String {
    format!("/{}", String::from_utf8_lossy(change.path.as_bytes()))
}

pub(crate) fn open(path: &std::path::Path) -> Outcome<OwnedFd> {
    kiln_sys::confined::open_directory(path).map_err(|error| {
        let message = format!("cannot open `{}`: {error}", path.display());
        Failure::message(Class::Environment, message, None)
    })
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    let message = format!(
        "what the container changed cannot be read: {}",
        kiln_build::chain(error)
    );
    Failure::message(Class::Environment, message, None)
}
