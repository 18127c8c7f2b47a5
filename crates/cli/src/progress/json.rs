//! Events as they are, one JSON object per line (`docs/formats/build-events.md`).

use std::io::{self, Write};

use kiln_build::BuildEvent;

use super::View;

/// Writes each event as a line.
pub(super) struct Json<W>(W);

impl<W: Write + Send> Json<W> {
    pub(super) fn new(output: W) -> Self {
        Self(output)
    }
}

impl<W: Write + Send> View for Json<W> {
    fn event(&mut self, event: &BuildEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}
