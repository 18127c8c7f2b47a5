//! Development commands: `cargo xtask <name>`.

fn main() {}
