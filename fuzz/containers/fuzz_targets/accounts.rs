//! Account files of images.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_sandbox::fuzz::account(bytes));
