//! What happens during a build, as one stream that every view reads.
//!
//! Written as JSON, one object per line, the stream is the format of `docs/formats/build-events.md`.
//! Knows nothing of how it is shown.

use kiln_graph::NodeName;
use kiln_oci::{DiffId, Digest};
use serde::Serialize;

/// Version of the JSON form. Fields and kinds of events may be added under the same number; changing or
/// removing one is a break of the format.
pub const EVENT_FORMAT: u32 = 1;

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildEvent {
    /// Milliseconds since the build began.
    pub at_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The build began. Always the first event.
    Build {
        /// [`EVENT_FORMAT`].
        format: u32,
        /// Most steps that run at once.
        jobs: usize,
        /// Every node, each after those it waits for.
        nodes: Vec<NodeSummary>,
    },
    /// All that the step needs is done; it waits for its turn.
    Queued {
        /// Which.
        step: NodeName,
    },
    /// Its inputs are being gathered and looked up in the cache.
    Checking {
        /// Which.
        step: NodeName,
    },
    /// Its result was in the cache. The step is finished.
    Hit {
        /// Which.
        step: NodeName,
        /// The key it was found under, in hex digits.
        key: String,
        /// Its layers, lowest first.
        layers: Vec<DiffId>,
        /// Size of their tars together.
        size_bytes: u64,
        /// The cache that has it; `None` for the store.
        #[serde(skip_serializing_if = "Option::is_none")]
        cache: Option<String>,
    },
    /// Its result was not in the cache; it waits to be run.
    Miss {
        /// Which.
        step: NodeName,
        /// The key it will be kept under, in hex digits.
        key: String,
        /// Why it has to run.
        #[serde(flatten)]
        reason: MissReason,
    },
    /// Another step with the same key is about to run; this one waits for it and checks again.
    Joined {
        /// Which.
        step: NodeName,
        /// The one it waits for.
        with: NodeName,
    },
    /// It runs.
    Started {
        /// Which.
        step: NodeName,
    },
    /// It wrote a line.
    Output {
        /// Which.
        step: NodeName,
        /// Where to.
        stream: OutputStream,
        /// The line without its end; bytes that are not UTF-8 are replaced, and a very long line comes in
        /// pieces.
        line: String,
    },
    /// A download, or other work that can be counted, went on. Some may be left out.
    Progress {
        /// Which.
        step: NodeName,
        /// What is being done, such as `linux-libc-dev` or `sha256:…`; unique within the step.
        what: String,
        /// How much is done.
        done_bytes: u64,
        /// How much there is to do, if that is known.
        total_bytes: Option<u64>,
    },
    /// Something is worth telling, and the build goes on.
    Warning {
        /// The step it is about, if it is about one.
        step: Option<NodeName>,
        /// What, lower case, in one line.
        message: String,
    },
    /// What only matters to whoever looks for a fault, and was asked for.
    Detail {
        /// What, lower case, in one line.
        message: String,
    },
    /// Its process failed, and a shell opens where it ran, on the terminal of the person who builds.
    ///
    /// The shell waits until this event is taken in; from then on the terminal is the shell's, until
    /// [`EventKind::ShellClosed`].
    ShellOpened {
        /// Which.
        step: NodeName,
        /// What went wrong, in words.
        message: String,
        /// The last lines it wrote.
        last_lines: Vec<String>,
    },
    /// That shell was left.
    ShellClosed {
        /// Which.
        step: NodeName,
    },
    /// It ran and its result is kept. The step is finished.
    Done {
        /// Which.
        step: NodeName,
        /// Its layers, lowest first.
        layers: Vec<DiffId>,
        /// Size of their tars together.
        size_bytes: u64,
        /// How long it ran.
        duration_ms: u64,
        /// Whether these are the layers it had before, so that nothing after it has to run again.
        unchanged: bool,
    },
    /// It failed. The step is finished.
    Failed {
        /// Which.
        step: NodeName,
        /// What went wrong.
        #[serde(flatten)]
        cause: FailureSummary,
        /// The last lines it wrote.
        last_lines: Vec<String>,
        /// How long it ran.
        duration_ms: u64,
    },
    /// It will not run. The step is finished.
    Skipped {
        /// Which.
        step: NodeName,
        /// Why.
        #[serde(flatten)]
        because: SkipReason,
    },
    /// It was stopped, or never begun, because the build was cancelled. The step is finished.
    Cancelled {
        /// Which.
        step: NodeName,
    },
    /// An image is complete in the store.
    Image {
        /// Its name in the file.
        image: String,
        /// Digest of its manifest, or of the index of its manifests.
        digest: Digest,
        /// What it is for.
        platforms: Vec<String>,
        /// References it can be found under.
        references: Vec<String>,
    },
    /// A cache has what it lacked of this build. Comes after all images.
    Written {
        /// The cache.
        cache: String,
        /// Steps that it has now and did not have before.
        steps: usize,
        /// Bytes that were sent.
        sent_bytes: u64,
    },
    /// The steps are finished, and their images are made. Events of images may still follow.
    Finished {
        /// How it ended. Failed without a step that failed: an image could not be made of the steps.
        outcome: Outcome,
        /// Steps that ran.
        built: usize,
        /// Steps found in the cache.
        cached: usize,
        /// Steps that failed.
        failed: usize,
        /// Steps that were skipped or cancelled.
        skipped: usize,
    },
}

/// What a view has to know of a node beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeSummary {
    /// `image.step`, or `image:base`.
    pub step: NodeName,
    /// The image it belongs to.
    pub image: String,
    /// What its programs run on, such as `linux/arm64`.
    pub platform: String,
    /// The key of its action or base in the file, such as `run` or `debian`.
    pub action: String,
    /// The nodes it waits for.
    pub after: Vec<NodeName>,
}

/// Where a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Why a step has to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MissReason {
    /// The store has no earlier result of it to compare with: it never ended well, or all of it was removed.
    New,
    /// An input differs from the last time.
    Changed {
        /// The first one that differs, old and new, in words.
        what: String,
        /// Project files that differ, in words; not all if there are many.
        files: Vec<String>,
    },
    /// Its result was in the cache once and was removed.
    Removed,
    /// The person who builds asked for it.
    Refresh,
}

/// What went wrong, as far as a program can use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureSummary {
    /// What kind of failure.
    pub kind: FailureKind,
    /// Exit code of the step's process, if it exited.
    pub exit_code: Option<i32>,
    /// Signal that killed the step's process, if one did.
    pub signal: Option<i32>,
    /// What is wrong, lower case.
    pub message: String,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The step's process exited with another code than 0, or was killed.
    Process,
    /// It used more memory than its limit.
    OutOfMemory,
    /// It took longer than its `timeout`.
    TimedOut,
    /// Something in the manifest, the lock or the project has to be changed.
    User,
    /// The machine, the network or the disk did not do what was needed.
    Environment,
    /// kiln itself is wrong.
    Bug,
    /// The build was cancelled.
    Cancelled,
}

/// Why a step will not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum SkipReason {
    /// A step that it waits for failed.
    Failed {
        /// The one that failed.
        failed: NodeName,
    },
    /// Another step failed, and the build was not asked to keep going.
    Stopped,
}

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step has its result.
    Complete,
    /// At least one step failed.
    Failed,
    /// It was cancelled.
    Cancelled,
}
