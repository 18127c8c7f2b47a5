//! Filters of system calls in docker's words, which say for more than one machine and set of rights what holds there.
//!
//! A profile is kept as it was read. What it means for one container, a filter of the runtime specification, is found
//! when that container starts.

use kiln_sandbox::{Capability, CapabilitySet};
use kiln_sys::seccomp::{Program, Table};
use serde::{Deserialize, Serialize};

use crate::error::BundleError;
use crate::seccomp;
use crate::spec::{Seccomp, SeccompArgument, SeccompRule};

/// A filter of system calls as docker and podman keep it in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    default_action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_errno_ret: Option<u32>,
    /// The same as a word, for people.
    #[serde(default, skip_serializing)]
    default_errno: Option<String>,
    #[serde(default, skip_serializing_if = "none")]
    architectures: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "none")]
    arch_map: Option<Vec<Family>>,
    #[serde(default, skip_serializing_if = "none")]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

/// An architecture and those whose programs its machines can run, too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Family {
    architecture: String,
    #[serde(default, skip_serializing_if = "none")]
    sub_architectures: Option<Vec<String>>,
}

/// What happens to some calls, and where that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    /// One call, as long ago.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "none")]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    errno_ret: Option<u32>,
    /// The same as a word, for people.
    #[serde(default, skip_serializing)]
    errno: Option<String>,
    #[serde(default, skip_serializing_if = "none")]
    args: Option<Vec<Argument>>,
    #[serde(default, skip_serializing)]
    comment: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    includes: Option<Where>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    excludes: Option<Where>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Argument {
    index: u32,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Containers and machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Where {
    #[serde(default, skip_serializing_if = "none")]
    caps: Option<Vec<String>>,
    /// As go calls them.
    #[serde(default, skip_serializing_if = "none")]
    arches: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min_kernel: Option<String>,
}

/// The architecture of this program, as go calls it.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

/// For whom a profile is to be understood.
#[derive(Clone, Copy, Debug)]
struct Subject {
    capabilities: CapabilitySet,
    kernel: (u32, u32),
}

impl Profile {
    /// Reads a profile, and makes sure that the kernel can be given it.
    ///
    /// # Errors
    /// What it says that cannot be done, by name.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        let profile: Self = serde_json::from_str(text).map_err(|error| invalid(&error))?;
        profile.check()?;
        // Whoever it is for: a rule that only some containers have must be right, too.
        for capabilities in [CapabilitySet::EMPTY, every_capability()] {
            let filter = profile.describe(capabilities)?;
            let tables = seccomp::tables(&filter).map_err(bare)?;
            // The filter is loaded before the program is.
            for name in ["execve", "exit_group"] {
                if seccomp::refuses(&tables, name) {
                    let why = "without which no program starts and ends";
                    return Err(invalid(format!("it refuses `{name}`, {why}")));
                }
            }
            Program::assemble_several(&tables, seccomp::FOREIGN)
                .map_err(|long| bare(seccomp::too_long(long)))?;
        }
        Ok(profile)
    }

    /// What it means for a container with these capabilities, on this machine.
    ///
    /// # Errors
    /// It says something that cannot be; not after [`Self::parse`].
    pub fn describe(&self, capabilities: CapabilitySet) -> Result<Seccomp, BundleError> {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy().into_owned();
        let kernel = version(&release).unwrap_or((0, 0));
        let subject = Subject {
            capabilities,
            kernel,
        };
        let mut rules = Vec::new();
        for entry in list(self.syscalls.as_ref()) {
            if entry.concerns(subject)? {
                rules.push(entry.rule());
            }
        }
        Ok(Seccomp {
            default_action: self.default_action.clone(),
            default_errno_ret: self.default_errno_ret,
            architectures: self.architectures(),
            syscalls: rules,
            ..Seccomp::default()
        })
    }

    /// The same for the kernel.
    ///
    /// # Errors
    /// As [`Self::describe`].
    pub fn tables(&self, capabilities: CapabilitySet) -> Result<Vec<Table>, BundleError> {
        seccomp::tables(&self.describe(capabilities)?).map_err(bare)
    }

    /// Those that are named, of families only the one that this machine is of.
    fn architectures(&self) -> Vec<String> {
        let native = seccomp::native_name();
        let families = list(self.arch_map.as_ref());
        let own = families.iter().find(|it| it.architecture == native);
        let own = own.into_iter().flat_map(|family| {
            std::iter::once(&family.architecture).chain(list(family.sub_architectures.as_ref()))
        });
        list(self.architectures.as_ref())
            .iter()
            .chain(own)
            .cloned()
            .collect()
    }

    fn check(&self) -> Result<(), BundleError> {
        let (families, named) = (
            list(self.arch_map.as_ref()),
            list(self.architectures.as_ref()),
        );
        if !families.is_empty() && !named.is_empty() {
            return Err(invalid(
                "it has `architectures` and `archMap`; keep one of them",
            ));
        }
        if let Some(flag) = list(self.flags.as_ref()).first() {
            return Err(invalid(format!(
                "flags: `{flag}` is not supported; leave it out"
            )));
        }
        if self.default_errno.is_some() && self.default_errno_ret.is_none() {
            return Err(invalid(
                "`defaultErrno` is not supported without `defaultErrnoRet`, its number",
            ));
        }
        // Where all else is refused, so is what has no name here.
        let open = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"].contains(&self.default_action.as_str());
        for entry in list(self.syscalls.as_ref()) {
            entry.check()?;
            if !open {
                continue;
            }
            if let Some(name) = entry.names().find(|name| !seccomp::is_call(name)) {
                return Err(invalid(format!(
                    "kiln knows no system call `{name}`, which would be allowed since all are but those with a rule"
                )));
            }
        }
        Ok(())
    }
}

impl Entry {
    fn names(&self) -> impl Iterator<Item = &String> {
        let one = (!self.name.is_empty()).then_some(&self.name);
        one.into_iter().chain(list(self.names.as_ref()))
    }

    fn concerns(&self, subject: Subject) -> Result<bool, BundleError> {
        let usual = Where::default();
        let includes = self.includes.as_ref().unwrap_or(&usual);
        let excludes = self.excludes.as_ref().unwrap_or(&usual);
        let (holds, fails) = (includes.answers(subject)?, excludes.answers(subject)?);
        Ok(holds.iter().all(|answer| *answer) && !fails.contains(&true))
    }

    fn rule(&self) -> SeccompRule {
        let args = list(self.args.as_ref())
            .iter()
            .map(|argument| SeccompArgument {
                index: argument.index,
                value: argument.value,
                value_two: argument.value_two,
                op: argument.op.clone(),
            });
        SeccompRule {
            names: self.names().cloned().collect(),
            action: self.action.clone(),
            errno_ret: self.errno_ret,
            args: args.collect(),
        }
    }

    fn check(&self) -> Result<(), BundleError> {
        let Some(first) = self.names().next() else {
            return Err(invalid("a rule of `syscalls` has no `names`"));
        };
        if !self.name.is_empty() && self.names.is_some() {
            return Err(invalid(format!(
                "the rule for `{first}` has `name` and `names`; keep one of them"
            )));
        }
        if self.action == "SCMP_ACT_NOTIFY" {
            return Err(invalid(format!(
                "the rule for `{first}`: SCMP_ACT_NOTIFY is not supported, there is nobody to be asked"
            )));
        }
        if self.errno.is_some() && self.errno_ret.is_none() {
            return Err(invalid(format!(
                "the rule for `{first}`: `errno` is not supported without `errnoRet`, its number"
            )));
        }
        // Rules for others are not looked at again.
        seccomp::check_rule(&self.rule())
            .map_err(|error| invalid(format!("the rule for `{first}`: {}", bare(error))))
    }
}

impl Where {
    /// Whether a container is among these, for each thing that is asked.
    fn answers(&self, subject: Subject) -> Result<Vec<bool>, BundleError> {
        let mut answers = Vec::new();
        for name in list(self.caps.as_ref()) {
            let capability: Capability = name
                .parse()
                .map_err(|error| invalid(format!("caps: {error}")))?;
            answers.push(subject.capabilities.contains(capability));
        }
        let arches = list(self.arches.as_ref());
        if !arches.is_empty() {
            answers.push(arches.iter().any(|name| name == ARCHITECTURE));
        }
        if let Some(text) = &self.min_kernel {
            let least = version(text).ok_or_else(|| {
                invalid(format!(
                    "minKernel: `{text}` is no version; write one such as 5.10"
                ))
            })?;
            answers.push(subject.kernel >= least);
        }
        Ok(answers)
    }
}

fn every_capability() -> CapabilitySet {
    Capability::all().fold(CapabilitySet::EMPTY, CapabilitySet::with)
}

/// The first two numbers of the version of a kernel.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn list<T>(list: Option<&Vec<T>>) -> &[T] {
    list.map_or(&[], Vec::as_slice)
}

#[expect(clippy::ref_option, reason = "serde asks so")]
fn none<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn invalid(problem: impl ToString) -> BundleError {
    BundleError::invalid(problem.to_string())
}

/// Without the place in a `config.json`, which there is not.
fn bare(error: BundleError) -> BundleError {
    let BundleError::Invalid { problem } = &error else {
        return error;
    };
    let problem = problem.strip_prefix("linux.seccomp").unwrap_or(problem);
    invalid(problem.trim_start_matches(['.', ':', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Profile, capabilities: CapabilitySet) -> Vec<String> {
        let filter = profile.describe(capabilities).expect("a filter");
        filter
            .syscalls
            .into_iter()
            .flat_map(|rule| rule.names)
            .collect()
    }

    #[test]
    fn rules_hold_where_they_say() {
        let text = r#"{
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "defaultErrno": "ENOSYS",
            "archMap": [
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null }
            ],
            "syscalls": [
                { "names": ["execve", "exit_group", "of_the_future"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "x" },
                { "name": "write", "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {} },
                { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["chown"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
                { "names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4000.8" } },
                { "names": ["getpid"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64", "arm64"] } },
                { "names": ["getuid"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["s390x"] } },
                { "names": ["getgid"], "action": "SCMP_ACT_ALLOW", "excludes": { "arches": ["amd64", "arm64"] } }
            ]
        }"#;
        let profile = Profile::parse(text).expect("a profile");
        let usual = ["execve", "exit_group", "of_the_future", "write"];
        assert_eq!(
            names(&profile, CapabilitySet::EMPTY),
            [&usual[..], &["chown", "ptrace", "getpid"]].concat()
        );
        assert_eq!(
            names(&profile, every_capability()),
            [&usual[..], &["mount", "ptrace", "getpid"]].concat()
        );
        let filter = profile.describe(CapabilitySet::EMPTY).expect("a filter");
        assert_eq!(filter.architectures[0], seccomp::native_name());
        // As it is kept.
        let kept = serde_json::to_string(&profile).expect("text");
        let again = Profile::parse(&kept).expect("a profile");
        assert_eq!(
            names(&again, every_capability()),
            names(&profile, every_capability())
        );
    }

    #[test]
    fn what_cannot_be_is_named() {
        let with = |rest: &str| format!(r#"{{ "defaultAction": "SCMP_ACT_ALLOW", {rest} }}"#);
        let rule = |rest: &str| with(&format!(r#""syscalls": [{{ "names": ["read"], {rest} }}]"#));
        let errno = r#""action": "SCMP_ACT_ERRNO""#;
        for (text, says) in [
            ("{}".to_owned(), "missing field `defaultAction`"),
            (
                r#"{ "defaultAction": "ALLOW" }"#.to_owned(),
                "`ALLOW` is not an action",
            ),
            (
                with(r#""listenerPath": "/run/x""#),
                "unknown field `listenerPath`",
            ),
            (
                with(r#""flags": ["SECCOMP_FILTER_FLAG_LOG"]"#),
                "`SECCOMP_FILTER_FLAG_LOG`",
            ),
            (
                with(r#""architectures": ["SCMP_ARCH_Z80"]"#),
                "`SCMP_ARCH_Z80`",
            ),
            (
                with(r#""syscalls": [{ "action": "SCMP_ACT_ERRNO" }]"#),
                "no `names`",
            ),
            (
                rule(r#""action": "SCMP_ACT_NOTIFY""#),
                "the rule for `read`: SCMP_ACT_NOTIFY",
            ),
            (
                rule(r#""action": "REFUSE", "includes": { "arches": ["s390x"] }"#),
                "`REFUSE` is not an action",
            ),
            (rule(&format!(r#"{errno}, "errno": "EPERM""#)), "`errnoRet`"),
            (
                rule(&format!(r#"{errno}, "errnoRet": 5000"#)),
                "at most 4095",
            ),
            (
                rule(&format!(
                    r#"{errno}, "includes": {{ "caps": ["CAP_NOPE"] }}"#
                )),
                "CAP_NOPE",
            ),
            (
                rule(&format!(r#"{errno}, "includes": {{ "minKernel": "new" }}"#)),
                "`new` is no version",
            ),
            (
                rule(&format!(
                    r#"{errno}, "args": [{{ "index": 9, "op": "SCMP_CMP_EQ" }}]"#
                )),
                "arguments 0 to 5",
            ),
            (
                rule(&format!(
                    r#"{errno}, "args": [{{ "index": 0, "op": "=" }}]"#
                )),
                "`=` is not a comparison",
            ),
            (
                with(r#""syscalls": [{ "names": ["opennat"], "action": "SCMP_ACT_ERRNO" }]"#),
                "`opennat`",
            ),
        ] {
            let error = Profile::parse(&text).expect_err(&text).to_string();
            assert!(
                error.contains(says) && !error.contains("linux."),
                "{text}: {error}"
            );
        }
    }
}
