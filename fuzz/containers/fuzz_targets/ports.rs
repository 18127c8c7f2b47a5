//! Ports to publish.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kiln_network::fuzz::publish(bytes));
