//! What the kernel tells in files.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_sandbox::fuzz::kernel(bytes));
