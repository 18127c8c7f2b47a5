//! `kiln commit`: a container's changes become an image.

mod change;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kiln_image::{Assembly, Image, NewLayer, assemble, lower_directories};
use kiln_layer::{CommitOptions, LowerStack, Ownership, replicate};
use kiln_oci::{Platform, Reference};
use kiln_runtime::{Status, StoredContainer};
use kiln_sandbox::{Group, Privileges};
use kiln_store::{LayerRecord, Origin, Session, Timestamp};

use crate::containers::find;
use crate::errors::{Class, Failure, Outcome};
use crate::printer::Printer;
use crate::settings::Settings;
use crate::verbs::diff::open;
use crate::workbench;

/// Make an image of what a container changed: one layer on top of its image's
///
/// A container that runs stands still meanwhile. Volumes and mounts are no
/// part of the image. What can be said in kiln.toml is better said there: such
/// an image cannot be built again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln commit box localhost/box
  kiln commit -c 'CMD serve' -c 'ENV MODE=test' box localhost/box
  kiln commit -m 'with a fix' box registry.example.com/team/box:fixed")]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// What the image is called
    reference: Option<Reference>,

    /// Say in its history what it is
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,

    /// Say who made it
    #[arg(short, long, value_name = "TEXT")]
    author: Option<String>,

    /// Change how containers of it start, by an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,

    /// Let the container stand still meanwhile [default: true]
    #[arg(
        short,
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        conflicts_with = "no_pause"
    )]
    pause: Option<bool>,

    /// Do not let the container stand still meanwhile
    #[arg(long)]
    no_pause: bool,
}

/// Makes it, and prints its digest.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let changes = change::read_all(&args.change)?;
    let entered = workbench::enter(settings)?;
    let session = entered.session;
    let container = find(session.store(), &args.container)?;
    let descriptor = container.config.manifest.as_ref().ok_or_else(|| {
        let message = "this container is of a step, which has no image to add to";
        Failure::message(Class::User, message, None)
    })?;
    let platform = container.config.platform.clone();
    let platform = platform.unwrap_or_else(Platform::host);
    let base = Image::load(session.store(), descriptor, &platform)?;
    base.pin(&session)?;
    let ownership = match entered.host.privileges() {
        Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
        Privileges::Single { .. } => Ownership::Flatten,
    };
    let created_by = args.message.clone().unwrap_or_else(|| {
        let name = container.display_name();
        format!(
            "kiln commit {name}: {}",
            container.config.plan.argv.join(" ")
        )
    });
    let pauses = args.pause.unwrap_or(!args.no_pause);
    let layer = layer(&session, &container, ownership, pauses)?;
    let record = LayerRecord {
        diff_id: layer.0,
        tar_size_bytes: layer.1,
        origin: Origin::Built,
    };
    let assembly = Assembly {
        platform: base.config.platform.clone(),
        base: Some(&base),
        layers: vec![NewLayer { record, created_by }],
        changes,
        epoch: Timestamp::from_seconds(settings.epoch.unwrap_or_else(|| settings.now_seconds())),
        author: args.author.clone(),
    };
    let image = assemble(&session, &assembly)?;
    session.sync()?;
    if let Some(reference) = &args.reference {
        let names = [(reference.clone(), image.descriptor.clone())];
        session.store().references().set(&session, &names.into())?;
    }
    let id = image.id().0;
    session.finish()?;
    printer.line(id.to_string())
}

/// Publishes the container's changes as a layer; returns its DiffId and the length of its tar.
fn layer(
    session: &Session,
    container: &StoredContainer,
    ownership: Ownership,
    pauses: bool,
) -> Outcome<(kiln_oci::DiffId, u64)> {
    let store = session.store();
    let mut lowers = lower_directories(session, &container.config.layers, ownership)?;
    lowers.reverse();
    let opened: Vec<OwnedFd> = lowers
        .iter()
        .map(|path| open(path))
        .collect::<Outcome<_>>()?;
    let failed = |error: &dyn std::error::Error| {
        Failure::message(Class::Environment, kiln_build::chain(error), None)
    };
    let lower = LowerStack::new(&opened).map_err(|error| failed(&error))?;
    let draft = store.layers().draft(session)?;
    let upper = store.containers().folder(container.id()).join("upper");
    {
        let _still = Still::of(container, pauses);
        let (from, to) = (open(&upper)?, open(Path::new(&draft.fs()))?);
        replicate(from.as_fd(), to.as_fd()).map_err(|error| failed(&error))?;
    }
    let folder = open(Path::new(&draft.fs()))?;
    let options = CommitOptions {
        epoch: i64::MAX,
        ownership,
        ..CommitOptions::default()
    };
    let committed = kiln_layer::commit(folder.as_fd(), &lower, options)
        .map_err(|error| Failure::from_error(Class::User, error))?;
    let record = LayerRecord {
        diff_id: committed.diff_id,
        tar_size_bytes: committed.tar_size_bytes,
        origin: Origin::Built,
    };
    draft.publish(&record, &committed.index)?;
    Ok((committed.diff_id, committed.tar_size_bytes))
}

/// A container that stands still while this lives.
struct Still(Option<Group>);

impl Still {
    fn of(container: &StoredContainer, pauses: bool) -> Self {
        let group = Group::new(container.state.groups.clone());
        // Where it cannot stand still, files are copied while they may change, as `--no-pause` does.
        let still = pauses && container.status == Status::Running && group.freeze().is_ok();
        Self(still.then_some(group))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if let Some(group) = &self.0
            && let Err(error) = group.thaw()
        {
            tracing::warn!("the container stays paused: {error}");
        }
    }
}
