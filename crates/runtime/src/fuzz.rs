//! What is fuzzed here: whatever reads what an image or a caller says of a container, each with what must hold.
//!
//! Each function takes any bytes and panics if something does not hold. They are targets in `fuzz/containers`, and run as
//! property tests here, so that they mean something without a fuzzer too.

use kiln_oci::ImageConfig;

use crate::DetachKeys;
use crate::cdi;
use crate::control;
use crate::health::{HealthCheck, HttpProbe};
use crate::log;
use crate::plan::{Overrides, Plan};
use crate::rights::{ProcessLimit, Rights};

/// Configs of images: what becomes of one is sound.
pub fn image_config(bytes: &[u8]) {
    let Ok(config) = ImageConfig::parse(bytes) else {
        return;
    };
    if let Some(check) = &config.config.healthcheck {
        drop(HealthCheck::of_image(check));
    }
    if let Ok(plan) = Plan::new(&config.config, None, &Overrides::default()) {
        assert!(!plan.argv.is_empty() && plan.workdir.starts_with('/'));
        assert!(plan.env.contains_key("PATH"));
        assert!(plan.env.keys().all(|name| !name.contains('=')));
        assert!((1..=64).contains(&plan.stop_signal));
        assert!(
            plan.rights == Rights::default() && plan.sysctls.is_empty(),
            "an image gives rights"
        );
        assert!(
            plan.mounts.is_empty() && plan.hooks.is_empty(),
            "an image mounts, or runs something outside"
        );
        for place in plan.missing_volumes(&config.config).unwrap_or_default() {
            let is_clean = place.starts_with('/')
                && place
                    .split('/')
                    .skip(1)
                    .all(|word| !matches!(word, "" | "." | ".."));
            assert!(is_clean, "{place}");
        }
        let text = serde_json::to_vec(&plan).expect("a plan has only text keys");
        assert_eq!(serde_json::from_slice::<Plan>(&text).ok(), Some(plan));
    }
}

/// Descriptions of devices.
pub fn devices(bytes: &[u8]) {
    cdi::examine(bytes);
}

/// Flags.
pub fn flags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    drop((
        HttpProbe::parse(&text),
        ProcessLimit::parse(&text),
        Rights::capability(&text),
    ));
    if let Ok(keys) = text.parse::<DetachKeys>() {
        assert!(keys.is_empty() == text.is_empty());
    }
}

/// Packets between verbs and monitors, and lines of logs.
pub fn messages(bytes: &[u8]) {
    control::examine(bytes);
    log::examine(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str = r#"{ "architecture": "amd64", "os": "linux",
        "config": { "User": "1:2", "ExposedPorts": { "80/tcp": {} }, "Env": ["A=b", "C"], "Entrypoint": ["/x"],
            "Cmd": ["y"], "Volumes": { "/data": {} }, "WorkingDir": "/w", "Labels": { "a": "b" },
            "StopSignal": "SIGINT", "Healthcheck": { "Test": ["CMD", "x"], "Interval": 1000000000, "Retries": 3 } },
        "rootfs": { "type": "layers", "diff_ids": [] } }"#;

    const DEVICES: &str = "kind: a/b\ndevices:\n- name: x\n  containerEdits:\n    env: [A=1]\n    deviceNodes:\n    \
                           - path: /dev/x\n    hooks:\n    - {hookName: prestart, path: /x, args: [a]}\n";

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            image_config(&bytes);
            devices(&bytes);
            flags(&bytes);
            messages(&bytes);
        }

        #[test]
        fn almost_documents_will_do(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), "[\\x00-\\x7f\"{}:,0-9-]{0,3}"), 0..4),
        ) {
            for (example, examine) in [(CONFIG, image_config as fn(&[u8])), (DEVICES, devices)] {
                let mut text = example.to_owned();
                for (place, new) in &edits {
                    let at = place.index(text.len());
                    text.replace_range(at..=at, new);
                }
                examine(text.as_bytes());
            }
        }

        #[test]
        fn almost_messages_will_do(kind in 0_u8..6, text in "[{}\":a-z0-9,_-]{0,60}") {
            messages(&[&[kind], text.as_bytes()].concat());
            messages(text.as_bytes());
        }

        #[test]
        fn almost_flags_will_do(text in "(https?://)?[a-z0-9:./=,+-]{0,30}") {
            flags(text.as_bytes());
        }
    }
}
