//! Documents that are written by the program they describe.
//!
//! Each is the standard output of a `kiln` verb, so that what is committed
//! can never say something else than the binary does.

use std::fs;

use crate::process::{Failure, Outcome, cargo, read, say, workspace};

/// A committed file, and the arguments of `kiln` that write it.
const DOCUMENTS: &[(&str, &[&str])] = &[
    ("docs/cli.md", &["reference", "cli"]),
    ("docs/manifest.md", &["reference", "manifest"]),
    ("schemas/kiln.schema.json", &["schema"]),
    ("schemas/kiln-registry.schema.json", &["schema", "registry"]),
];

/// Whether to write the documents or only to compare them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Check,
}

/// Writes the generated documents, or compares them with what is committed.
///
/// # Errors
/// A document differs (in [`Mode::Check`]) or cannot be made or written.
pub(crate) fn run(mode: Mode) -> Outcome {
    let mut stale = Vec::new();
    for (path, arguments) in DOCUMENTS {
        let mut kiln = cargo(["run", "--quiet", "--locked", "--package", "kiln-cli", "--"]);
        let fresh = read(kiln.args(*arguments))?;
        let absolute = workspace().join(path);
        let committed = fs::read(&absolute).unwrap_or_default();
        if fresh == committed {
            continue;
        }
        if mode == Mode::Write {
            fs::write(&absolute, fresh).map_err(|error| Failure::io(&absolute, &error))?;
            say(&format!("wrote {path}"));
        } else {
            stale.push(*path);
        }
    }
    if stale.is_empty() {
        Ok(())
    } else {
        Err(Failure(format!(
            "out of date: {}; run `cargo xtask gen`",
            stale.join(", ")
        )))
    }
}
