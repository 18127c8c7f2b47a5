//! What becomes of the config of an image.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_runtime::fuzz::image_config(bytes));
