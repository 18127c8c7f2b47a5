//! Cuts what a process writes into lines.

use std::io::{self, Write};

use crate::event::OutputStream;
use crate::reporter::Reporter;

/// Longest piece of a line that is reported at once. A process may write without end and without a
/// line break; memory stays bounded all the same.
const LINE_LIMIT_BYTES: usize = 8 * 1024;

/// Reports each complete line that is written to it; the rest when it is flushed or dropped.
#[derive(Debug)]
pub struct LineWriter<'a> {
    reporter: &'a Reporter<'a>,
    stream: OutputStream,
    partial: Vec<u8>,
}

impl<'a> LineWriter<'a> {
    pub(crate) fn new(reporter: &'a Reporter<'a>, stream: OutputStream) -> Self {
        Self {
            reporter,
            stream,
            partial: Vec::new(),
        }
    }

    fn report_partial(&mut self) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        self.reporter.line(self.stream, line);
        self.partial.clear();
    }
}

impl Write for LineWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, is_complete) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            for part in text.chunks(LINE_LIMIT_BYTES) {
                if self.partial.len() + part.len() > LINE_LIMIT_BYTES {
                    self.report_partial();
                }
                self.partial.extend_from_slice(part);
            }
            if is_complete {
                self.report_partial();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.partial.is_empty() {
            self.report_partial();
        }
        Ok(())
    }
}

impl Drop for LineWriter<'_> {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.report_partial();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::reporter::Report;

    fn lines(writes: &[&[u8]]) -> Vec<String> {
        let seen = Mutex::new(Vec::new());
        let reporter = Reporter::new(|report| {
            if let Report::Line { line, .. } = report {
                seen.lock().unwrap().push(line);
            }
        });
        let mut writer = LineWriter::new(&reporter, OutputStream::Stdout);
        for write in writes {
            writer.write_all(write).unwrap();
        }
        drop(writer);
        drop(reporter);
        seen.into_inner().unwrap()
    }

    #[test]
    fn lines_are_put_together_from_writes() {
        assert_eq!(
            lines(&[b"on", b"e\ntwo\r\n\nfo", b"ur"]),
            ["one", "two", "", "four"]
        );
        assert_eq!(lines(&[b"bad \xff byte\n"]), ["bad \u{fffd} byte"]);
        assert_eq!(lines(&[b""]), Vec::<String>::new());
    }

    #[test]
    fn a_line_without_end_comes_in_bounded_pieces() {
        let long = vec![b'x'; 3 * LINE_LIMIT_BYTES + 5];
        let pieces = lines(&[&long, b"tail\n"]);
        assert!(pieces.iter().all(|piece| piece.len() <= LINE_LIMIT_BYTES));
        assert_eq!(pieces.concat().len(), long.len() + 4);
    }
}
