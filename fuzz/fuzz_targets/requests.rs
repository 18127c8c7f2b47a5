//! Whole requests to a registry that runs, whose folder stays in the one for temporary files.

#![no_main]

use std::sync::OnceLock;

use kiln_registry::fuzz::Requests;

static REGISTRY: OnceLock<Requests> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let registry = REGISTRY.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("kiln-fuzz-{}", std::process::id()));
        Requests::new(&folder)
    });
    registry.send(bytes);
});
