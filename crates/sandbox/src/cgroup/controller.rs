//! What enforces limits.

use std::fmt;

/// What enforces a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processor time.
    Cpu,
    /// Number of processes.
    Pids,
    /// Disk bandwidth.
    Io,
}

impl Controller {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Io => "io",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "processor time",
            Self::Pids => "the number of processes",
            Self::Io => "disk bandwidth",
        })
    }
}
