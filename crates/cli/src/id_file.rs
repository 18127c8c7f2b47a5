//! `--cidfile`: a file that gets the id of a container.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use kiln_store::ContainerId;

use crate::errors::{Class, Failure, Outcome};

/// A file that was not there before. It is removed again unless an id is written.
#[derive(Debug)]
pub(crate) struct IdFile {
    path: PathBuf,
    file: File,
    is_written: bool,
}

impl IdFile {
    /// Makes it, before there is a container.
    ///
    /// # Errors
    /// It is there already, of another container, or cannot be made.
    pub(crate) fn reserve(path: &Path) -> Outcome<Self> {
        let file = File::create_new(path).map_err(|error| {
            let message = format!(
                "cannot make `{}` for the container's id: {error}",
                path.display()
            );
            let help = "name a file that is not there, or remove it".to_owned();
            Failure::message(Class::User, message, Some(help))
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            is_written: false,
        })
    }

    /// Writes the id, as docker without the end of a line.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(mut self, id: &ContainerId) -> Outcome {
        let written = self.file.write_all(id.as_str().as_bytes());
        written.map_err(|error| {
            let message = format!("cannot write `{}`: {error}", self.path.display());
            Failure::message(Class::Environment, message, None)
        })?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.is_written
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("`{}` stays behind: {error}", self.path.display());
        }
    }
}
