//! Runs a build graph: scheduler, cache use, executors; one stream of events.
//!
//! Nothing here prints, reads the environment or knows the command line.

#![forbid(unsafe_code)]

mod cancel;
mod event;
mod executor;
mod lines;
mod pool;
mod project;
mod reporter;
mod scheduler;
mod state;
mod store_sink;

pub use cancel::Cancel;
pub use event::{
    BuildEvent, EVENT_FORMAT, EventKind, FailureKind, FailureSummary, MissReason, NodeSummary,
    Outcome, OutputStream, SkipReason,
};
pub use executor::{Described, Executor, Failure, LookUp, NodeOutput, Task};
pub use lines::LineWriter;
pub use project::{
    FileCounts, Project, ProjectError, ProjectFiles, SelectedFiles, StatCache, VerifiedFile,
    WantedFiles,
};
pub use scheduler::{BuildReport, Refresh, SchedulerOptions, run_graph};
pub use state::StepState;
pub use store_sink::StoreSink;
