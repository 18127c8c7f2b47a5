//! Images: assemble, validate, read and write layouts and archives.

#![forbid(unsafe_code)]

pub mod accounts;
