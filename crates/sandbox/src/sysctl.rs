//! Settings of the kernel that a namespace has for itself: the only ones that a sandbox may have its own way.

use std::ffi::CString;

use crate::error::SandboxError;
use crate::spec::{Network, SandboxSpec};

/// Those of the namespace of communication between processes, beside all of `fs.mqueue`.
const OF_IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Which namespace a setting is of, if it is of one that every sandbox has for itself, or may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingOf {
    /// The network.
    Network,
    /// Communication between processes.
    Communication,
}

impl SettingOf {
    /// Tells by the name of a setting, such as `net.ipv4.ip_forward`; `None` for one of the machine, and for what is no
    /// name.
    #[must_use]
    pub fn name(name: &str) -> Option<Self> {
        let dotted = name.replace('/', ".");
        let is_word = |word: &str| {
            let mut bytes = word.bytes();
            !word.is_empty()
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        if !dotted.split('.').all(is_word) {
            return None;
        }
        if dotted.starts_with("net.") {
            Some(Self::Network)
        } else if OF_IPC.contains(&&*dotted) || dotted.starts_with("fs.mqueue.") {
            Some(Self::Communication)
        } else {
            None
        }
    }
}

/// The settings of a sandbox as paths below `/proc`.
pub(crate) fn settings(spec: &SandboxSpec) -> Result<Vec<(CString, Vec<u8>)>, SandboxError> {
    let has_network = !matches!(spec.network, Network::Host);
    let one = |(name, value): (&String, &String)| {
        let wrong = |why: &str| SandboxError::spec(format!("the setting `{name}` {why}"));
        match SettingOf::name(name) {
            Some(SettingOf::Communication) if spec.communication.is_none() => {}
            Some(SettingOf::Communication) => {
                return Err(wrong("is that of the sandbox whose shared memory it has"));
            }
            Some(SettingOf::Network) if has_network => {}
            Some(SettingOf::Network) => return Err(wrong("is that of the machine's network")),
            None => return Err(wrong("is of the whole machine")),
        }
        // Dots stand for slashes, unless there are slashes, between which dots are dots.
        let path = if name.contains('/') {
            name.clone()
        } else {
            name.replace('.', "/")
        };
        let path = CString::new(format!("sys/{path}"));
        let path = path.map_err(|_zero_byte| wrong("is no name"))?;
        Ok((path, value.clone().into_bytes()))
    };
    spec.sysctls.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RootfsSpec;

    #[test]
    fn only_settings_of_namespaces_are_set() {
        let path = |name: &str, network: Network| {
            let mut spec = SandboxSpec::new(RootfsSpec::read_only(Vec::new()), ["x"]);
            spec.network = network;
            spec.sysctls.insert(name.to_owned(), "1".to_owned());
            let (path, _) = settings(&spec).ok()?.pop()?;
            path.into_string().ok()
        };
        let at = |path: &str| Some(path.to_owned());
        let own = |name: &str| path(name, Network::None);
        assert_eq!(own("net.ipv4.ip_forward"), at("sys/net/ipv4/ip_forward"));
        assert_eq!(
            own("net/ipv4/conf/eth0.1/rp_filter"),
            at("sys/net/ipv4/conf/eth0.1/rp_filter")
        );
        assert_eq!(own("fs.mqueue.msg_max"), at("sys/fs/mqueue/msg_max"));
        assert_eq!(path("kernel.sem", Network::Host), at("sys/kernel/sem"));
        assert_eq!(path("net.ipv4.ip_forward", Network::Host), None);
        for name in [
            "kernel.core_pattern",
            "vm.overcommit_memory",
            "net/../kernel/core_pattern",
            "net..x",
            "net.",
            "",
            "net.ipv4.a b",
            "kernel.semx",
        ] {
            assert_eq!(own(name), None, "{name}");
        }
    }
}
