//! Which processors and memory nodes a group may use.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use super::CgroupError;
use super::group::Setting;
use crate::spec::Limits;

/// No machine has a processor with a higher number; the kernel's own bound is lower.
const HIGHEST: u32 = 65_535;

/// Numbers of processors or memory nodes, as `cpuset(7)` writes them: `0-3,5`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberList(Vec<RangeInclusive<u32>>);

impl NumberList {
    /// Reads `0-3,5`; `None` for anything else, and for nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number: u32 = text.parse().ok().filter(|_| is_number)?;
            (number <= HIGHEST).then_some(number)
        };
        let range = |text: &str| {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        };
        text.split(',').map(range).collect::<Option<_>>().map(Self)
    }

    fn is_within(&self, all: &Self) -> bool {
        let numbers = self.0.iter().cloned().flatten();
        let mut missing =
            numbers.filter(|number| !all.0.iter().any(|range| range.contains(number)));
        missing.next().is_none()
    }
}

impl fmt::Display for NumberList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(formatter, "{comma}{first}")?;
            } else {
                write!(formatter, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

/// The two files of a group, and what `limits` want in them.
fn wanted(limits: &Limits) -> [(&'static str, &'static str, Option<&NumberList>); 2] {
    [
        ("cpuset.cpus", "processors", limits.processors.as_ref()),
        ("cpuset.mems", "memory nodes", limits.memory_nodes.as_ref()),
    ]
}

/// What is wanted. What is not said stays as it is.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    let wanted = wanted(limits).into_iter();
    wanted
        .filter_map(|(file, _, numbers)| Some(Setting::new(file, numbers?)))
        .collect()
}

/// Looks whether `parent` has what is wanted, in files with this `ending`.
///
/// # Errors
/// [`CgroupError::NoSuchNumbers`].
pub(super) fn check(parent: &Path, ending: &str, limits: &Limits) -> Result<(), CgroupError> {
    for (file, what, numbers) in wanted(limits) {
        let Some(numbers) = numbers else { continue };
        let text = std::fs::read_to_string(parent.join(format!("{file}{ending}")));
        // Where it cannot be read, the kernel says what is wrong.
        let available = text.ok().and_then(|text| NumberList::parse(text.trim()));
        if let Some(available) = available
            && !numbers.is_within(&available)
        {
            return Err(CgroupError::NoSuchNumbers {
                what,
                wanted: numbers.clone(),
                available,
            });
        }
    }
    Ok(())
}

/// Settings of a new group of version 1, which has nothing before it is said: the rest is as in `parent`.
///
/// # Errors
/// What cannot be read.
pub(super) fn complete(parent: &Path, limits: &Limits) -> Result<Vec<Setting>, CgroupError> {
    let one = |(file, _, numbers): (&'static str, &str, Option<&NumberList>)| {
        if let Some(numbers) = numbers {
            return Ok(Setting::new(file, numbers));
        }
        let path = parent.join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Setting::new(file, text.trim())),
            Err(error) => Err(CgroupError::Kernel {
                action: "read",
                path,
                errno: kiln_sys::Errno::from_io_error(&error).unwrap_or(kiln_sys::Errno::IO),
            }),
        }
    };
    wanted(limits).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_does() {
        for text in ["0", "0-3", "1,3", "0-1,4-7,9"] {
            let list = NumberList::parse(text).unwrap();
            assert_eq!(list.to_string(), text);
        }
        for text in [
            "", ",", "1,", "-1", "3-1", "a", "0x1", "+1", "0-", "99999999", "0-70000",
        ] {
            assert_eq!(NumberList::parse(text), None, "{text}");
        }
    }

    #[test]
    fn only_what_is_there_can_be_had() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path();
        std::fs::write(parent.join("cpuset.cpus"), "0-1,4\n").unwrap();
        std::fs::write(parent.join("cpuset.mems"), "0\n").unwrap();
        let limits = |processors| Limits {
            processors: NumberList::parse(processors),
            ..Limits::default()
        };
        check(parent, "", &limits("1,4")).unwrap();
        let error = check(parent, "", &limits("1-2")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the processors 1-2 cannot be had: there are 0-1,4"
        );
        let lines: Vec<String> = complete(parent, &limits("4"))
            .unwrap()
            .iter()
            .map(|Setting { file, value, .. }| format!("{file}={value}"))
            .collect();
        assert_eq!(lines, ["cpuset.cpus=4", "cpuset.mems=0"]);
        // A folder that says nothing of it is the kernel's to judge.
        check(parent, ".effective", &limits("9")).unwrap();
    }
}
