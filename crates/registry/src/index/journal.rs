//! The journal: every change that must outlive the database, a JSON object a line.
//!
//! ```text
//! journal/00000001.log    all up to some moment, in as few lines as that takes
//! journal/00000002.log    what came after
//! ```
//!
//! Appended and synced before the transaction that it belongs to is committed. What is appended at once begins with
//! a number, which the transaction leaves in the database; so what belongs to a transaction that never was is found
//! when the journal is opened, and cut off: nobody was told of it, and it did not happen. A last line without its end
//! was being written when the machine stopped, and is cut off too. If the database knows less than that, it is an old
//! one, and not used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::IndexError;
use super::change::Change;
use super::db::Db;
use super::snapshot::Snapshot;
use crate::upkeep::wait;

/// How the line begins that begins what is appended at once.
const BATCH: &[u8] = b"{\"op\":\"batch\"";

/// The journal's last file, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    folder: PathBuf,
    number: u64,
    file: File,
    length: u64,
    /// The number of what was appended last.
    batch: i64,
    /// Whether there may be something behind `length`, which could not be cut off.
    is_torn: bool,
}

impl Journal {
    /// Opens the journal in `folder`, which is made if need be; `committed` is what the database has as the number of
    /// the last transaction.
    ///
    /// # Errors
    /// Among others [`IndexError::Behind`].
    pub(super) fn open(folder: &Path, committed: Option<i64>) -> Result<Self, IndexError> {
        fs::create_dir_all(folder).map_err(|error| IndexError::io(folder, error))?;
        let number = files(folder)?.last().map_or(1, |(number, _)| *number);
        let mut journal = Self::open_file(folder, number, 0)?;
        let batches = journal.cut_torn_line()?;
        let newest = batches.last().map_or(0, |(batch, _)| *batch);
        // A database that was made again has no number yet, and everything that the journal says.
        journal.batch = committed.unwrap_or(newest);
        let mut unknown = batches.iter().filter(|(batch, _)| *batch > journal.batch);
        match (unknown.next(), unknown.next()) {
            (None, _) => {}
            (Some((batch, offset)), None) if *batch == journal.batch + 1 => {
                journal.set_aside(*offset)?;
            }
            (Some(_), _) => return Err(IndexError::Behind),
        }
        Ok(journal)
    }

    fn open_file(folder: &Path, number: u64, batch: i64) -> Result<Self, IndexError> {
        let path = path(folder, number);
        let failed = |error| IndexError::io(&path, error);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        let file = options.open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        sync_folder(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            number,
            file,
            length,
            batch,
            is_torn: false,
        })
    }

    /// Cuts off a line without its end; returns the numbers of what was appended, and where each begins.
    fn cut_torn_line(&mut self) -> Result<Vec<(i64, u64)>, IndexError> {
        let path = self.path();
        let failed = |error| IndexError::io(&path, error);
        let mut reader = BufReader::new(File::open(&path).map_err(failed)?);
        let (mut whole, mut line, mut batches) = (0, Vec::new(), Vec::new());
        // Only the last line can be torn; lines before it are as long as a manifest at most.
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if line.last() != Some(&b'\n') {
                break;
            }
            if line.starts_with(BATCH)
                && let Ok(Change::Batch { number }) = serde_json::from_slice(&line)
            {
                batches.push((number, whole));
            }
            whole += read as u64;
        }
        if whole < self.length {
            self.cut(whole)?;
        }
        Ok(batches)
    }

    /// Takes what is behind an offset out of the journal, and keeps it for whoever wonders.
    fn set_aside(&mut self, offset: u64) -> Result<(), IndexError> {
        let path = self.path();
        let failed = |error| IndexError::io(&path, error);
        let bytes = fs::read(&path).map_err(failed)?;
        let rest = bytes.get(usize::try_from(offset).unwrap_or(usize::MAX)..);
        fs::write(path.with_extension("cut"), rest.unwrap_or_default()).map_err(failed)?;
        self.cut(offset)
    }

    /// The number of what will be appended next.
    pub(super) fn next_batch(&self) -> i64 {
        self.batch + 1
    }

    /// What was appended is committed.
    pub(super) fn committed(&mut self, batch: i64) {
        self.batch = batch;
    }

    fn path(&self) -> PathBuf {
        path(&self.folder, self.number)
    }

    /// Appends whole lines and syncs them; returns the length before.
    pub(super) fn append(&mut self, lines: &[u8]) -> Result<u64, IndexError> {
        let before = self.length;
        if lines.is_empty() {
            return Ok(before);
        }
        if self.is_torn {
            self.cut(before)?;
        }
        let written = self
            .file
            .write_all(lines)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            self.cut(before)?;
            return Err(IndexError::io(&self.path(), error));
        }
        self.length = before + lines.len() as u64;
        Ok(before)
    }

    /// Takes back what was appended after `length`.
    pub(super) fn cut(&mut self, length: u64) -> Result<(), IndexError> {
        let path = self.path();
        (self.length, self.is_torn) = (length, true);
        self.file
            .set_len(length)
            .map_err(|error| IndexError::io(&path, error))?;
        self.file
            .seek(SeekFrom::Start(length))
            .and_then(|_| self.file.sync_data())
            .map_err(|error| IndexError::io(&path, error))?;
        self.is_torn = false;
        Ok(())
    }

    /// Begins a new file; returns the number of the one before.
    pub(super) fn rotate(&mut self) -> Result<u64, IndexError> {
        let last = self.number;
        *self = Self::open_file(&self.folder, last + 1, self.batch)?;
        Ok(last)
    }
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

/// The files of a journal in their order.
pub(crate) fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, IndexError> {
    let failed = |error| IndexError::io(folder, error);
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".log")?.parse().ok());
        files.extend(number.map(|number| (number, path)));
    }
    files.sort();
    Ok(files)
}

/// Bytes of all files.
pub(super) fn size(folder: &Path) -> Result<u64, IndexError> {
    let mut total = 0;
    for (_, path) in files(folder)? {
        total += fs::metadata(&path)
            .map_err(|error| IndexError::io(&path, error))?
            .len();
    }
    Ok(total)
}

/// Calls `each` for every change, oldest first.
///
/// # Errors
/// A file or line cannot be read, or what `each` returns.
pub(crate) fn replay(
    folder: &Path,
    mut each: impl FnMut(Change) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    for (_, path) in files(folder)? {
        let file = File::open(&path).map_err(|error| IndexError::io(&path, error))?;
        let (mut reader, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
        loop {
            line.clear();
            number += 1;
            reader
                .read_until(b'\n', &mut line)
                .map_err(|error| IndexError::io(&path, error))?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let change = serde_json::from_slice(&line).map_err(|error| {
                let why = format!("line {number}: {error}");
                IndexError::io(&path, io::Error::new(io::ErrorKind::InvalidData, why))
            })?;
            each(change)?;
        }
    }
    Ok(())
}

/// Writes what a snapshot of the database holds in place of the journal's files up to `last`.
pub(super) fn compact(db: Db<'_>, folder: &Path, last: u64) -> Result<(), IndexError> {
    let target = path(folder, last);
    let draft = target.with_extension("tmp");
    let failed = |error| IndexError::io(&draft, error);
    let mut out = BufWriter::new(File::create(&draft).map_err(failed)?);
    let (mut snapshot, mut lines) = (Snapshot::of(db), Vec::new());
    while let Some(changes) = wait(snapshot.next())? {
        lines.clear();
        for change in changes {
            change.write_line(&mut lines);
        }
        out.write_all(&lines).map_err(failed)?;
    }
    let file = out
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(&draft, &target).map_err(failed)?;
    sync_folder(folder)?;
    for (number, path) in files(folder)? {
        if number < last {
            fs::remove_file(&path).map_err(|error| IndexError::io(&path, error))?;
        }
    }
    sync_folder(folder)
}

/// Makes names in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), IndexError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| IndexError::io(folder, error))
}
