//! The output of steps, kept by name.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::disk;
use crate::error::{At, StoreError, found};
use crate::name::Name;
use crate::session::Session;
use crate::store::Store;

/// The store's logs; see [`Store::logs`].
#[derive(Debug, Clone, Copy)]
pub struct Logs<'a> {
    store: &'a Store,
}

impl Store {
    /// The output of steps.
    pub fn logs(&self) -> Logs<'_> {
        Logs { store: self }
    }
}

impl Logs<'_> {
    /// Begins a log under a name that nobody else uses. It can be read while it grows, and stays
    /// as it is if the process dies.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(&self, session: &Session) -> Result<LogWriter, StoreError> {
        let name = Name::new(&crate::store::random_hex()?)?;
        let path = self.path(&name);
        let file = disk::create_new(&path, 0o600)?;
        disk::touch(&path, session.now())?;
        Ok(LogWriter { name, path, file })
    }

    /// Where a log is, or would be.
    pub fn path(&self, name: &Name) -> PathBuf {
        self.store.at(&format!("logs/{name}"))
    }

    /// Opens a log; `None` if there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(&self, name: &Name) -> Result<Option<File>, StoreError> {
        found(disk::open_read(&self.path(name)))
    }
}

/// A log that is being written. Every write goes to the file at once; buffer in front of it.
#[derive(Debug)]
pub struct LogWriter {
    name: Name,
    path: PathBuf,
    file: File,
}

impl LogWriter {
    /// The log's name, for records.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).at("write", &self.path)
    }
}

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
