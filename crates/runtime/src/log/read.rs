//! Reads a container's log, from the oldest file to what is being written.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{LOG_FILE, LogEntry, numbered};

/// Most files that are looked for.
const MAX_FILES: u32 = 10_000;

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Not those before this.
    pub since: Option<Timestamp>,
    /// Not those from this on.
    pub until: Option<Timestamp>,
    /// Of those that are there now, only so many at the end.
    pub tail: Option<usize>,
}

impl LogFilter {
    fn wants(&self, entry: &LogEntry) -> bool {
        self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
    }
}

/// Entries in the order they were written. It ends where the log ends now, and can be asked again later.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    filter: LogFilter,
    /// Files before the one that is written, the oldest first.
    older: VecDeque<File>,
    file: Option<BufReader<File>>,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
    /// Entries that were read ahead.
    ready: VecDeque<LogEntry>,
    /// Whether the end was chosen among what was there at first.
    chosen: bool,
}

impl LogReader {
    /// Opens the log in a container's folder; one that is not there is empty.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(folder: &Path, filter: LogFilter) -> io::Result<Self> {
        let path = folder.join(LOG_FILE);
        let mut older = VecDeque::new();
        for number in 1..MAX_FILES {
            match File::open(numbered(&path, number)) {
                Ok(file) => older.push_front(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            path,
            filter,
            older,
            file: None,
            partial: Vec::new(),
            ready: VecDeque::new(),
            chosen: filter.tail.is_none(),
        })
    }

    fn choose(&mut self) -> io::Result<()> {
        let tail = self.filter.tail.unwrap_or(usize::MAX);
        let mut last = VecDeque::new();
        while let Some(entry) = self.read_wanted()? {
            last.push_back(entry);
            // Pieces of one line count as one.
            let lines = last.iter().filter(|it: &&LogEntry| it.log.ends_with('\n'));
            let open = usize::from(last.back().is_some_and(|it| !it.log.ends_with('\n')));
            if last.len() > tail && lines.count() + open > tail {
                last.pop_front();
            }
        }
        self.ready = last;
        self.chosen = true;
        Ok(())
    }

    fn read_wanted(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            match self.read()? {
                Some(entry) if self.filter.wants(&entry) => return Ok(Some(entry)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn read(&mut self) -> io::Result<Option<LogEntry>> {
        loop {
            let Some(file) = &mut self.file else {
                let next = match self.older.pop_front() {
                    Some(file) => file,
                    None => match File::open(&self.path) {
                        Ok(file) => file,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                        Err(error) => return Err(error),
                    },
                };
                self.file = Some(BufReader::new(next));
                continue;
            };
            file.read_until(b'\n', &mut self.partial)?;
            if self.partial.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                // A line that is none of ours, after a loss of power for example, is left out.
                if let Ok(entry) = serde_json::from_slice(&line) {
                    return Ok(Some(entry));
                }
                continue;
            }
            let is_last = self.older.is_empty() && self.is_written()?;
            if is_last {
                return Ok(None);
            }
            self.partial.clear();
            self.file = None;
        }
    }

    /// Whether the file that is read is still the one that is written.
    fn is_written(&self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(false);
        };
        let own = file.get_ref().metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(written) => Ok((own.dev(), own.ino()) == (written.dev(), written.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

impl Iterator for LogReader {
    type Item = io::Result<LogEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.chosen
            && let Err(error) = self.choose()
        {
            return Some(Err(error));
        }
        if let Some(entry) = self.ready.pop_front() {
            return Some(Ok(entry));
        }
        self.read_wanted().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogWriter, Stream};
    use super::*;
    use crate::config::LogOptions;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn texts(reader: &mut LogReader) -> String {
        reader.map(|entry| entry.unwrap().log).collect()
    }

    #[test]
    fn a_reader_goes_on_where_it_was_also_into_the_next_file() {
        let folder = tempfile::tempdir().unwrap();
        let options = LogOptions {
            max_bytes: Some(200),
            max_files: 9,
            ..LogOptions::default()
        };
        let mut log = LogWriter::open(folder.path(), options).unwrap();
        let mut reader = LogReader::open(folder.path(), LogFilter::default()).unwrap();
        assert_eq!(texts(&mut reader), "");
        let mut expected = String::new();
        for number in 0..12 {
            let line = format!("{number}\n");
            log.add(Stream::Stdout, line.as_bytes(), at(number))
                .unwrap();
            assert_eq!(texts(&mut reader), line);
            expected.push_str(&line);
        }
        let mut reader = LogReader::open(folder.path(), LogFilter::default()).unwrap();
        assert_eq!(texts(&mut reader), expected);
    }

    #[test]
    fn times_and_the_end_are_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(folder.path(), LogOptions::default()).unwrap();
        for number in 0..10 {
            log.add(Stream::Stdout, format!("{number}\n").as_bytes(), at(number))
                .unwrap();
        }
        let read = |filter| texts(&mut LogReader::open(folder.path(), filter).unwrap());
        let filter = LogFilter::default();
        let since = LogFilter {
            since: Some(at(8)),
            ..filter
        };
        assert_eq!(read(since), "8\n9\n");
        let until = LogFilter {
            until: Some(at(2)),
            ..filter
        };
        assert_eq!(read(until), "0\n1\n");
        for (tail, text) in [
            (0, ""),
            (2, "8\n9\n"),
            (99, "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"),
        ] {
            let tail = LogFilter {
                tail: Some(tail),
                ..filter
            };
            assert_eq!(read(tail), text);
        }
        let mut reader = LogReader::open(
            folder.path(),
            LogFilter {
                tail: Some(1),
                ..filter
            },
        )
        .unwrap();
        assert_eq!(texts(&mut reader), "9\n");
        log.add(Stream::Stderr, b"later\n", at(11)).unwrap();
        assert_eq!(texts(&mut reader), "later\n");
    }

    #[test]
    fn a_torn_line_is_waited_for_and_nonsense_is_left_out() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LOG_FILE);
        let whole = "{\"log\":\"x\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}\n";
        let mut file = File::create(&path).unwrap();
        file.write_all(b"\0\0\0\n").unwrap();
        file.write_all(&whole.as_bytes()[..10]).unwrap();
        let mut reader = LogReader::open(folder.path(), LogFilter::default()).unwrap();
        assert_eq!(texts(&mut reader), "");
        file.write_all(&whole.as_bytes()[10..]).unwrap();
        assert_eq!(texts(&mut reader), "x\n");
    }
}
