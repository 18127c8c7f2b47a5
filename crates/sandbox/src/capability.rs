//! Sets of Linux capabilities and the one a sandbox gets by default.

use std::fmt;
use std::str::FromStr;

use kiln_sys::Errno;

/// One Linux capability, by its number in `capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u8);

/// Names by number; the kernel has had no number without a name so far.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

impl Capability {
    /// Read every file.
    pub const DAC_READ_SEARCH: Self = Self(2);
    /// Change the root directory.
    pub const SYS_CHROOT: Self = Self(18);
    /// Trace other processes.
    pub const SYS_PTRACE: Self = Self(19);
    /// Switch process accounting.
    pub const SYS_PACCT: Self = Self(20);
    /// Restart the machine.
    pub const SYS_BOOT: Self = Self(22);
    /// Raise priorities.
    pub const SYS_NICE: Self = Self(23);
    /// Set the clock.
    pub const SYS_TIME: Self = Self(25);
    /// Control terminals.
    pub const SYS_TTY_CONFIG: Self = Self(26);
    /// Write to the audit log.
    pub const AUDIT_WRITE: Self = Self(29);
    /// Read the kernel's log.
    pub const SYSLOG: Self = Self(34);
    /// Whole control of the machine, more or less.
    pub const SYS_ADMIN: Self = Self(21);
    /// Highest number known to this version of kiln.
    pub const LAST: Self = Self(40);

    /// Every one that this version of kiln knows, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=Self::LAST.0).map(Self)
    }

    /// Its number, as in `capability.h`.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(NAMES[usize::from(self.0)])
    }
}

/// The text is not the name of a capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a capability; they are named like `CAP_NET_RAW` or `net_raw`")]
pub struct UnknownCapability {
    name: String,
}

impl FromStr for Capability {
    type Err = UnknownCapability;

    /// Takes `CAP_NET_RAW`, `NET_RAW` and `net_raw`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let found = (0_u8..)
            .zip(NAMES)
            .find(|(_, name)| name.strip_prefix("CAP_") == Some(bare));
        found
            .map(|(number, _)| Self(number))
            .ok_or_else(|| UnknownCapability {
                name: text.to_owned(),
            })
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// No capability at all.
    pub const EMPTY: Self = Self(0);

    /// What root in a sandbox may do unless the user says otherwise.
    ///
    /// Docker's fourteen without `CAP_MKNOD` (nothing guards device nodes but their absence), `CAP_NET_RAW`
    /// (packet sockets, with which one container can pose as another) and `CAP_AUDIT_WRITE`. The same eleven as
    /// podman's.
    pub const DEFAULT: Self = Self(
        1 << 0          // chown
        | 1 << 1        // dac_override
        | 1 << 3        // fowner
        | 1 << 4        // fsetid
        | 1 << 5        // kill
        | 1 << 6        // setgid
        | 1 << 7        // setuid
        | 1 << 8        // setpcap
        | 1 << 10       // net_bind_service
        | 1 << 18       // sys_chroot
        | 1 << 31, // setfcap
    );

    /// What this process may do now.
    ///
    /// # Errors
    /// Never in practice.
    pub(crate) fn of_this_process() -> Result<Self, Errno> {
        let sets = rustix::thread::capabilities(None)?;
        Ok(Self(sets.effective.bits()))
    }

    /// What is in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set and `capability`.
    #[must_use]
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }

    /// This set without `capability`.
    #[must_use]
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.0))
    }

    /// Whether `capability` is in the set.
    #[must_use]
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability.0 != 0
    }

    /// One bit per capability, bit 0 for number 0.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The members, in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..=Capability::LAST.0)
            .map(Capability)
            .filter(move |capability| self.contains(*capability))
    }
}

impl Default for CapabilitySet {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Debug for CapabilitySet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_set()
            .entries(self.iter().map(|capability| capability.to_string()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_every_usual_spelling() {
        for text in ["CAP_SYS_ADMIN", "SYS_ADMIN", "sys_admin", "cap_sys_admin"] {
            assert_eq!(text.parse::<Capability>().unwrap(), Capability::SYS_ADMIN);
        }
        assert!("".parse::<Capability>().is_err());
        assert!("CAP_CAP_KILL".parse::<Capability>().is_err());
    }

    #[test]
    fn the_default_has_what_packages_need_and_nothing_that_reaches_the_host() {
        let names: Vec<String> = CapabilitySet::DEFAULT
            .iter()
            .map(|capability| capability.to_string())
            .collect();
        assert_eq!(
            names.join(" "),
            "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP \
             CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_SETFCAP"
        );
        let set = CapabilitySet::DEFAULT.with(Capability::SYS_ADMIN);
        assert!(set.contains(Capability::SYS_ADMIN));
        assert_eq!(set.without(Capability::SYS_ADMIN), CapabilitySet::DEFAULT);
    }
}
