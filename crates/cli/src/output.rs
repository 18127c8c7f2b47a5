//! Images as files: archives, layouts and root file systems.
//!
//! ```text
//! --output out.tar                  an archive, as `kiln save` writes it
//! --output type=oci,dest=out.tar    the same; it is docker's archive, too
//! --output type=layout,dest=out     the same as a folder
//! --output type=tar,dest=root.tar   what a container sees, as one tar; `dest=-` is standard output
//! --output type=dir,dest=root       the same as a folder
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::ValueEnum;
use kiln_image::{Image, SavedImage, flatten, load_all, save, save_layout};
use kiln_layer::Ownership;
use kiln_oci::Compression;
use kiln_sandbox::{Host, Privileges};
use kiln_store::{Scratch, Session, Store};

use crate::draft::{self, Unwritten};
use crate::errors::{Class, Failure, Outcome};

/// What an image becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// An archive of an OCI image layout, which docker load reads, too
    #[value(alias = "docker")]
    Oci,
    /// An OCI image layout in a folder
    Layout,
    /// The root file system as a tar
    Tar,
    /// The root file system in a folder
    #[value(alias = "local")]
    Dir,
}

/// How layers in archives and layouts are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    /// What every tool reads
    #[default]
    Gzip,
    /// Smaller and faster, for tools of the last years
    Zstd,
    /// Not at all
    None,
}

impl From<Method> for Compression {
    fn from(method: Method) -> Self {
        match method {
            Method::Gzip => Self::Gzip,
            Method::Zstd => Self::Zstd,
            Method::None => Self::None,
        }
    }
}

/// What to write, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) form: Form,
    /// `None` is standard output.
    pub(crate) place: Option<PathBuf>,
    pub(crate) compression: Method,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = !text.contains('=');
        let text = if is_plain {
            format!("type=oci,dest={text}")
        } else {
            text.to_owned()
        };
        let (mut form, mut place, mut compression) = (None, None, None);
        for part in text.split(',') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not KEY=VALUE"))?;
            match key {
                "type" => {
                    let found = Form::from_str(value, false);
                    let known = "oci, docker, layout, tar, dir";
                    form = Some(found.map_err(|_unknown| unknown("type", value, known))?);
                }
                "dest" => place = Some(value.to_owned()),
                "compression" => {
                    let method = Method::from_str(value, false);
                    let known = "gzip, zstd, none";
                    compression =
                        Some(method.map_err(|_unknown| unknown("compression", value, known))?);
                }
                _ => return Err(unknown("key", key, "type, dest, compression")),
            }
        }
        let form = form.ok_or("say what to write: type=oci, layout, tar or dir")?;
        let place = place.ok_or("say where to: dest=PATH")?;
        Self::new(form, Some(place.into()), compression)
    }
}

fn unknown(what: &str, value: &str, known: &str) -> String {
    format!("there is no {what} `{value}`; there are {known}")
}

impl Output {
    /// Puts it together; the place `-` is standard output.
    ///
    /// # Errors
    /// A folder cannot be written to standard output, and a root file system has no layers to compress.
    pub(crate) fn new(
        form: Form,
        place: Option<PathBuf>,
        compression: Option<Method>,
    ) -> Result<Self, String> {
        if place.as_ref().is_some_and(|it| it.as_os_str().is_empty()) {
            return Err("the place to write to is empty".to_owned());
        }
        let is_compressed = compression.is_some_and(|method| method != Method::None);
        if is_compressed && matches!(form, Form::Tar | Form::Dir) {
            return Err("a root file system has no layers, and is written uncompressed".to_owned());
        }
        let place = place.filter(|place| place.as_os_str() != "-");
        if place.is_none() && matches!(form, Form::Layout | Form::Dir) {
            return Err("a folder cannot be written to standard output: name a place".to_owned());
        }
        Ok(Self {
            form,
            place,
            compression: compression.unwrap_or_default(),
        })
    }

    /// Whether it goes to standard output.
    pub(crate) fn is_stdout(&self) -> bool {
        self.place.is_none()
    }

    /// Writes `images`, each with its names; nothing half-written is left in place.
    ///
    /// # Errors
    /// Several images, or platforms, for a root file system, a place that is taken or cannot be written, layers
    /// that are damaged.
    pub(crate) fn write(&self, session: &Session, host: &Host, images: &[SavedImage]) -> Outcome {
        let ownership = match host.privileges() {
            Privileges::Root => Ownership::Keep,
            // In a folder of an ordinary user all files are that user's.
            Privileges::Mapped { .. } | Privileges::Single { .. } => Ownership::Flatten,
        };
        self.check()?;
        match self.form {
            Form::Oci => {
                self.to_file(&mut |out| Ok(save(session, images, self.compression.into(), out)?))
            }
            Form::Layout => self.to_folder(&mut |folder| {
                Ok(save_layout(
                    session,
                    images,
                    self.compression.into(),
                    folder,
                )?)
            }),
            Form::Tar => {
                let image = &only(session.store(), images)?;
                let kept = match host.privileges() {
                    Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
                    Privileges::Single { .. } => Ownership::Flatten,
                };
                let scratch = Scratch::new(session, "flat")?;
                self.to_file(&mut |out| {
                    Ok(flatten(session, image, scratch.path(), kept, Some(out))?)
                })
            }
            Form::Dir => {
                let image = &only(session.store(), images)?;
                self.to_folder(&mut |folder| Ok(flatten(session, image, folder, ownership, None)?))
            }
        }
    }

    fn to_file(&self, write: &mut dyn FnMut(&mut dyn Write) -> Result<(), Unwritten>) -> Outcome {
        draft::file(self.place.as_deref(), write)
    }

    fn to_folder(&self, fill: &mut dyn FnMut(&Path) -> Result<(), Unwritten>) -> Outcome {
        let Some(path) = &self.place else {
            let message = "a folder is to be written to standard output";
            return Err(Failure::message(Class::Bug, message, None));
        };
        draft::folder(path, fill)
    }

    /// Says what is wrong with the place; to be asked before a long build, too.
    ///
    /// # Errors
    /// It is taken, or the folder around it is not there.
    pub(crate) fn check(&self) -> Outcome {
        let Some(path) = &self.place else {
            return Ok(());
        };
        let around = path
            .parent()
            .filter(|around| !around.as_os_str().is_empty());
        if let Some(around) = around {
            fs::metadata(around).map_err(|error| draft::cannot_write(path, &error))?;
        }
        let (wrong, help) = match self.form {
            // What is there may be dear to somebody: only an empty folder is replaced.
            Form::Layout | Form::Dir => (
                fs::read_dir(path).map_or(path.exists(), |mut in_it| in_it.next().is_some()),
                "name another place, or remove it",
            ),
            Form::Oci | Form::Tar => (path.is_dir(), "name a file in it"),
        };
        if !wrong {
            return Ok(());
        }
        let what = match self.form {
            Form::Layout | Form::Dir => "is there already, and not an empty folder",
            Form::Oci | Form::Tar => "is a folder",
        };
        let message = format!("`{}` {what}", path.display());
        Err(Failure::message(
            Class::User,
            message,
            Some(help.to_owned()),
        ))
    }
}

/// The one image for one platform whose root file system is wanted.
fn only(store: &Store, images: &[SavedImage]) -> Outcome<Image> {
    let [saved] = images else {
        return Err(Failure::message(
            Class::User,
            format!(
                "a root file system is that of one image, and there are {}",
                images.len()
            ),
            Some("name one".to_owned()),
        ));
    };
    let mut images = load_all(store, &saved.descriptor)?;
    match images.len() {
        1 => Ok(images.remove(0)),
        _ => {
            let platforms: Vec<String> = images
                .iter()
                .map(|image| image.config.platform.to_string())
                .collect();
            Err(Failure::message(
                Class::User,
                format!(
                    "a root file system is for one platform, and the image is for {}",
                    platforms.join(" and ")
                ),
                platforms
                    .first()
                    .map(|platform| format!("choose one: --platform {platform}")),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_understood_or_answered() {
        let parsed = |text: &str| text.parse::<Output>();
        let oci = parsed("out.tar").unwrap();
        assert_eq!(oci, parsed("type=oci,dest=out.tar").unwrap());
        assert_eq!(oci, parsed("type=docker,dest=out.tar").unwrap());
        assert!(parsed("type=tar,dest=-").unwrap().is_stdout());
        let zstd = parsed("type=layout,dest=x,compression=zstd").unwrap();
        assert_eq!((zstd.form, zstd.compression), (Form::Layout, Method::Zstd));
        assert!(parsed("type=tar,dest=x,compression=none").is_ok());
        assert_eq!(parsed("type=local,dest=x").unwrap().form, Form::Dir);
        for (wrong, answer) in [
            ("type=zip,dest=x", "there is no type `zip`"),
            ("type=tar", "dest=PATH"),
            ("dest=x", "type=oci"),
            ("type=dir,dest=-", "standard output"),
            ("type=tar,dst=x", "there is no key `dst`"),
            ("type=tar,x", "not KEY=VALUE"),
            ("type=tar,dest=", "is empty"),
            ("type=tar,dest=x,compression=zstd", "has no layers"),
            ("type=dir,dest=x,compression=gzip", "has no layers"),
        ] {
            let said = parsed(wrong).unwrap_err();
            assert!(said.contains(answer), "{wrong}: {said}");
        }
    }
}
