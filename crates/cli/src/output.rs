//! Images as files: archives, layouts and root file systems.
//!
//! ```text
//! --output out.tar                  an archive, as `kiln save` writes it
//! --output type=oci,dest=out.tar    the same; it is docker's archive, too
//! --output type=layout,dest=out     the same as a folder
//! --output type=tar,dest=root.tar   what a container sees, as one tar; `dest=-` is standard output
//! --output type=dir,dest=root       the same as a folder
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::ValueEnum;
use kiln_image::{Image, ImageError, SavedImage, flatten, load_all, save, save_layout};
use kiln_layer::Ownership;
use kiln_oci::Compression;
use kiln_sandbox::{Host, Privileges};
use kiln_store::{Scratch, Session, Store};

use crate::errors::{Class, Failure, Outcome};
use crate::signals;

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
        let (mut form, mut place, mut compression) = (None, None, Method::Gzip);
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
                    compression = method
                        .map_err(|_unknown| unknown("compression", value, "gzip, zstd, none"))?;
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
    /// A folder cannot be written to standard output.
    pub(crate) fn new(
        form: Form,
        place: Option<PathBuf>,
        compression: Method,
    ) -> Result<Self, String> {
        let place = place.filter(|place| place.as_os_str() != "-");
        if place.is_none() && matches!(form, Form::Layout | Form::Dir) {
            return Err("a folder cannot be written to standard output".to_owned());
        }
        Ok(Self {
            form,
            place,
            compression,
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
        match self.form {
            Form::Oci => {
                self.to_file(&mut |out| save(session, images, self.compression.into(), out))
            }
            Form::Layout => self.to_folder(&mut |folder| {
                save_layout(session, images, self.compression.into(), folder)
            }),
            Form::Tar => {
                let image = &only(session.store(), images)?;
                let kept = match host.privileges() {
                    Privileges::Root | Privileges::Mapped { .. } => Ownership::Keep,
                    Privileges::Single { .. } => Ownership::Flatten,
                };
                let scratch = Scratch::new(session, "flat")?;
                self.to_file(&mut |out| flatten(session, image, scratch.path(), kept, Some(out)))
            }
            Form::Dir => {
                let image = &only(session.store(), images)?;
                self.to_folder(&mut |folder| flatten(session, image, folder, ownership, None))
            }
        }
    }

    /// Writes beside the file and puts it in place when it is whole.
    fn to_file(&self, write: &mut dyn FnMut(&mut dyn Write) -> Result<(), ImageError>) -> Outcome {
        let Some(path) = &self.place else {
            let mut stdout = BufWriter::new(io::stdout().lock());
            let written = write(&mut stdout);
            return match written.and_then(|()| stdout.flush().map_err(ImageError::Write)) {
                Err(ImageError::Write(error)) => Err(Failure::output(error)),
                written => Ok(written?),
            };
        };
        self.check()?;
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return self.to_device(path, write);
        }
        let path = &behind_links(path)?;
        let draft = draft(path);
        // Made where signals are watched already: whoever sees it may stop us and finds nothing of it afterwards.
        let written = until_stopped(&|| {}, |stopped| {
            let file = File::create_new(&draft).map_err(|error| cannot_write(path, &error))?;
            let mut file = BufWriter::new(file);
            let out = &mut file;
            match write(&mut Stoppable { out, stopped }) {
                Ok(()) => file
                    .flush()
                    .and_then(|()| fs::rename(&draft, path))
                    .map_err(|error| cannot_write(path, &error)),
                Err(ImageError::Write(error)) => Err(cannot_write(path, &error)),
                Err(error) => Err(error.into()),
            }
        });
        if written.is_err() && fs::remove_file(&draft).is_err() {
            // The failure itself is what the user has to know.
        }
        written
    }

    /// Writes to a device, a pipe or a socket, which stays what it is.
    fn to_device(
        &self,
        path: &Path,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<(), ImageError>,
    ) -> Outcome {
        let file = File::options().write(true).open(path);
        let mut file = BufWriter::new(file.map_err(|error| cannot_write(path, &error))?);
        match write(&mut file).and_then(|()| file.flush().map_err(ImageError::Write)) {
            Err(ImageError::Write(error)) => Err(cannot_write(path, &error)),
            written => Ok(written?),
        }
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
            fs::metadata(around).map_err(|error| cannot_write(path, &error))?;
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

    /// Fills a folder beside the place and puts it there when it is whole.
    fn to_folder(&self, fill: &mut dyn FnMut(&Path) -> Result<(), ImageError>) -> Outcome {
        let Some(path) = &self.place else {
            return Err(Failure::message(
                Class::Bug,
                "a folder is to be written to standard output",
                None,
            ));
        };
        self.check()?;
        let draft = draft(path);
        // Held by whoever makes the folder, puts it into its place or takes it away, so that none of them meets a half.
        let turn = Mutex::new(());
        let my_turn = || turn.lock().unwrap_or_else(PoisonError::into_inner);
        let remove = || {
            let _turn = my_turn();
            // Whoever fills it notices, and the rest goes below.
            if fs::remove_dir_all(&draft).is_err() {}
        };
        let unless_stopped = |stopped: &AtomicBool, work: &dyn Fn() -> io::Result<()>| {
            let _turn = my_turn();
            if stopped.load(Ordering::Relaxed) {
                return Err(stopped_by_signal());
            }
            work().map_err(|error| cannot_write(path, &error))
        };
        let filled = until_stopped(&remove, |stopped| {
            unless_stopped(stopped, &|| fs::create_dir(&draft))?;
            match fill(&draft) {
                Ok(()) => unless_stopped(stopped, &|| fs::rename(&draft, path)),
                Err(ImageError::Write(error)) => Err(cannot_write(path, &error)),
                Err(error) => Err(error.into()),
            }
        });
        if filled.is_err() && fs::remove_dir_all(&draft).is_err() {
            // The failure itself is what the user has to know.
        }
        filled
    }
}

/// Does `work`, which fails once somebody asks this process to stop; then `stop` was called.
///
/// # Errors
/// Those of `work`; that it was stopped.
fn until_stopped(stop: &(dyn Fn() + Sync), work: impl FnOnce(&AtomicBool) -> Outcome) -> Outcome {
    let stopped = AtomicBool::new(false);
    let asked = || {
        stopped.store(true, Ordering::Relaxed);
        stop();
    };
    let done = signals::with_signals(&asked, || work(&stopped))?;
    match done {
        Err(_) if stopped.load(Ordering::Relaxed) => Err(stopped_by_signal()),
        done => done,
    }
}

fn stopped_by_signal() -> Failure {
    Failure::message(Class::Interrupted, "stopped: nothing of it is left", None)
}

/// Writes until it is to stop.
struct Stoppable<'a, W> {
    out: &'a mut W,
    stopped: &'a AtomicBool,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(io::Error::other("stopped"));
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The file that `path` leads to: a link stays one.
fn behind_links(path: &Path) -> Outcome<PathBuf> {
    if !path.exists() {
        return Ok(path.to_owned());
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "a path of this machine, which the user names"
    )]
    let found = fs::canonicalize(path);
    found.map_err(|error| cannot_write(path, &error))
}

/// The name beside `path` under which it is written first.
fn draft(path: &Path) -> PathBuf {
    let mut draft = path.to_owned().into_os_string();
    draft.push(format!(".{}.draft", std::process::id()));
    PathBuf::from(draft)
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

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::message(
        Class::Environment,
        format!("cannot write `{}`: {error}", path.display()),
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_the_place_stays_what_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |path: &Path| {
            let output = Output::new(Form::Oci, Some(path.to_owned()), Method::Gzip).unwrap();
            output.to_file(&mut |out| out.write_all(b"image").map_err(ImageError::Write))
        };
        // A link to a file, and one to a device, as `/dev/stdout` is one.
        fs::write(at("file"), "before").unwrap();
        for (link, target) in [("to-file", "file"), ("to-device", "/dev/null")] {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
            write(&at(link)).unwrap();
            assert!(at(link).is_symlink(), "{link}");
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"image");
        write(&at("new")).unwrap();
        assert_eq!(fs::read(at("new")).unwrap(), b"image");
        let said = write(folder.path()).unwrap_err().report.to_string();
        assert!(said.contains("is a folder"), "{said}");
        assert!(write(&at("no/file")).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn what_is_typed_is_understood_or_answered() {
        let parsed = |text: &str| text.parse::<Output>();
        let oci = parsed("out.tar").unwrap();
        assert_eq!(oci, parsed("type=oci,dest=out.tar").unwrap());
        assert_eq!(oci, parsed("type=docker,dest=out.tar").unwrap());
        assert!(parsed("type=tar,dest=-").unwrap().is_stdout());
        let zstd = parsed("type=layout,dest=x,compression=zstd").unwrap();
        assert_eq!((zstd.form, zstd.compression), (Form::Layout, Method::Zstd));
        assert_eq!(parsed("type=local,dest=x").unwrap().form, Form::Dir);
        for (wrong, answer) in [
            ("type=zip,dest=x", "there is no type `zip`"),
            ("type=tar", "dest=PATH"),
            ("dest=x", "type=oci"),
            ("type=dir,dest=-", "standard output"),
            ("type=tar,dst=x", "there is no key `dst`"),
            ("type=tar,x", "not KEY=VALUE"),
        ] {
            let said = parsed(wrong).unwrap_err();
            assert!(said.contains(answer), "{wrong}: {said}");
        }
    }
}
