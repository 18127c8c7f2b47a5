//! `kiln save`: images of the store as one archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use kiln_image::ImageError;
use kiln_oci::{Compression, Reference};

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Write images into an archive that any OCI tool reads
///
/// The archive is an OCI image layout, with what docker load wants beside it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln save -o app.tar app
  kiln save app | ssh host kiln load
  kiln save -o app.tar app && skopeo copy oci-archive:app.tar docker://registry.example.com/app")]
pub(crate) struct Args {
    /// Images or services of the project, references, or ids
    images: Vec<String>,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Choose how layers are compressed
    #[arg(long, value_name = "METHOD", default_value = "gzip")]
    compress: Method,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    /// What every tool reads
    Gzip,
    /// Smaller and faster, for tools of the last years
    Zstd,
    /// Not at all
    None,
}

/// Writes the archive.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    if args.output.is_none() && settings.stdout_is_terminal {
        return Err(Failure::message(
            Class::User,
            "an archive is nothing to read on a terminal",
            Some("name a file: kiln save -o FILE".to_owned()),
        ));
    }
    let store = local::open(settings)?;
    let _host = local::enter(&store)?;
    let session = local::session(settings)?;
    let names: Vec<Option<&str>> = match args.images.as_slice() {
        [] => vec![None],
        images => images.iter().map(|image| Some(image.as_str())).collect(),
    };
    let mut images = Vec::new();
    for name in names {
        let found = local::find(settings, &store, name)?;
        let references: Vec<Reference> = found.reference.clone().into_iter().collect();
        images.push((found.load(&store)?, references));
    }
    let compression = match args.compress {
        Method::Gzip => Compression::Gzip,
        Method::Zstd => Compression::Zstd,
        Method::None => Compression::None,
    };
    let mut save = |out: &mut dyn Write| kiln_image::save(&session, &images, compression, out);
    match &args.output {
        Some(path) => {
            save_to_file(path, &mut save)?;
            printer.note(format!("wrote {}", path.display()));
        }
        None => {
            let mut stdout = BufWriter::new(io::stdout().lock());
            let saved = save(&mut stdout);
            match saved.and_then(|()| stdout.flush().map_err(ImageError::Write)) {
                Err(ImageError::Write(error)) => return Err(Failure::output(error)),
                saved => saved?,
            }
        }
    }
    Ok(session.finish()?)
}

/// Writes beside the file and puts it in place when it is whole.
fn save_to_file(
    path: &Path,
    save: &mut dyn FnMut(&mut dyn Write) -> Result<(), ImageError>,
) -> Outcome {
    let failed = |error: &io::Error| {
        Failure::message(
            Class::Environment,
            format!("cannot write `{}`: {error}", path.display()),
            None,
        )
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.draft", std::process::id()));
    let draft = PathBuf::from(draft);
    let mut file = BufWriter::new(File::create_new(&draft).map_err(|error| failed(&error))?);
    let saved = match save(&mut file) {
        Ok(()) => file
            .flush()
            .and_then(|()| fs::rename(&draft, path))
            .map_err(|error| failed(&error)),
        Err(ImageError::Write(error)) => Err(failed(&error)),
        Err(error) => Err(error.into()),
    };
    if saved.is_err() && fs::remove_file(&draft).is_err() {
        // The failure itself is what the user has to know.
    }
    saved
}
