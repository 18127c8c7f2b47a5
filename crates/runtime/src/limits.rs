//! What a container may use up, as it is asked for.

use kiln_sandbox::{Limits, NumberList, PidsLimit, ProcessorTime};
use serde::{Deserialize, Serialize};

/// Limits of a container. What is `None` nobody said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct PlannedLimits {
    /// Most memory, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Most swap, beyond the memory; [`ANY_SWAP`](kiln_sandbox::ANY_SWAP) for as much as there is. None if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Memory that is left to it when the machine runs short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation_bytes: Option<u64>,
    /// Most processor time, in thousandths of a processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_thousandths: Option<u32>,
    /// The same in another way, instead of it: so many microseconds of each period; 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota_microseconds: Option<u64>,
    /// How long a period is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period_microseconds: Option<u64>,
    /// Share of processor time against others, 2 to 262144; 1024 is usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u32>,
    /// Processors that it runs on, such as `0-3,5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors: Option<String>,
    /// Memory nodes that its memory is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_nodes: Option<String>,
    /// Most processes and threads; 0 for no limit, docker's way to say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
}

impl PlannedLimits {
    /// These, and `others` where they say nothing.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        // What was said in one way is not to be overruled by what was said in the other.
        let in_periods =
            self.cpu_quota_microseconds.is_some() || self.cpu_period_microseconds.is_some();
        let in_numbers = self.cpu_thousandths.is_some();
        Self {
            memory_bytes: self.memory_bytes.or(others.memory_bytes),
            swap_bytes: self.swap_bytes.or(others.swap_bytes),
            memory_reservation_bytes: self
                .memory_reservation_bytes
                .or(others.memory_reservation_bytes),
            cpu_thousandths: self
                .cpu_thousandths
                .or(others.cpu_thousandths.filter(|_| !in_periods)),
            cpu_quota_microseconds: self
                .cpu_quota_microseconds
                .or(others.cpu_quota_microseconds.filter(|_| !in_numbers)),
            cpu_period_microseconds: self
                .cpu_period_microseconds
                .or(others.cpu_period_microseconds.filter(|_| !in_numbers)),
            cpu_shares: self.cpu_shares.or(others.cpu_shares),
            processors: self.processors.or(others.processors),
            memory_nodes: self.memory_nodes.or(others.memory_nodes),
            pids: self.pids.or(others.pids),
        }
    }

    fn processor_time(&self) -> Option<ProcessorTime> {
        let (quota, period) = (self.cpu_quota_microseconds, self.cpu_period_microseconds);
        if let Some(number) = self.cpu_thousandths {
            return Some(ProcessorTime::thousandths(number));
        }
        let usual = ProcessorTime::USUAL_PERIOD_MICROSECONDS;
        quota.or(period).map(|_| ProcessorTime {
            quota_microseconds: quota.filter(|quota| *quota > 0),
            period_microseconds: period.unwrap_or(usual),
        })
    }

    /// As the sandbox takes them.
    #[must_use]
    pub fn for_sandbox(&self) -> Limits {
        let list = |text: &Option<String>| text.as_deref().and_then(NumberList::parse);
        Limits {
            memory_bytes: self.memory_bytes,
            swap_bytes: self.swap_bytes,
            memory_reservation_bytes: self.memory_reservation_bytes,
            processor_time: self.processor_time(),
            cpu_shares: self.cpu_shares,
            processors: list(&self.processors),
            memory_nodes: list(&self.memory_nodes),
            pids: match self.pids {
                None => PidsLimit::Default,
                Some(0) => PidsLimit::Unlimited,
                Some(count) => PidsLimit::AtMost(count),
            },
            io_weight: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_first_counts_and_nothing_is_lost() {
        let first = PlannedLimits {
            pids: Some(0),
            cpu_period_microseconds: Some(20_000),
            processors: Some("1".to_owned()),
            ..PlannedLimits::default()
        };
        let others = PlannedLimits {
            pids: Some(5),
            cpu_shares: Some(2),
            cpu_thousandths: Some(500),
            ..PlannedLimits::default()
        };
        let limits = first.or(others).for_sandbox();
        assert_eq!(limits.pids, PidsLimit::Unlimited);
        assert_eq!(
            (limits.processors, limits.cpu_shares),
            (NumberList::parse("1"), Some(2))
        );
        let time = |quota_microseconds, period_microseconds| {
            Some(ProcessorTime {
                quota_microseconds,
                period_microseconds,
            })
        };
        assert_eq!(limits.processor_time, time(None, 20_000));
        let quota = |microseconds| PlannedLimits {
            cpu_quota_microseconds: Some(microseconds),
            ..PlannedLimits::default()
        };
        let made = |limits: PlannedLimits| limits.for_sandbox().processor_time;
        assert_eq!(made(quota(5000)), time(Some(5000), 100_000));
        assert_eq!(made(quota(0)), time(None, 100_000));
        let number = PlannedLimits {
            cpu_thousandths: Some(1500),
            ..PlannedLimits::default()
        };
        assert_eq!(made(number.or(quota(5000))), time(Some(150_000), 100_000));
    }
}
