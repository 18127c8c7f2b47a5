//! Which devices a group may use: lines for version 1, a program for version 2.

use std::path::Path;

use kiln_sys::device_filter::{Access, DeviceFilter, DeviceKind, DevicePermit};

use crate::error::BundleError;
use crate::spec::DeviceRule;

/// Devices that every container has, and the right to make any node: nodes without a permit are of no use.
const ALWAYS: [(&str, Option<i64>, Option<i64>, &str); 11] = [
    ("c", None, None, "m"),
    ("b", None, None, "m"),
    ("c", Some(1), Some(3), "rwm"),
    ("c", Some(1), Some(5), "rwm"),
    ("c", Some(1), Some(7), "rwm"),
    ("c", Some(1), Some(8), "rwm"),
    ("c", Some(1), Some(9), "rwm"),
    ("c", Some(5), Some(0), "rwm"),
    ("c", Some(5), Some(1), "rwm"),
    ("c", Some(5), Some(2), "rwm"),
    ("c", Some(136), None, "rwm"),
];

/// The rules with those every container has after them.
fn complete(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    let always = ALWAYS
        .iter()
        .map(|(kind, major, minor, access)| DeviceRule {
            allow: true,
            kind: Some((*kind).to_owned()),
            major: *major,
            minor: *minor,
            access: Some((*access).to_owned()),
        });
    rules.iter().cloned().chain(always).collect()
}

fn is_any(number: Option<i64>) -> bool {
    number.is_none_or(|number| number < 0)
}

/// Lines for `devices.allow` and `devices.deny`; none if nothing was said about devices.
pub(super) fn version1(rules: &[DeviceRule]) -> Result<Vec<(bool, String)>, BundleError> {
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let mut lines = Vec::new();
    for rule in complete(rules) {
        let kind = kind(&rule)?;
        let access = access(&rule)?;
        if kind == "a" && is_any(rule.major) && is_any(rule.minor) && access == "rwm" {
            lines.push((rule.allow, "a".to_owned()));
            continue;
        }
        let number = |number: Option<i64>| match number {
            Some(number) if number >= 0 => number.to_string(),
            _ => "*".to_owned(),
        };
        let kinds = if kind == "a" {
            vec!["b", "c"]
        } else {
            vec![kind]
        };
        for kind in kinds {
            let (major, minor) = (number(rule.major), number(rule.minor));
            lines.push((rule.allow, format!("{kind} {major}:{minor} {access}")));
        }
    }
    Ok(lines)
}

/// Puts a program on the group that decides about devices.
pub(super) fn attach(group: &Path, rules: &[DeviceRule]) -> Result<(), BundleError> {
    let permits = permits(rules)?;
    let directory = kiln_sys::confined::open_directory(group).map_err(BundleError::kernel(
        format!("opening `{}`", group.display()),
    ))?;
    DeviceFilter::assemble(&permits)
        .replace_on(&directory)
        .map_err(BundleError::kernel("loading the filter of devices"))
}

/// What the program of version 2 decides by.
pub(super) fn permits(rules: &[DeviceRule]) -> Result<Vec<DevicePermit>, BundleError> {
    let mut permits = Vec::new();
    for rule in complete(rules) {
        let kind = match kind(&rule)? {
            "b" => Some(DeviceKind::Block),
            "c" => Some(DeviceKind::Character),
            _ => None,
        };
        let number = |number: Option<i64>| {
            number.filter(|number| *number >= 0).map(|number| {
                u32::try_from(number).map_err(|_too_large| {
                    BundleError::invalid(format!(
                        "linux.resources.devices: {number} is not a number of a device"
                    ))
                })
            })
        };
        let access = access(&rule)?;
        permits.push(DevicePermit {
            allow: rule.allow,
            kind,
            major: number(rule.major).transpose()?,
            minor: number(rule.minor).transpose()?,
            access: Access {
                make: access.contains('m'),
                read: access.contains('r'),
                write: access.contains('w'),
            },
        });
    }
    Ok(permits)
}

fn kind(rule: &DeviceRule) -> Result<&str, BundleError> {
    match rule.kind.as_deref().unwrap_or("a") {
        "" | "a" => Ok("a"),
        "c" | "u" => Ok("c"),
        "b" => Ok("b"),
        other => Err(BundleError::invalid(format!(
            "linux.resources.devices: `{other}` is not a type of devices"
        ))),
    }
}

/// What is done, as letters; all of it if nothing is said. `a` is none that the kernel knows, but some say it.
fn access(rule: &DeviceRule) -> Result<String, BundleError> {
    let said = rule.access.as_deref().unwrap_or("");
    if let Some(other) = said.chars().find(|letter| !"rwma".contains(*letter)) {
        let problem = format!("linux.resources.devices: `{other}` is not one of `rwm`");
        return Err(BundleError::Invalid { problem });
    }
    let access: String = "rwm"
        .chars()
        .filter(|letter| said.contains(*letter))
        .collect();
    Ok(if access.is_empty() {
        "rwm".to_owned()
    } else {
        access
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_order_and_end_with_what_everybody_has() {
        let deny = DeviceRule {
            access: Some("rwm".into()),
            ..DeviceRule::default()
        };
        let disk = DeviceRule {
            allow: true,
            kind: Some("b".into()),
            major: Some(8),
            minor: Some(-1),
            access: Some("r".into()),
        };
        let lines = version1(&[deny, disk]).unwrap();
        assert_eq!(lines[0], (false, "a".to_owned()));
        assert_eq!(lines[1], (true, "b 8:* r".to_owned()));
        assert_eq!(lines.len(), 2 + ALWAYS.len());
        assert!(version1(&[]).unwrap().is_empty());
        let wrong = DeviceRule {
            access: Some("x".into()),
            ..DeviceRule::default()
        };
        assert!(version1(&[wrong]).is_err());
    }
}
