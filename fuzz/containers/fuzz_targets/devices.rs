//! Descriptions of devices, in JSON and YAML.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_runtime::fuzz::devices(bytes));
