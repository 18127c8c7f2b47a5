//! A health probe that is kiln's own: a process that moves into the container's network, asks and ends.

use std::time::Duration;

use kiln_sandbox::{ProcessName, Running};
use serde::{Deserialize, Serialize};

use crate::health::{self, Probe};

/// What is to be asked, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProbeOrder {
    /// The container's first process: number and start time.
    pub process: (u32, u64),
    /// The question.
    pub probe: Probe,
    /// How long the answer may take.
    pub timeout: Duration,
}

impl ProbeOrder {
    /// Asks. Call it before the first thread is started.
    ///
    /// # Errors
    /// The bad answer, for a person.
    pub fn run(&self) -> Result<String, String> {
        let (pid, start_time) = self.process;
        let running = Running::open(ProcessName { pid, start_time })
            .map_err(|error| error.to_string())?
            .ok_or("it has ended")?;
        running.enter_users().map_err(|error| error.to_string())?;
        running.enter_network().map_err(|error| error.to_string())?;
        health::ask(&self.probe, self.timeout)
    }
}
