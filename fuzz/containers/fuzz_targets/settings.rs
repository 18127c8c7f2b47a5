//! Names of settings of the kernel.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_sandbox::fuzz::setting(bytes));
