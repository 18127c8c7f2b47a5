//! Runs a build graph: scheduler, cache use, executors; one stream of events.
//!
//! ```text
//! pin        what kiln.lock lacks is looked up, and written there
//! build      graph ─scheduler→ Executor: describe → key → look up, else run → layers ─assemble→ images ─→ names
//! forecast   the same up to the keys: what would run, and why
//! verify     build once more under other conditions: which steps made something else, file by file
//! ```
//!
//! Whoever wants to see it reads the stream of [`BuildEvent`]s. Nothing here prints, reads the environment or knows
//! the command line.

#![forbid(unsafe_code)]

mod builder;
mod cancel;
mod config;
mod debian_archive;
mod emulation;
mod event;
mod executor;
mod forecast;
mod git;
mod lines;
mod lock_file;
mod mask;
mod passes;
mod pinning;
mod pool;
mod problem;
mod project;
mod remote_cache;
mod reporter;
mod scheduler;
mod state;
mod store_executor;
mod verify;
mod workspace;

pub use builder::{Build, BuildError, NamedImage, build};
pub use cancel::Cancel;
pub use debian_archive::DebianArchive;
pub use emulation::{NoEmulation, emulate};
pub use event::{
    BuildEvent, EVENT_FORMAT, EventKind, FailureKind, FailureSummary, MissReason, NodeSummary,
    Outcome, OutputStream, SkipReason,
};
pub use executor::{Described, Executor, Failure, LookUp, NodeOutput, Task};
pub use forecast::{Outlook, forecast, recall};
pub use lines::LineWriter;
pub use lock_file::{LockFile, LockFileError, LockPolicy};
pub use pinning::{Pinned, pin};
pub use problem::{Problem, chain};
pub use project::{
    FileCounts, MissingFiles, Project, ProjectError, ProjectFiles, SelectedFiles, StatCache,
    VerifiedFile, WantedFiles,
};
pub use scheduler::{BuildReport, Refresh, SchedulerOptions, run_graph};
pub use state::StepState;
pub use verify::{DifferentFile, DifferentStep, Verification, verify};
pub use workspace::{CacheRegistries, OnFailure, Remote, SecretValue, Workspace};
