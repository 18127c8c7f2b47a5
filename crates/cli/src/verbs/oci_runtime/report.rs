//! Errors in the forms that podman, docker and containerd read.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::LogFormat;
use crate::printer::Printer;

/// Where errors go.
#[derive(Clone)]
pub(super) struct Report {
    log: Option<PathBuf>,
    format: LogFormat,
}

impl Report {
    pub(super) const fn new(log: Option<PathBuf>, format: LogFormat) -> Self {
        Self { log, format }
    }

    /// Tells of an error, on standard error and in the log.
    pub(super) fn error(&self, message: &str) {
        Printer::plain().note(format!("kiln oci-runtime: {message}"));
        self.log("error", message);
    }

    /// Tells of something that works and may surprise.
    pub(super) fn warning(&self, message: &str) {
        Printer::plain().warning(message);
        self.log("warning", message);
    }

    /// Tells what is done, where that was asked for.
    pub(super) fn debug(&self, message: &str) {
        if self.log.is_none() {
            Printer::plain().note(format!("level=debug msg={message:?}"));
        }
        self.log("debug", message);
    }

    fn log(&self, level: &str, message: &str) {
        let Some(path) = &self.log else {
            return;
        };
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
        let line = match self.format {
            LogFormat::Json => {
                json!({ "level": level, "msg": message, "time": time.to_string() }).to_string()
            }
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={message:?}"),
        };
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            let place = path.display();
            Printer::plain().note(format!("kiln oci-runtime: cannot write `{place}`: {error}"));
        }
    }
}
