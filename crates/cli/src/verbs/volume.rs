//! `kiln volume`: folders that outlive containers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use kiln_layer::{ExtractOwner, LastLink, TreePath, archive, extract};
use kiln_sandbox::Privileges;
use kiln_store::{Name, Store, StoreError};
use serde_json::{Value, json};

use crate::containers::each;
use crate::draft;
use crate::errors::{Class, Failure, Outcome};
use crate::form::{self, DocumentForm, Form};
use crate::life::parse_labels;
use crate::names;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::suggest;
use crate::text;
use crate::verbs::diff::open;
use crate::workbench;

/// Manage volumes: folders that outlive containers
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln volume create --label team=web data
  kiln volume ls --filter dangling=true
  kiln volume export data -o data.tar
  kiln volume import data data.tar")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a volume
    Create {
        /// Its name; one is made up if none is given
        name: Option<String>,

        /// Note something about it
        #[arg(long, value_name = "NAME[=VALUE]")]
        label: Vec<String>,

        /// Choose how it is kept; there is one way
        #[arg(short, long, value_name = "DRIVER", default_value = "local")]
        driver: Driver,
    },
    /// List volumes; with -q only their names
    #[command(alias = "list")]
    Ls {
        /// Only those for which this holds: name=TEXT, label=NAME[=VALUE], dangling=true
        #[arg(short, long, value_name = "KEY=VALUE")]
        filter: Vec<String>,

        /// Choose the form of the listing: `text`, `json`, or a template of docker's, such as '{{.Name}}'; behind
        /// `table ` with a head
        #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = Form::parse)]
        format: Form,
    },
    /// Show everything about volumes, as JSON
    Inspect {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,

        /// Show only this, by a template of docker's, such as '{{.Mountpoint}}'
        #[arg(short, long, value_name = "TEMPLATE", default_value = "json", value_parser = DocumentForm::parse)]
        format: DocumentForm,
    },
    /// Remove volumes with all that is in them
    #[command(alias = "remove")]
    Rm {
        /// Do not mind those that are not there
        #[arg(short, long)]
        force: bool,

        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove the volumes without a name that no container has, or all that none has
    Prune {
        /// Those that have a name, too
        #[arg(short, long)]
        all: bool,

        /// Do not ask
        #[arg(short, long)]
        force: bool,

        /// Only those for which this holds: label=NAME[=VALUE]
        #[arg(long, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Write what is in a volume as a tar
    Export {
        /// Its name
        name: String,

        /// Where to; standard output if not given
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Put what is in a tar into a volume
    Import {
        /// Its name
        name: String,

        /// The tar; standard input if it is - or not given
        file: Option<PathBuf>,
    },
}

/// How a volume is kept.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    /// As a folder of the store
    Local,
}

/// Does it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    match &args.action {
        Action::Create {
            name,
            label,
            driver: Driver::Local,
        } => create(name.as_deref(), label, settings, printer),
        Action::Ls { filter, format } => list(filter, format, settings, printer),
        Action::Inspect { names, format } => format.print(inspection(names, settings)?, printer),
        Action::Rm { force, names } => remove(*force, names, settings, printer),
        Action::Prune { all, force, filter } => prune(*all, *force, filter, settings, printer),
        Action::Export { name, output } => export(name, output.as_deref(), settings),
        Action::Import { name, file } => import(name, file.as_ref(), settings),
    }
}

fn create(
    name: Option<&str>,
    labels: &[String],
    settings: &Settings,
    printer: &mut Printer,
) -> Outcome {
    let session = crate::local::session(settings)?;
    let name = match name {
        Some(name) => Name::new(name)?,
        None => Name::new(&names::random(3)?)?,
    };
    let labels = parse_labels(labels)?;
    match session.store().volumes().create(&session, &name, labels) {
        // As docker has it, one that is there is as good as new.
        Ok(()) | Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    session.finish()?;
    printer.line(name.as_str())
}

/// A volume, looked at.
struct Look {
    name: Name,
    labels: BTreeMap<String, String>,
    created: u64,
    in_use: bool,
}

impl Look {
    fn all(store: &Store) -> Outcome<Vec<Self>> {
        let names = store.volumes().list()?;
        names
            .into_iter()
            .map(|name| Self::new(store, name))
            .collect()
    }

    fn new(store: &Store, name: Name) -> Outcome<Self> {
        let record = store.volumes().record(&name);
        let record = record.map_err(|error| named_wrong(store, &name, error))?;
        Ok(Self {
            in_use: store.containers().with_volume(&name)?.is_some(),
            labels: record.labels,
            created: record.created.seconds(),
            name,
        })
    }

    fn json(&self, store: &Store) -> Value {
        let created = i64::try_from(self.created).ok();
        let created = created.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        json!({
            "Name": self.name,
            "Driver": "local",
            "Scope": "local",
            "Mountpoint": store.path().join("volumes").join(self.name.as_str()).join("data"),
            "CreatedAt": created,
            "Labels": self.labels,
            "InUse": self.in_use,
        })
    }

    fn has_label(&self, text: &str) -> bool {
        match text.split_once('=') {
            Some((name, value)) => self.labels.get(name).is_some_and(|it| it == value),
            None => self.labels.contains_key(text),
        }
    }
}

/// Tells of a volume that is not there which one may be meant; of anything else, what it is.
fn named_wrong(store: &Store, name: &Name, error: StoreError) -> Failure {
    let StoreError::Missing { .. } = error else {
        return error.into();
    };
    let known = store.volumes().list().unwrap_or_default();
    let known = known.iter().map(Name::to_string);
    let help = suggest::help(name.as_str(), known, || {
        "these volumes are there: kiln volume ls".to_owned()
    });
    Failure::message(Class::User, error.to_string(), Some(help))
}

/// Reads `KEY=VALUE` filters, and leaves those for which they hold.
fn choose(mut all: Vec<Look>, filters: &[String], keys: &[&str]) -> Outcome<Vec<Look>> {
    for text in filters {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if !keys.contains(&key) || value.is_empty() {
            let message = format!("`{text}` is not a filter");
            let help = format!("write KEY=VALUE with one of {}", keys.join(", "));
            return Err(Failure::message(Class::User, message, Some(help)));
        }
        all.retain(|it| match key {
            "name" => it.name.as_str().contains(value),
            "dangling" => it.in_use == matches!(value, "false" | "0"),
            _ => it.has_label(value),
        });
    }
    Ok(all)
}

/// What docker calls the columns.
const HEADS: [(&str, &str); 6] = [
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("InUse", "IN USE"),
];

fn list(filters: &[String], format: &Form, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = crate::local::open(settings)?;
    let volumes = choose(Look::all(&store)?, filters, &["name", "label", "dangling"])?;
    if settings.quiet {
        let names = volumes.iter().map(|it| format!("{}\n", it.name));
        return printer.data(names.collect::<String>());
    }
    let rows = volumes.iter().map(|it| it.json(&store));
    match format {
        Form::Text => {}
        Form::Json => return printer.json(&Value::Array(rows.collect())),
        Form::Filled(filling) => {
            let rows = rows.zip(&volumes).map(|(mut row, it)| {
                row["Labels"] = Value::from(form::labels(&it.labels));
                row
            });
            return printer.data(filling.fill(&HEADS, rows.collect())?);
        }
    }
    let mut rows = vec![["DRIVER", "VOLUME NAME"].map(String::from).to_vec()];
    rows.extend(
        volumes
            .iter()
            .map(|it| vec!["local".to_owned(), it.name.to_string()]),
    );
    printer.data(text::table(&rows))
}

/// What is known about volumes.
///
/// # Errors
/// One is not there.
pub(crate) fn inspection(names: &[String], settings: &Settings) -> Outcome<Value> {
    let store = crate::local::open(settings)?;
    let looks = names.iter().map(|name| Look::new(&store, Name::new(name)?));
    let looks: Vec<Look> = looks.collect::<Outcome<_>>()?;
    Ok(looks.iter().map(|it| it.json(&store)).collect())
}

/// Whether there is a volume of that name.
///
/// # Errors
/// The store cannot be read.
pub(crate) fn is_there(name: &str, settings: &Settings) -> Outcome<bool> {
    let volumes = crate::local::open(settings)?.volumes().list()?;
    Ok(volumes.iter().any(|volume| volume.as_str() == name))
}

fn remove(force: bool, names: &[String], settings: &Settings, printer: &mut Printer) -> Outcome {
    let entered = workbench::enter(settings)?;
    let store = entered.session.store().clone();
    let removed = each(names, printer, |name, _| {
        let name = Name::new(name)?;
        match store.volumes().remove(&name) {
            Err(StoreError::Missing { .. }) if force => Ok(()),
            removed => removed.map_err(|error| named_wrong(&store, &name, error)),
        }
    });
    store.tidy()?;
    removed
}

fn prune(
    all: bool,
    force: bool,
    filters: &[String],
    settings: &Settings,
    printer: &mut Printer,
) -> Outcome {
    let entered = workbench::enter(settings)?;
    let store = entered.session.store().clone();
    let mut volumes = choose(Look::all(&store)?, filters, &["label"])?;
    volumes.retain(|it| !it.in_use);
    let unused = volumes.len();
    volumes.retain(|it| all || names::is_of_volume(&it.name));
    let named = unused - volumes.len();
    if named > 0 {
        let named = text::count(named, "volume");
        printer.note(format!(
            "{named} with a name stay, though no container has them; -a removes them, too"
        ));
    } else if unused == 0 {
        printer.note("there is no volume without a container");
    }
    if volumes.is_empty() {
        return Ok(());
    }
    if !force {
        let names: Vec<&str> = volumes.iter().map(|it| it.name.as_str()).collect();
        let question = format!(
            "remove {} with all that is in them: {}? [y/N] ",
            text::count(volumes.len(), "volume"),
            names.join(", ")
        );
        confirm(&question, settings, printer)?;
    }
    for volume in &volumes {
        match store.volumes().remove(&volume.name) {
            Ok(()) => printer.line(volume.name.as_str())?,
            // Somebody began to use it, or was faster.
            Err(
                StoreError::InUse { .. } | StoreError::VolumeOf { .. } | StoreError::Missing { .. },
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(store.tidy()?)
}

/// Goes on only if the user wants to.
///
/// # Errors
/// They do not, or there is nobody to ask.
pub(crate) fn confirm(question: &str, settings: &Settings, printer: &mut Printer) -> Outcome {
    let unasked = || {
        let message = "this removes what cannot be had again";
        Failure::message(
            Class::User,
            message,
            Some("say --force to do it".to_owned()),
        )
    };
    if !settings.stdin_is_terminal {
        return Err(unasked());
    }
    printer.prompt(question)?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::from_error(Class::Environment, error))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::message(Class::User, "nothing was removed", None)),
    }
}

fn export(name: &str, output: Option<&Path>, settings: &Settings) -> Outcome {
    let output = output.filter(|path| path.as_os_str() != "-");
    if output.is_none() && settings.stdout_is_terminal {
        return Err(Failure::message(
            Class::User,
            "an archive is nothing to read on a terminal",
            Some(format!("name a file: kiln volume export -o FILE {name}")),
        ));
    }
    let entered = workbench::enter(settings)?;
    let volume = existing(&entered, name)?;
    let folder = open(volume.path())?;
    let root = TreePath::root();
    draft::file(output, &mut |out| {
        Ok(archive(folder.as_fd(), &root, LastLink::Keep, &root, out)?)
    })
}

fn import(name: &str, file: Option<&PathBuf>, settings: &Settings) -> Outcome {
    let input: Box<dyn Read> = match file.filter(|path| path.as_os_str() != "-") {
        Some(path) => Box::new(io::BufReader::new(File::open(path).map_err(|error| {
            let message = format!("`{}`: {error}", path.display());
            Failure::message(Class::User, message, None)
        })?)),
        None => Box::new(io::stdin()),
    };
    let entered = workbench::enter(settings)?;
    let volume = existing(&entered, name)?;
    let folder = open(volume.path())?;
    let owner = match entered.host.privileges() {
        Privileges::Root | Privileges::Mapped { .. } => ExtractOwner::Archive,
        Privileges::Single { .. } => ExtractOwner::Everything(0, 0),
    };
    extract(input, folder.as_fd(), &TreePath::root(), owner)
        .map_err(|error| Failure::from_error(Class::User, error))
}

/// A volume that is there, in use from now on.
fn existing(entered: &workbench::Entered, name: &str) -> Outcome<kiln_store::VolumeUse> {
    let volumes = entered.session.store().volumes();
    let name = Name::new(name)?;
    let record = volumes.record(&name);
    record.map_err(|error| named_wrong(entered.session.store(), &name, error))?;
    Ok(volumes.open(&entered.session, &name, &BTreeMap::new())?)
}
