//! The `kiln` command: one file per verb.
//!
//! This is the only crate that prints, reads the environment, looks at the
//! clock or picks an exit code; the others are handed values and return them.
#![forbid(unsafe_code)]

mod app;
mod caches;
mod container;
mod containers;
mod docker;
mod draft;
mod errors;
mod excerpt;
mod failed_build;
mod form;
mod id_file;
mod inspection;
mod ipc;
mod keys;
mod launch;
mod life;
mod limits;
mod listing;
mod local;
mod measures;
mod monitor_log;
mod monitors;
mod mounts;
mod names;
mod networking;
mod notices;
mod open_files;
mod other_runtime;
mod output;
mod parts;
mod password;
mod platforms;
mod ports;
mod printer;
mod progress;
mod project;
mod recipe;
mod reference;
mod rights;
mod settings;
mod shortage;
mod signals;
mod sizes;
mod suggest;
mod tasks;
mod template;
mod text;
mod transfers;
mod verbs;
mod words;
mod workbench;

use std::process::ExitCode;

fn main() -> ExitCode {
    tasks::of_this_process().unwrap_or_else(app::run)
}
