//! Configs of images.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_oci::fuzz::image_config(bytes));
