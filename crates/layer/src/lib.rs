//! Folder to layer tar and back: deterministic writer, whiteouts, compression, confined unpack.
