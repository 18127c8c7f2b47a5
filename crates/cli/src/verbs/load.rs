//! `kiln load`: images of an archive into the store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};

use kiln_image::{Archive, UnpackSettings};
use kiln_oci::{Platform, Reference};
use kiln_sandbox::Privileges;
use kiln_store::Scratch;

use crate::errors::{Class, Failure, Outcome};
use crate::local;
use crate::printer::Printer;
use crate::settings::Settings;

/// Read images from an archive or image layout into the store
///
/// Archives of kiln save, docker save, podman save and skopeo, and folders that
/// are OCI image layouts. An image for several platforms comes with all of them, as far as they are
/// there. Prints the name of each image, or its digest if it has none.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kiln load app.tar
  kiln load --name localhost/app layout/
  docker save app | kiln load")]
pub(crate) struct Args {
    /// Archive or folder; standard input if not given
    archive: Option<PathBuf>,

    /// The same, as docker has it
    #[arg(short, long, value_name = "ARCHIVE", conflicts_with = "archive")]
    input: Option<PathBuf>,

    /// Give the only image of the archive this name
    #[arg(long, value_name = "REFERENCE")]
    name: Option<Reference>,

    /// Take the image for this platform alone, of one that is for several
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
}

/// Loads them; names change when all of them are in the store.
pub(crate) fn run(args: &Args, settings: &Settings, printer: &mut Printer) -> Outcome {
    let store = local::open(settings)?;
    let host = local::enter(&store)?;
    local::warn_of_one_owner(&host, printer);
    let session = local::session(settings)?;
    let unpack = unpack_settings(host.privileges());
    let named = args.archive.as_ref().or(args.input.as_ref());
    let (path, archive, _copy) = match named.filter(|path| path.as_os_str() != "-") {
        Some(path) => (path.as_path(), Archive::open(&session, path)?, None),
        None => {
            let path = Path::new("standard input");
            let copy = Scratch::new(&session, "archive")?;
            let file = spool(settings, copy.path())?;
            (path, Archive::read(&session, file, path)?, Some(copy))
        }
    };
    if archive.images().is_empty() {
        let message = format!("`{}` holds no image", path.display());
        return Err(Failure::message(Class::User, message, None));
    }
    if args.name.is_some() && archive.images().len() != 1 {
        return Err(Failure::message(
            Class::User,
            format!(
                "the archive has {} images, and `--name` names one",
                archive.images().len()
            ),
            None,
        ));
    }
    let host_platform = Platform::host();
    let mut names = BTreeMap::new();
    let mut lines = Vec::new();
    for entry in archive.images() {
        let whole = match &args.platform {
            Some(_) => None,
            None => archive.import_all(&session, entry, &unpack)?,
        };
        let descriptor = match whole {
            Some(descriptor) => descriptor,
            None => {
                let platform = args.platform.as_ref().unwrap_or(&host_platform);
                let image = archive.import(&session, entry, platform, &unpack)?;
                image.descriptor
            }
        };
        let references = args
            .name
            .clone()
            .map_or_else(|| entry.references.clone(), |name| vec![name]);
        if references.is_empty() {
            let digest = descriptor.digest;
            printer.warning(format!(
                "{digest} has no name, and goes with the next `kiln gc`: give it one with `kiln tag`"
            ));
            lines.push(digest.to_string());
        }
        for reference in references {
            lines.push(reference.familiar());
            names.insert(reference, descriptor.clone());
        }
    }
    session.store().references().set(&session, &names)?;
    session.finish()?;
    for line in lines {
        printer.line(line)?;
    }
    Ok(())
}

/// What can be kept of owners and devices.
pub(crate) fn unpack_settings(privileges: &Privileges) -> UnpackSettings {
    use kiln_layer::{Devices, Ownership};
    let (ownership, devices) = match privileges {
        Privileges::Root => (Ownership::Keep, Devices::Make),
        Privileges::Mapped { .. } => (Ownership::Keep, Devices::Skip),
        Privileges::Single { .. } => (Ownership::Flatten, Devices::Skip),
    };
    UnpackSettings {
        ownership,
        devices,
        ..UnpackSettings::default()
    }
}

/// Copies standard input to a file, because an archive is read out of order.
fn spool(settings: &Settings, folder: &Path) -> Outcome<File> {
    if settings.stdin_is_terminal {
        return Err(Failure::message(
            Class::User,
            "no archive is named, and standard input is a terminal",
            Some("name a file: kiln load FILE".to_owned()),
        ));
    }
    File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(folder.join("standard-input"))
        .and_then(|mut file| {
            io::copy(&mut io::stdin().lock(), &mut file)?;
            file.rewind()?;
            Ok(file)
        })
        .map_err(|error| Failure::from_error(Class::Environment, error))
}
