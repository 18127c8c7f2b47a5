//! How a process ended.

/// How the first process of a sandbox ended, and with it everything in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// What the kernel reported.
    pub status: ExitStatus,
    /// A process of the sandbox was killed because the sandbox's memory limit was reached.
    pub out_of_memory: bool,
}

/// What the kernel reports of an ended process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It ended by itself, with this code.
    Code(i32),
    /// A signal of this number ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == ExitStatus::Code(0)
    }

    /// The code as a shell would report it: 128 + the number of the signal.
    #[must_use]
    pub const fn code(&self) -> i32 {
        match self.status {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => 128 + signal,
        }
    }
}
