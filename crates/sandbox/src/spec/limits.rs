//! What a sandbox may use up.

use crate::cgroup::{Controller, NumberList};

/// What a sandbox may use up. A limit that is set must be enforced: if the host cannot, the sandbox does not
/// start. [`Host::enforceable`](crate::Host::enforceable) tells which ones it can.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// Swap, beyond `memory_bytes`; [`ANY_SWAP`] for as much as there is. With a memory limit and without this: none.
    pub swap_bytes: Option<u64>,
    /// Memory that is left to it when the machine runs short, as long as others have more to give.
    pub memory_reservation_bytes: Option<u64>,
    /// Processor time.
    pub processor_time: Option<ProcessorTime>,
    /// Share of processor time against others that want it, 2 to 262144; 1024 is usual.
    pub cpu_shares: Option<u32>,
    /// Processors that it runs on.
    pub processors: Option<NumberList>,
    /// Memory nodes that its memory is on.
    pub memory_nodes: Option<NumberList>,
    /// Number of processes and threads.
    pub pids: PidsLimit,
    /// Share of disk bandwidth against others, 1 to 10000; 100 is usual. Cgroup v2 only.
    pub io_weight: Option<u16>,
}

/// How much of each span of time a sandbox may compute for, on all processors together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorTime {
    /// So much; `None` for any amount.
    pub quota_microseconds: Option<u64>,
    /// Of so much.
    pub period_microseconds: u64,
}

impl ProcessorTime {
    /// What the period is if nobody says.
    pub const USUAL_PERIOD_MICROSECONDS: u64 = 100_000;
    /// The kernel takes no less, of either.
    pub const LEAST_MICROSECONDS: u64 = 1000;

    /// In thousandths of one processor: 1500 is one and a half.
    #[must_use]
    pub const fn thousandths(number: u32) -> Self {
        let quota = number as u64 * (Self::USUAL_PERIOD_MICROSECONDS / 1000);
        Self {
            quota_microseconds: Some(if quota < Self::LEAST_MICROSECONDS {
                Self::LEAST_MICROSECONDS
            } else {
                quota
            }),
            period_microseconds: Self::USUAL_PERIOD_MICROSECONDS,
        }
    }
}

/// The number of bytes that stands for swap without a limit.
pub const ANY_SWAP: u64 = u64::MAX;

impl Limits {
    /// Takes back what `controller` would enforce.
    pub(crate) fn lift(&mut self, controller: Controller) {
        match controller {
            Controller::Memory => {
                self.memory_bytes = None;
                self.swap_bytes = None;
                self.memory_reservation_bytes = None;
            }
            Controller::Cpu => {
                self.processor_time = None;
                self.cpu_shares = None;
            }
            Controller::Cpuset => {
                self.processors = None;
                self.memory_nodes = None;
            }
            Controller::Pids => self.pids = PidsLimit::Default,
            Controller::Io => self.io_weight = None,
            // They limit nothing.
            Controller::Freezer | Controller::CpuAccounting => {}
        }
    }
}

/// Which cgroups a sandbox has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accounting {
    /// Those that its limits need.
    #[default]
    Limits,
    /// All that can be had, so that it can be frozen, measured and limited later.
    Everything,
}

/// How many processes and threads a sandbox may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PidsLimit {
    /// 2048 where the host can enforce it, else no limit.
    #[default]
    Default,
    /// This many, enforced.
    AtMost(u32),
    /// No limit.
    Unlimited,
}

/// A resource limit of the process, as `setrlimit(2)` knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Which one.
    pub resource: RlimitResource,
    /// The limit that is in force; `None` for no limit.
    pub soft: Option<u64>,
    /// How far the process may raise it; `None` for no limit.
    pub hard: Option<u64>,
    /// A limit that somebody asked for must be granted; one of kiln's own making is lowered to what the host
    /// allows.
    pub demand: Demand,
}

/// Whether something must be granted as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// Fail if it cannot be granted.
    Required,
    /// Come as close as possible.
    Preferred,
}

/// The resources of `setrlimit(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of setrlimit(2)")]
pub enum RlimitResource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}
