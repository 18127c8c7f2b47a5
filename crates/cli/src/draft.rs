//! Files and folders that appear whole: they are written beside their place, and renamed.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_image::ImageError;
use kiln_layer::ArchiveError;

use crate::errors::{Class, Failure, Outcome};
use crate::signals;

/// Why something was not written.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// The place does not take it.
    Write(io::Error),
    /// There is nothing whole to write.
    Other(Failure),
}

impl From<ImageError> for Unwritten {
    fn from(error: ImageError) -> Self {
        if let ImageError::Write(error) = error {
            return Self::Write(error);
        }
        Self::Other(error.into())
    }
}

impl From<ArchiveError> for Unwritten {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Write(error) => Self::Write(error),
            error @ (ArchiveError::Path(_) | ArchiveError::File(_)) => {
                Self::Other(Failure::from_error(Class::Environment, error))
            }
        }
    }
}

impl Unwritten {
    fn at(self, path: &Path) -> Failure {
        match self {
            Self::Write(error) => cannot_write(path, &error),
            Self::Other(failure) => failure,
        }
    }
}

/// Writes to the file `place`, or to standard output. What was in the file stays until all of the new is written; what
/// is a device, a pipe, a socket or a link stays that.
///
/// # Errors
/// Those of `write`; the file cannot be made; somebody asked this process to stop.
pub(crate) fn file(
    place: Option<&Path>,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), Unwritten>,
) -> Outcome {
    let Some(path) = place else {
        let mut stdout = BufWriter::new(io::stdout().lock());
        return match write(&mut stdout).and_then(|()| stdout.flush().map_err(Unwritten::Write)) {
            Ok(()) => Ok(()),
            Err(Unwritten::Write(error)) => Err(Failure::output(error)),
            Err(Unwritten::Other(failure)) => Err(failure),
        };
    };
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return to_device(path, write);
    }
    let path = &behind_links(path)?;
    let draft = draft(path);
    // Made where signals are watched already: whoever sees it may stop us and finds nothing of it afterwards.
    let written = until_stopped(&|| {}, |stopped| {
        let file = File::create_new(&draft).map_err(|error| cannot_write(path, &error))?;
        let mut file = BufWriter::new(file);
        let out = &mut file;
        write(&mut Stoppable { out, stopped })
            .and_then(|()| replace(file, &draft, path).map_err(Unwritten::Write))
            .map_err(|unwritten| unwritten.at(path))
    });
    if written.is_err() && fs::remove_file(&draft).is_err() {
        // The failure itself is what the user has to know.
    }
    written
}

/// Puts the draft that was written to `file` at `path`. Who may read what was there may read it, and nobody else.
fn replace(mut file: BufWriter<File>, draft: &Path, path: &Path) -> io::Result<()> {
    file.flush()?;
    match fs::metadata(path) {
        Ok(before) => file.get_ref().set_permissions(before.permissions())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::rename(draft, path)
}

/// Writes to a device, a pipe or a socket.
fn to_device(
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> Result<(), Unwritten>,
) -> Outcome {
    let file = File::options().write(true).open(path);
    let mut file = BufWriter::new(file.map_err(|error| cannot_write(path, &error))?);
    write(&mut file)
        .and_then(|()| file.flush().map_err(Unwritten::Write))
        .map_err(|unwritten| unwritten.at(path))
}

/// Fills a folder, which appears at `path` when it is whole; only an empty folder may be there.
///
/// # Errors
/// Those of `fill`; the folder cannot be made; somebody asked this process to stop.
pub(crate) fn folder(path: &Path, fill: &mut dyn FnMut(&Path) -> Result<(), Unwritten>) -> Outcome {
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
        fill(&draft).map_err(|unwritten| unwritten.at(path))?;
        unless_stopped(stopped, &|| fs::rename(&draft, path))
    });
    if filled.is_err() && fs::remove_dir_all(&draft).is_err() {
        // The failure itself is what the user has to know.
    }
    filled
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

/// Says that `path` cannot be written.
pub(crate) fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::message(
        Class::Environment,
        format!("cannot write `{}`: {error}", path.display()),
        None,
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_at_the_place_stays_what_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let write = |path: &Path| {
            file(Some(path), &mut |out| {
                out.write_all(b"image").map_err(Unwritten::Write)
            })
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
        fs::set_permissions(at("new"), PermissionsExt::from_mode(0o600)).unwrap();
        write(&at("new")).unwrap();
        assert_eq!(
            fs::metadata(at("new")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(write(&at("no/file")).is_err());
        let failed = file(Some(&at("file")), &mut |out| {
            out.write_all(b"half").map_err(Unwritten::Write)?;
            Err(Unwritten::Write(io::ErrorKind::StorageFull.into()))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(at("file")).unwrap(), b"image");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }
}
