//! What enforces limits.

use std::fmt;

/// What enforces a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Memory and swap.
    Memory,
    /// Processor time.
    Cpu,
    /// Which processors and memory nodes are used.
    Cpuset,
    /// Number of processes.
    Pids,
    /// Disk bandwidth.
    Io,
    /// Nothing: it stops and continues all processes. A controller of its own in version 1 only.
    Freezer,
    /// Nothing: it measures processor time. A controller of its own in version 1 only.
    CpuAccounting,
}

impl Controller {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Pids => "pids",
            Self::Io => "io",
            Self::Freezer => "freezer",
            Self::CpuAccounting => "cpuacct",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Cpu => "processor time",
            Self::Cpuset => "the processors that are used",
            Self::Pids => "the number of processes",
            Self::Io => "disk bandwidth",
            Self::Freezer => "when processes stand still",
            Self::CpuAccounting => "the measured processor time",
        })
    }
}
