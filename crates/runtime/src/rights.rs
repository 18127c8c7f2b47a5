//! What a container may do beyond, or short of, what every one may: said by whoever starts it, never by an image or
//! a manifest.

use std::collections::BTreeSet;

use kiln_bundle::spec::Seccomp as Filter;
use kiln_bundle::{BundleError, Profile};
use kiln_sandbox::{
    Capability, CapabilitySet, Demand, OwnerEmulation, Privileges, Rlimit, RlimitResource, Seccomp,
    Security,
};
use serde::{Deserialize, Serialize};

/// What is different from the default. Empty for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Rights {
    /// Capabilities that it gets, by name; `ALL` for all.
    pub added: BTreeSet<String>,
    /// Capabilities that it does not get; `ALL` for none but those that are added.
    pub dropped: BTreeSet<String>,
    /// Groups that its user is in, too, by name or number.
    pub groups: Vec<String>,
    /// Resource limits of its processes.
    pub limits: Vec<ProcessLimit>,
    /// How soon they are killed when the machine has no memory left, -1000 (never) to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_of_memory_score: Option<i16>,
    /// Whether programs may gain rights by being set-user-id.
    pub gains_privileges: bool,
    /// Whether it may make any system call.
    pub any_call: bool,
    /// Which ones it may make instead of the usual, unless it may make any. As it was read, so that its file may go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<Profile>,
}

/// A resource limit of a process, as `ulimit` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimit {
    /// Its name, such as `nofile`.
    pub name: String,
    /// What is in force; `None` for no limit.
    pub soft: Option<u64>,
    /// How far it may be raised; `None` for no limit.
    pub hard: Option<u64>,
}

/// Stands for all capabilities.
const ALL: &str = "ALL";

/// The names that `ulimit` flags have.
const LIMITS: [(&str, RlimitResource); 16] = [
    ("as", RlimitResource::As),
    ("core", RlimitResource::Core),
    ("cpu", RlimitResource::Cpu),
    ("data", RlimitResource::Data),
    ("fsize", RlimitResource::Fsize),
    ("locks", RlimitResource::Locks),
    ("memlock", RlimitResource::Memlock),
    ("msgqueue", RlimitResource::Msgqueue),
    ("nice", RlimitResource::Nice),
    ("nofile", RlimitResource::Nofile),
    ("nproc", RlimitResource::Nproc),
    ("rss", RlimitResource::Rss),
    ("rtprio", RlimitResource::Rtprio),
    ("rttime", RlimitResource::Rttime),
    ("sigpending", RlimitResource::Sigpending),
    ("stack", RlimitResource::Stack),
];

impl Rights {
    /// Reads the name of a capability, or `ALL`.
    ///
    /// # Errors
    /// It is neither.
    pub fn capability(text: &str) -> Result<String, String> {
        if text.eq_ignore_ascii_case(ALL) {
            return Ok(ALL.to_owned());
        }
        let capability: Result<Capability, _> = text.parse();
        capability
            .map(|capability| capability.to_string())
            .map_err(|error| error.to_string())
    }

    /// What a process may do that has these rights, by what kiln itself may do.
    ///
    /// # Errors
    /// The given system calls cannot be.
    pub(crate) fn security(&self, privileges: &Privileges) -> Result<Security, BundleError> {
        let capabilities = self.capabilities();
        Ok(Security {
            capabilities,
            no_new_privileges: !self.gains_privileges,
            seccomp: match &self.calls {
                _ if self.any_call => Seccomp::Unconfined,
                Some(profile) => Seccomp::Given(profile.tables(capabilities)?),
                None => Seccomp::Default,
            },
            owners: match privileges {
                Privileges::Single { .. } => OwnerEmulation::Flatten,
                Privileges::Root | Privileges::Mapped { .. } => OwnerEmulation::None,
            },
            ..Security::default()
        })
    }

    /// The given system calls in the words of the runtime specification; `None` for the usual ones, or any.
    ///
    /// # Errors
    /// They cannot be.
    pub(crate) fn filter(&self) -> Result<Option<Filter>, BundleError> {
        let given = self.calls.as_ref().filter(|_| !self.any_call);
        given
            .map(|profile| profile.describe(self.capabilities()))
            .transpose()
    }

    fn capabilities(&self) -> CapabilitySet {
        let named = |names: &BTreeSet<String>, one: Capability| names.contains(&one.to_string());
        let (adds_all, drops_all) = (self.added.contains(ALL), self.dropped.contains(ALL));
        let wanted = |one: &Capability| {
            let usual = !drops_all && CapabilitySet::DEFAULT.contains(*one);
            let added = adds_all || named(&self.added, *one);
            (usual || added) && !named(&self.dropped, *one)
        };
        let wanted = Capability::all().filter(wanted);
        wanted.fold(CapabilitySet::EMPTY, CapabilitySet::with)
    }

    /// Resource limits, which must be granted since somebody asked for them.
    pub(crate) fn rlimits(&self) -> Vec<Rlimit> {
        let known = |limit: &ProcessLimit| {
            let (_, resource) = LIMITS.iter().find(|(name, _)| *name == limit.name)?;
            Some(Rlimit {
                resource: *resource,
                soft: limit.soft,
                hard: limit.hard,
                demand: Demand::Required,
            })
        };
        self.limits.iter().filter_map(known).collect()
    }
}

impl ProcessLimit {
    /// Reads `NAME=SOFT[:HARD]`, as docker has it; -1 is no limit.
    ///
    /// # Errors
    /// It is no such thing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no limit; write NAME=SOFT[:HARD], such as nofile=1024:4096");
        let (name, values) = text.split_once('=').ok_or_else(wrong)?;
        if !LIMITS.iter().any(|(known, _)| *known == name) {
            let names = LIMITS.map(|(name, _)| name).join(", ");
            return Err(format!("there is no limit `{name}`; there are {names}"));
        }
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            text => text.parse().map(Some).map_err(|_not_a_number| wrong()),
        };
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        let (soft, hard) = (value(soft)?, value(hard)?);
        let is_higher = hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard));
        if is_higher {
            return Err(format!(
                "in `{text}` the limit in force is above the one that it may be raised to"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            soft,
            hard,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(added: &[&str], dropped: &[&str]) -> String {
        let set = |names: &[&str]| {
            let names = names.iter().map(|name| Rights::capability(name).unwrap());
            names.collect()
        };
        let rights = Rights {
            added: set(added),
            dropped: set(dropped),
            ..Rights::default()
        };
        let names = rights.capabilities().iter().map(|it| it.to_string());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn capabilities_are_added_and_dropped_as_docker_does() {
        let usual = names(&[], &[]);
        assert!(usual.contains("CAP_CHOWN") && !usual.contains("CAP_NET_RAW"));
        assert!(names(&["net_raw"], &[]).contains("CAP_NET_RAW"));
        assert!(!names(&[], &["CHOWN"]).contains("CAP_CHOWN"));
        assert_eq!(names(&["CAP_KILL"], &["all"]), "CAP_KILL");
        assert!(names(&["ALL"], &["SYS_ADMIN"]).contains("CAP_NET_ADMIN"));
        assert!(!names(&["ALL"], &["SYS_ADMIN"]).contains("CAP_SYS_ADMIN"));
        assert!(Rights::capability("CAP_NOPE").is_err());
    }

    #[test]
    fn limits_are_written_as_docker_does() {
        let read = |text| {
            let limit = ProcessLimit::parse(text)?;
            Ok::<_, String>((limit.name, limit.soft, limit.hard))
        };
        let name = |name: &str| name.to_owned();
        assert_eq!(read("nofile=10"), Ok((name("nofile"), Some(10), Some(10))));
        assert_eq!(read("core=0:-1"), Ok((name("core"), Some(0), None)));
        assert_eq!(read("stack=unlimited"), Ok((name("stack"), None, None)));
        for text in [
            "nofile",
            "nofile=",
            "nofile=x",
            "nofile=2:1",
            "nope=1",
            "nofile=-1:1",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
