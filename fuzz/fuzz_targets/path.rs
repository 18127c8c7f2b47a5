//! Paths of URLs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_registry::fuzz::path(bytes));
