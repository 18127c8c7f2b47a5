//! The `kiln` command: one file per verb.
//!
//! This is the only crate that prints, reads the environment, looks at the
//! clock or picks an exit code; the others are handed values and return them.
#![forbid(unsafe_code)]

mod app;
mod container;
mod errors;
mod failed_build;
mod launch;
mod local;
mod open_files;
mod output;
mod printer;
mod progress;
mod project;
mod reference;
mod settings;
mod signals;
mod suggest;
mod text;
mod transfers;
mod verbs;
mod words;
mod workbench;

use std::process::ExitCode;

fn main() -> ExitCode {
    app::run()
}
