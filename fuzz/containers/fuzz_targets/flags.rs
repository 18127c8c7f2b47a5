//! Flags of containers.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_runtime::fuzz::flags(bytes));
