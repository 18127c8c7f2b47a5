//! What is fuzzed here: whatever reads `config.json` of a bundle, each with what must hold.
//!
//! Each function takes any bytes and panics if something does not hold. They are targets in `fuzz/containers`, and run as
//! property tests here, so that they mean something without a fuzzer too.

use crate::cgroup;
use crate::namespaces::Namespaces;
use crate::seccomp;
use crate::setup::options::Options;
use crate::setup::procfs;
use crate::spec::Spec;
use crate::validate;

/// Configurations of bundles: what is read and written is the same; what is checked is refused or can be carried out.
pub fn spec(bytes: &[u8]) {
    let Ok(spec) = Spec::parse(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&spec).expect("a configuration has only text keys");
    let again = Spec::parse(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).ok(), Some(written));
    let linux = spec.linux();
    for mount in &spec.mounts {
        if let Ok(options) = Options::parse(mount) {
            assert!(!format!("{options:?}").is_empty());
        }
    }
    if let Some(Ok(Some(filter))) = linux.seccomp.as_ref().map(seccomp::filter) {
        assert!(!format!("{filter:?}").is_empty());
    }
    if let Some(resources) = &linux.resources {
        cgroup::examine(resources);
    }
    if procfs::check(&linux.sysctl, &linux.namespaces).is_ok() {
        assert!(linux.sysctl.keys().all(|name| !name.contains("..")));
    }
    // Those of others are opened.
    let mut namespaces = linux.namespaces.iter();
    if namespaces.all(|namespace| namespace.path.is_none())
        && let Ok(namespaces) = Namespaces::new(&linux)
        && validate::check(&spec, &namespaces).is_ok()
    {
        assert!(spec.root.is_some());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Much of what can be said.
    fn example() -> String {
        let mut example = serde_json::to_value(crate::example()).expect("JSON");
        example["linux"]["seccomp"] = serde_json::json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                { "names": ["read", "write", "personality"], "action": "SCMP_ACT_ALLOW",
                  "args": [{ "index": 0, "value": 8, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ" }] },
                { "names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
            ],
        });
        example["linux"]["resources"] = serde_json::json!({
            "devices": [{ "allow": false, "access": "rwm" },
                        { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" }],
            "memory": { "limit": 1 << 20, "swap": -1 }, "cpu": { "shares": 512, "quota": 1000, "period": 10000 },
            "unified": { "memory.high": "1" },
        });
        example["linux"]["sysctl"] = serde_json::json!({ "net.ipv4.ip_forward": "1" });
        example.to_string()
    }

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            spec(&bytes);
        }

        #[test]
        fn almost_configurations_will_do(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), "[\\x00-\\x7f\"{}:,0-9-]{0,3}"), 0..4),
        ) {
            let mut text = example();
            for (place, new) in &edits {
                let at = place.index(text.len());
                text.replace_range(at..=at, new);
            }
            spec(text.as_bytes());
        }
    }

    #[test]
    fn the_example_is_read_and_sound() {
        let spec = Spec::parse(example().as_bytes()).expect("a configuration");
        let namespaces = Namespaces::new(&spec.linux()).expect("new ones");
        validate::check(&spec, &namespaces).expect("it is sound");
        let seccomp = spec.linux().seccomp.clone().expect("a filter");
        assert!(seccomp::filter(&seccomp).is_ok_and(|filter| filter.is_some()));
    }
}
