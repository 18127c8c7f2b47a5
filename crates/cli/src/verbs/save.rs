//! `kiln save`: images of the store as an archive, a layout or a root file system.

use std::path::PathBuf;

use kiln_image::SavedImage;
use kiln_oci::{Platform, Reference};

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::output::{Form, Method, Output};
use crate::printer::Printer;
use crate::settings::Settings;

/// Write images into an archive that any OCI tool reads
///
/// The archive is an OCI image layout, with what docker load wants beside it. Other forms are a
/// folder of the same, and the root file system that a container sees. An image for several platforms is
/// written with all of them; a root file system, and what docker load reads without its containerd store, is for one.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln save -o app.tar app
  kiln save app | ssh host kiln load
  kiln save app | docker load
  kiln save --form dir -o root app
  kiln save -o app.tar app && skopeo copy oci-archive:app.tar docker://registry.example.com/app")]
pub(crate) struct Args {
    /// Images or services of the project, references, or ids
    images: Vec<String>,

    /// Write to this file or folder instead of standard output
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Choose what is written
    #[arg(long, value_name = "FORM", default_value = "oci")]
    form: Form,

    /// Choose how layers are compressed [default: gzip]
    #[arg(long, value_name = "METHOD")]
    compress: Option<Method>,

    /// Write the image for this platform alone, of one that is for several
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
}

/// Writes it.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let output = Output::new(args.form, args.output.clone(), args.compress)
        .map_err(|message| Failure::message(Class::User, message, None))?;
    if output.is_stdout() && settings.stdout_is_terminal {
        return Err(Failure::message(
            Class::User,
            "an archive is nothing to read on a terminal",
            Some("name a file: kiln save -o FILE".to_owned()),
        ));
    }
    let store = local::open(settings)?;
    let host = local::enter(&store)?;
    let session = local::session(settings)?;
    let names: Vec<Option<&str>> = match args.images.as_slice() {
        [] => vec![None],
        images => images.iter().map(|image| Some(image.as_str())).collect(),
    };
    let mut images = Vec::new();
    for name in names {
        let found = local::find(settings, &store, name)?;
        let references: Vec<Reference> = found.reference.clone().into_iter().collect();
        let descriptor = match &args.platform {
            Some(_) => found.load(&store, args.platform.as_ref())?.descriptor,
            None => found.descriptor,
        };
        images.push(SavedImage {
            descriptor,
            references,
        });
    }
    output.write(&session, &host, &images)?;
    if let Some(path) = &output.place {
        printer.note(format!("wrote {}", path.display()));
    }
    session.finish()?;
    Ok(store.tidy()?)
}
