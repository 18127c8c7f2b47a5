//! What is written down: a JSON object a line.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::registry::{Registry, RegistryError};

/// Lines that wait for a slow reader; then lines are lost, and counted.
const MOST_WAITING: usize = 8192;

/// Where lines go.
pub type Sink = Box<dyn Write + Send>;

/// Writes lines beside the work.
#[derive(Debug)]
pub(crate) struct Log {
    lines: Option<SyncSender<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    /// Starts writing to `sink`.
    pub(crate) fn start(mut sink: Sink) -> Result<Self, RegistryError> {
        let (lines, waiting) = sync_channel::<String>(MOST_WAITING);
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                while let Ok(mut text) = waiting.recv() {
                    text.push('\n');
                    while text.len() < 64 << 10
                        && let Ok(line) = waiting.try_recv()
                    {
                        text.push_str(&line);
                        text.push('\n');
                    }
                    if sink
                        .write_all(text.as_bytes())
                        .and_then(|()| sink.flush())
                        .is_err()
                    {
                        // Nobody reads; serving goes on.
                    }
                }
            });
        let thread =
            thread.map_err(|error| RegistryError::Network(format!("no thread: {error}")))?;
        Ok(Self {
            lines: Some(lines),
            thread: Some(thread),
        })
    }

    /// Writes a line, or counts it as lost.
    pub(crate) fn line(&self, registry: &Registry, line: String) {
        let Some(lines) = &self.lines else { return };
        if lines.try_send(line).is_err() {
            registry.metrics.lost_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes down what happened to the registry itself.
    pub(crate) fn event(
        self: &Arc<Self>,
        registry: &Registry,
        event: &str,
        detail: serde_json::Value,
    ) {
        let at = rfc3339(registry.time());
        self.line(
            registry,
            json!({ "at": at, "event": event, "detail": detail }).to_string(),
        );
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(self.lines.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            // The sink panicked; there is nowhere to say so.
        }
    }
}

/// A time as `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    kiln_oci::rfc3339(since.as_secs())
}
