//! A plan in words, for errors and for whoever compares plans.

use std::ffi::CString;
use std::fmt;

use super::{Absent, Expect, Operation, Plan, Slot};
use crate::mount::{Depth, MountAttributes};

impl Plan {
    fn name(&self, slot: Slot) -> &str {
        self.slots.get(slot.0).map_or("?", |(name, _)| name)
    }

    pub(super) fn text(&self, operation: &Operation) -> String {
        let name = |slot: &Slot| self.name(*slot);
        match operation {
            Operation::CloseOnExecute => {
                "close descriptors from 3 on when the program starts".to_owned()
            }
            Operation::Write { file, content } => {
                format!("write `{}` to {}", content.escape_ascii(), name(file))
            }
            Operation::Set {
                directory,
                path,
                content,
            } => format!(
                "set {}/{} to `{}`",
                name(directory),
                path.to_string_lossy(),
                content.escape_ascii()
            ),
            Operation::UnshareCgroup => "new cgroup namespace".to_owned(),
            Operation::EnterNetwork(namespace) | Operation::EnterCommunication(namespace) => {
                format!("enter {}", name(namespace))
            }
            Operation::Join { process, .. } => format!("join the namespaces of {}", name(process)),
            Operation::AttachRoot { mount } => format!("attach {} over /", name(mount)),
            Operation::Attach { mount, target } => {
                format!("attach {} on {}", name(mount), name(target))
            }
            Operation::NewFilesystem {
                kind,
                options,
                attributes,
                into,
            } => {
                format!(
                    "new {}{}{} -> {}",
                    kind.to_string_lossy(),
                    option_words(options),
                    attribute_words(*attributes),
                    name(into)
                )
            }
            Operation::CloneTree {
                source,
                depth,
                into,
            } => {
                format!(
                    "clone{} {} -> {}",
                    depth_word(*depth),
                    name(source),
                    name(into)
                )
            }
            Operation::CloneFor { source, into, .. } => {
                format!("clone {} -> {}", name(source), name(into))
            }
            Operation::ClonePathFor { path, into, .. } => {
                format!(
                    "clone host path {} -> {}",
                    path.to_string_lossy(),
                    name(into)
                )
            }
            Operation::Restrict {
                mount,
                attributes,
                depth,
            } => {
                format!(
                    "restrict{} {}{}",
                    depth_word(*depth),
                    name(mount),
                    attribute_words(*attributes)
                )
            }
            Operation::Open {
                directory,
                path,
                expect,
                absent,
                into,
            } => format!(
                "open {} {}/{}{} -> {}",
                if *expect == Expect::Directory {
                    "directory"
                } else {
                    "file"
                },
                name(directory),
                path.to_string_lossy(),
                if *absent == Absent::Skips {
                    ", if there"
                } else {
                    ""
                },
                name(into)
            ),
            Operation::Pivot { root } => format!("make {} the root, drop the old one", name(root)),
            Operation::HostName(host) => format!("host name {}", host.to_string_lossy()),
            Operation::LoopbackUp => "loopback up".to_owned(),
            Operation::NewSession => "new session".to_owned(),
            Operation::ControllingTerminal(terminal) => {
                format!("controlling terminal {}", name(terminal))
            }
            Operation::NewKeyring => "new session keyring".to_owned(),
            Operation::Duplicate { from, to } => format!("descriptor {to} = {}", name(from)),
            Operation::Umask(mask) => format!("umask {mask:04o}"),
            Operation::Limit { resource, limit } => {
                let number = |value: Option<u64>| {
                    value.map_or("unlimited".to_owned(), |value| value.to_string())
                };
                format!(
                    "limit {resource:?} {}:{}",
                    number(limit.current),
                    number(limit.maximum)
                )
            }
            Operation::WorkingDirectory(directory) => {
                format!("working directory {}", name(directory))
            }
            Operation::BoundCapabilities { keep } => format!("capability bounding set {keep:016x}"),
            Operation::Groups(groups) => {
                let groups: Vec<String> = groups
                    .iter()
                    .map(|group| group.as_raw().to_string())
                    .collect();
                format!("groups [{}]", groups.join(" "))
            }
            Operation::Ids { uid, gid } => format!("user {} group {}", uid.as_raw(), gid.as_raw()),
            Operation::Capabilities { keep } => {
                format!("capabilities {keep:016x}, none inheritable or ambient")
            }
            Operation::DieWithParent { .. } => "die with the parent".to_owned(),
            Operation::NoNewPrivileges => "no new privileges".to_owned(),
            Operation::ResetSignals => "default signals, none blocked".to_owned(),
            Operation::Filter(_) => "system call filter".to_owned(),
        }
    }
}

impl fmt::Display for Plan {
    /// One operation per line; the same plan always prints the same.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operation in &self.operations {
            writeln!(formatter, "{}", self.text(operation))?;
        }
        let paths: Vec<_> = self
            .program
            .candidates
            .iter()
            .map(|path| path.to_string_lossy())
            .collect();
        let paths = paths.join(" or ");
        match self.file {
            None => writeln!(formatter, "execute {paths}"),
            Some(file) => writeln!(formatter, "execute {} for {paths}", self.name(file)),
        }
    }
}

fn option_words(options: &[(CString, CString)]) -> String {
    let mut words = Vec::new();
    for (key, value) in options {
        let (key, value) = (key.to_string_lossy(), value.to_string_lossy());
        words.push(if value.is_empty() {
            key.into_owned()
        } else {
            format!("{key}={value}")
        });
    }
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(","))
    }
}

fn attribute_words(attributes: MountAttributes) -> String {
    let MountAttributes {
        read_only,
        no_set_id,
        no_devices,
        no_execute,
    } = attributes;
    let words = [
        (read_only, " ro"),
        (no_set_id, " nosuid"),
        (no_devices, " nodev"),
        (no_execute, " noexec"),
    ];
    words
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, word)| *word)
        .collect()
}

const fn depth_word(depth: Depth) -> &'static str {
    match depth {
        Depth::Single => "",
        Depth::Recursive => " tree",
    }
}
