//! Flags about what a container may use up; docker's.

use clap::Args;
use kiln_runtime::PlannedLimits;
use kiln_sandbox::{ANY_SWAP, NumberList, ProcessorTime};

use crate::container::wrong;
use crate::errors::Outcome;
use crate::measures::size;

/// What docker writes for no limit.
const NO_LIMIT: &str = "-1";

/// With less than this many bytes not even the smallest program starts.
const LEAST_MEMORY: u64 = 128 << 10;

/// Flags that `run`, `create`, `shell` and `update` share.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Limit the memory
    #[arg(short, long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// Limit memory and swap together; -1 is any amount of swap; with --memory alone there is none
    #[arg(long, value_name = "SIZE", value_parser = swap, allow_negative_numbers = true)]
    memory_swap: Option<u64>,

    /// Leave it so much memory when the machine runs short
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_reservation: Option<u64>,

    /// Limit the processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = thousandths)]
    cpus: Option<u32>,

    /// Limit the processor time to so many microseconds of each period; -1 is no limit
    #[arg(long, value_name = "MICROSECONDS", value_parser = quota, allow_negative_numbers = true, conflicts_with = "cpus")]
    cpu_quota: Option<u64>,

    /// Set how many microseconds that period has, 1000 to 1000000 [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", value_parser = clap::value_parser!(u64).range(1000..=1_000_000), conflicts_with = "cpus")]
    cpu_period: Option<u64>,

    /// Set its share of processor time against others, 2 to 262144 [default: 1024]
    #[arg(short, long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=262_144))]
    cpu_shares: Option<u32>,

    /// Let it run on these processors only, such as 0-3,5
    #[arg(long, value_name = "NUMBERS", value_parser = numbers)]
    cpuset_cpus: Option<String>,

    /// Let its memory be on these memory nodes only, such as 0,1
    #[arg(long, value_name = "NUMBERS", value_parser = numbers)]
    cpuset_mems: Option<String>,

    /// Limit the number of processes and threads; -1 is no limit
    #[arg(long, alias = "pids-limit", value_name = "NUMBER", value_parser = pids, allow_negative_numbers = true)]
    pids: Option<u32>,
}

impl LimitArgs {
    /// The limits that were typed, for a container that has those of `before`.
    ///
    /// # Errors
    /// Sizes of memory that do not go together or are too small, or processor time that is limited in another way already.
    pub(crate) fn planned(&self, before: &PlannedLimits) -> Outcome<PlannedLimits> {
        if self.memory.is_some_and(|memory| memory < LEAST_MEMORY) {
            let message = "no program starts with so little memory".to_owned();
            return Err(wrong(message, "say more, and the unit: --memory 64MB"));
        }
        let memory = self.memory.or(before.memory_bytes);
        let swap_bytes = match (self.memory_swap, memory) {
            (None, _) => None,
            (Some(ANY_SWAP), Some(_)) => Some(ANY_SWAP),
            (Some(together), Some(memory)) => {
                Some(together.checked_sub(memory).ok_or_else(|| {
                    let message = "memory and swap together are less than the memory".to_owned();
                    wrong(message, "raise --memory-swap, or lower --memory")
                })?)
            }
            (Some(_), None) => {
                let message = "swap is only limited together with memory".to_owned();
                return Err(wrong(message, "say --memory, too"));
            }
        };
        let reservation = self.memory_reservation.or(before.memory_reservation_bytes);
        if memory.is_some_and(|memory| reservation.is_some_and(|reservation| reservation > memory))
        {
            let message = "more memory is to be left to it than it may have".to_owned();
            return Err(wrong(
                message,
                "raise --memory, or lower --memory-reservation",
            ));
        }
        let in_periods = self.cpu_quota.is_some() || self.cpu_period.is_some();
        let was_in_periods =
            before.cpu_quota_microseconds.is_some() || before.cpu_period_microseconds.is_some();
        if in_periods && before.cpu_thousandths.is_some() {
            let message = "its processor time is limited by --cpus".to_owned();
            return Err(wrong(message, "change it by --cpus"));
        }
        if self.cpus.is_some() && was_in_periods {
            let message =
                "its processor time is limited by --cpu-quota and --cpu-period".to_owned();
            return Err(wrong(message, "change it by those"));
        }
        Ok(PlannedLimits {
            memory_bytes: self.memory,
            swap_bytes,
            memory_reservation_bytes: self.memory_reservation,
            cpu_thousandths: self.cpus,
            cpu_quota_microseconds: self.cpu_quota,
            cpu_period_microseconds: self.cpu_period,
            cpu_shares: self.cpu_shares,
            processors: self.cpuset_cpus.clone(),
            memory_nodes: self.cpuset_mems.clone(),
            pids: self.pids,
        })
    }
}

/// A size, or -1 for [`ANY_SWAP`].
fn swap(text: &str) -> Result<u64, String> {
    match text {
        NO_LIMIT => Ok(ANY_SWAP),
        text => size(text),
    }
}

/// Microseconds; 0 for no limit, as docker also has it.
fn quota(text: &str) -> Result<u64, String> {
    let least = ProcessorTime::LEAST_MICROSECONDS;
    match text {
        NO_LIMIT => Ok(0),
        text => text
            .parse()
            .ok()
            .filter(|number| *number == 0 || *number >= least)
            .ok_or_else(|| format!("write a number from {least} on, or -1 for no limit")),
    }
}

/// A number of processes; 0 for no limit, as docker also has it.
fn pids(text: &str) -> Result<u32, String> {
    match text {
        NO_LIMIT => Ok(0),
        text => text
            .parse()
            .map_err(|_error| "write a number, or -1 for no limit".to_owned()),
    }
}

fn numbers(text: &str) -> Result<String, String> {
    let numbers = NumberList::parse(text).map(|numbers| numbers.to_string());
    numbers.ok_or_else(|| "write numbers such as 0-3,5".to_owned())
}

/// Reads `1.5` as 1500, exactly.
fn thousandths(text: &str) -> Result<u32, String> {
    let wrong = || "write a number such as 0.5 or 2".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_error| wrong())?;
    let fraction: u32 = format!("{fraction:0<3}")
        .parse()
        .map_err(|_error| wrong())?;
    whole
        .checked_mul(1000)
        .and_then(|whole| whole.checked_add(fraction))
        .filter(|number| *number > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_exactly() {
        for (text, number) in [("1.5", 1500), ("2", 2000), ("0.001", 1), ("0.25", 250)] {
            assert_eq!(thousandths(text), Ok(number), "{text}");
        }
        for text in ["", "0", "-1", "1.2345", ".5", "1e3", "9999999999"] {
            assert!(thousandths(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_limit_is_written_as_docker_does() {
        assert_eq!((pids("-1"), pids("0"), pids("7")), (Ok(0), Ok(0), Ok(7)));
        assert_eq!((swap("-1"), swap("1k")), (Ok(ANY_SWAP), Ok(1024)));
        assert_eq!(
            (quota("-1"), quota("0"), quota("1000")),
            (Ok(0), Ok(0), Ok(1000))
        );
        assert!(quota("999").is_err() && quota("-2").is_err());
        assert!(pids("-2").is_err() && swap("-2").is_err());
    }

    #[test]
    fn swap_is_what_is_beyond_the_memory() {
        type Size = Option<u64>;
        let planned = |memory: Size, memory_swap: Size, memory_reservation: Size, before: Size| {
            // Whole mebibytes, so that none is too little.
            let bytes = |size: u64| if size == ANY_SWAP { size } else { size << 20 };
            let [memory, memory_swap, memory_reservation, before] =
                [memory, memory_swap, memory_reservation, before].map(|size| size.map(bytes));
            let args = LimitArgs {
                memory,
                memory_swap,
                memory_reservation,
                ..LimitArgs::default()
            };
            let before = PlannedLimits {
                memory_bytes: before,
                ..PlannedLimits::default()
            };
            args.planned(&before).map(|limits| limits.swap_bytes).ok()
        };
        assert_eq!(
            planned(Some(10), Some(30), None, None),
            Some(Some(20 << 20))
        );
        assert_eq!(
            planned(Some(10), Some(ANY_SWAP), None, None),
            Some(Some(ANY_SWAP))
        );
        assert_eq!(planned(None, Some(30), None, Some(25)), Some(Some(5 << 20)));
        assert_eq!(planned(Some(10), Some(5), None, None), None);
        assert_eq!(planned(None, Some(5), None, None), None);
        assert_eq!(planned(Some(10), None, Some(10), None), Some(None));
        assert_eq!(planned(None, None, Some(11), Some(10)), None);
    }
}
