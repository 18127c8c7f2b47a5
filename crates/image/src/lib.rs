//! Images: assemble, validate, read and write layouts and archives.
