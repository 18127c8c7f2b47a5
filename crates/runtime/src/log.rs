//! A container's output, kept as docker's `json-file` driver keeps it: one JSON object a line.
//!
//! ```text
//! log.json     {"log":"text\n","stream":"stdout","time":"2026-11-26T15:00:00.123456789Z"}
//! log.json.1   the file before that, if there is a limit
//! ```
//! What the container writes is text inside of a JSON string: it can neither end a line of the file nor forge one.

mod read;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::LogOptions;

pub use read::{LogFilter, LogReader};

/// The file that is written.
pub(crate) const LOG_FILE: &str = "log.json";

/// Longest piece of a line in one entry, in bytes; docker's.
const MAX_PIECE: usize = 16 * 1024;

/// Which of its outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output, or its terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One entry: a line, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The text, with its line feed if the line ends here.
    pub log: String,
    /// Where it was written to.
    pub stream: Stream,
    /// When kiln read it.
    pub time: Timestamp,
}

/// Writes a container's log.
#[derive(Debug)]
pub(crate) struct LogWriter {
    path: PathBuf,
    options: LogOptions,
    file: File,
    length: u64,
    /// What has no end of line yet, of both streams.
    pending: [Vec<u8>; 2],
}

impl LogWriter {
    /// Opens the log in a container's folder, to add to it.
    pub(crate) fn open(folder: &Path, options: LogOptions) -> io::Result<Self> {
        let path = folder.join(LOG_FILE);
        let file = append(&path)?;
        Ok(Self {
            length: file.metadata()?.len(),
            path,
            options,
            file,
            pending: [Vec::new(), Vec::new()],
        })
    }

    /// Adds output as it was read; whole lines are in the file when this returns.
    pub(crate) fn add(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let pending = &mut self.pending[stream as usize];
            let room = MAX_PIECE - pending.len();
            let line = rest.iter().position(|byte| *byte == b'\n');
            let end = line.map_or(rest.len(), |at| at + 1).min(room);
            let (piece, after) = rest.split_at(end);
            pending.extend_from_slice(piece);
            rest = after;
            if piece.ends_with(b"\n") || pending.len() >= MAX_PIECE {
                self.flush(stream, now)?;
            }
        }
        Ok(())
    }

    /// Writes what has no end of line: the container has ended.
    pub(crate) fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        self.flush(Stream::Stdout, now)?;
        self.flush(Stream::Stderr, now)
    }

    fn flush(&mut self, stream: Stream, now: Timestamp) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending[stream as usize]);
        if pending.is_empty() {
            return Ok(());
        }
        let entry = LogEntry {
            log: String::from_utf8_lossy(&pending).into_owned(),
            stream,
            time: now,
        };
        let mut line = serde_json::to_vec(&entry).map_err(io::Error::other)?;
        line.push(b'\n');
        let length = line.len() as u64;
        let full = |max| self.length > 0 && self.length + length > max;
        if self.options.max_bytes.is_some_and(full) {
            self.rotate()?;
        }
        self.file.write_all(&line)?;
        self.length += length;
        self.pending[stream as usize] = {
            let mut pending = pending;
            pending.clear();
            pending
        };
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| numbered(&self.path, number);
        for number in (1..self.options.max_files).rev() {
            match std::fs::rename(numbered(number - 1), numbered(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if self.options.max_files <= 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

/// The `number`th file before the one that is written, which is 0.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn examine(line: &[u8]) {
    if let Ok(entry) = serde_json::from_slice::<LogEntry>(line) {
        let text = serde_json::to_vec(&entry).expect("an entry has only text keys");
        assert_eq!(serde_json::from_slice::<LogEntry>(&text).ok(), Some(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entries(folder: &Path) -> Vec<LogEntry> {
        LogReader::open(folder, LogFilter::default())
            .unwrap()
            .collect::<io::Result<_>>()
            .unwrap()
    }

    #[test]
    fn lines_are_entries_and_what_is_written_cannot_forge_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(folder.path(), LogOptions::default()).unwrap();
        log.add(Stream::Stdout, b"one\ntw", at(1)).unwrap();
        log.add(Stream::Stderr, b"err\n", at(2)).unwrap();
        let forged = b"o\"}\r\x1b[2J\n{\"log\":\"x\",\"stream\":\"stdout\",\"time\":\"1999-01-01T00:00:00Z\"}\n\xff\n";
        log.add(Stream::Stdout, forged, at(3)).unwrap();
        log.add(Stream::Stdout, b"no end", at(4)).unwrap();
        log.finish(at(5)).unwrap();
        let entries = entries(folder.path());
        let texts: Vec<&str> = entries.iter().map(|entry| entry.log.as_str()).collect();
        assert_eq!(texts[..3], ["one\n", "err\n", "two\"}\r\u{1b}[2J\n"]);
        assert!(texts[3].starts_with("{\"log\""), "{texts:?}");
        assert_eq!(texts[4..], ["\u{fffd}\n", "no end"]);
        assert_eq!(entries[1].stream, Stream::Stderr);
        assert_eq!(entries[3].time, at(3));
        let text = std::fs::read_to_string(folder.path().join(LOG_FILE)).unwrap();
        assert_eq!(text.lines().count(), 6);
        assert!(text.bytes().all(|byte| byte == b'\n' || byte >= b' '));
    }

    #[test]
    fn long_lines_are_cut_and_stay_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(folder.path(), LogOptions::default()).unwrap();
        let long = vec![b'x'; 3 * MAX_PIECE + 5];
        log.add(Stream::Stdout, &long, at(1)).unwrap();
        log.add(Stream::Stdout, b"\n", at(1)).unwrap();
        let lengths: Vec<usize> = entries(folder.path())
            .iter()
            .map(|entry| entry.log.len())
            .collect();
        assert_eq!(lengths, [MAX_PIECE, MAX_PIECE, MAX_PIECE, 6]);
    }

    #[test]
    fn old_files_go_when_there_is_a_limit() {
        for max_files in [1, 3] {
            let folder = tempfile::tempdir().unwrap();
            let options = LogOptions {
                max_bytes: Some(400),
                max_files,
                ..LogOptions::default()
            };
            let mut log = LogWriter::open(folder.path(), options).unwrap();
            for number in 0..100 {
                log.add(Stream::Stdout, format!("{number}\n").as_bytes(), at(number))
                    .unwrap();
            }
            let files = std::fs::read_dir(folder.path()).unwrap();
            let sizes: Vec<u64> = files
                .map(|file| file.unwrap().metadata().unwrap().len())
                .collect();
            assert_eq!(sizes.len(), usize::try_from(max_files).unwrap());
            assert!(sizes.iter().all(|size| *size <= 400), "{sizes:?}");
            let numbers: Vec<i64> = entries(folder.path())
                .iter()
                .map(|entry| entry.log.trim().parse().unwrap())
                .collect();
            assert_eq!(numbers.last(), Some(&99));
            let in_order = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
            assert!(in_order && numbers.len() < 30, "{numbers:?}");
        }
    }
}
