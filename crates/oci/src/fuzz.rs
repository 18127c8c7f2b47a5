//! What is fuzzed here: whatever reads documents of images, each with what must hold.
//!
//! Each function takes any bytes and panics if something does not hold. They are targets in `fuzz/containers`, and run as
//! property tests here, so that they mean something without a fuzzer too.

use crate::{ImageConfig, ImageIndex, ImageManifest};

/// Configs of images: what is read and written is the same, and the same bytes each time.
pub fn image_config(bytes: &[u8]) {
    if let Ok(config) = ImageConfig::parse(bytes) {
        let written = config.to_bytes();
        let again = ImageConfig::parse(&written);
        assert!(again.is_ok_and(|again| again == config && again.to_bytes() == written));
    }
}

/// Manifests and indexes: the same.
pub fn image_manifest(bytes: &[u8]) {
    if let Ok(manifest) = ImageManifest::parse(bytes) {
        let written = manifest.to_bytes();
        let again = ImageManifest::parse(&written);
        assert!(again.is_ok_and(|again| again == manifest && again.to_bytes() == written));
    }
    if let Ok(index) = ImageIndex::parse(bytes) {
        let written = index.to_bytes();
        let again = ImageIndex::parse(&written);
        assert!(again.is_ok_and(|again| again == index && again.to_bytes() == written));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: &str = r#"{
        "created": "2026-01-02T03:04:05Z", "author": "a", "architecture": "amd64", "os": "linux", "variant": "v2",
        "config": { "User": "1:2", "ExposedPorts": { "80/tcp": {} }, "Env": ["A=b", "C"], "Entrypoint": ["/x"],
            "Cmd": ["y"], "Volumes": { "/data": {} }, "WorkingDir": "/w", "Labels": { "a": "b" },
            "StopSignal": "SIGINT", "Healthcheck": { "Test": ["CMD", "x"], "Interval": 1000000000, "Retries": 3 } },
        "rootfs": { "type": "layers", "diff_ids":
            ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"] },
        "history": [{ "created_by": "x", "comment": "c", "empty_layer": true }, { "created": null }]
    }"#;

    const MANIFEST: &str = r#"{
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "size": 7,
            "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 5, "urls": ["x"],
            "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" }],
        "annotations": { "a": "b" }
    }"#;

    proptest! {
        #[test]
        fn any_bytes_will_do(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            image_config(&bytes);
            image_manifest(&bytes);
        }

        #[test]
        fn almost_documents_will_do(
            edits in proptest::collection::vec((any::<prop::sample::Index>(), "[\\x00-\\x7f\"{}:,0-9-]{0,3}"), 0..4),
        ) {
            for example in [CONFIG, MANIFEST] {
                let mut text = example.to_owned();
                for (place, new) in &edits {
                    let at = place.index(text.len());
                    text.replace_range(at..=at, new);
                }
                image_config(text.as_bytes());
                image_manifest(text.as_bytes());
            }
        }
    }

    #[test]
    fn the_examples_are_read() {
        assert!(ImageConfig::parse(CONFIG.as_bytes()).is_ok());
        assert!(ImageManifest::parse(MANIFEST.as_bytes()).is_ok());
    }
}
