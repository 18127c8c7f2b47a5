//! `kiln.toml` and `kiln.lock`: text to checked models, with every diagnostic at once.
