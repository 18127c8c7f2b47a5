//! Packets between verbs and monitors, and lines of logs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_runtime::fuzz::messages(bytes));
