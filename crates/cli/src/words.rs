//! What happened in a build, in words that all views share.

use std::time::Duration;

use kiln_build::{MissReason, Outcome, SkipReason};
use kiln_oci::Digest;
use kiln_store::Area;

use crate::text;

/// Most project files named as the reason for a run.
const FILES_NAMED: usize = 3;

/// Why a step runs, as a sentence.
pub(crate) fn miss(reason: &MissReason) -> String {
    format!("runs: {}", self::reason(reason))
}

/// Why a step runs.
pub(crate) fn reason(reason: &MissReason) -> String {
    match reason {
        MissReason::New => "the store has no result of it".to_owned(),
        MissReason::Changed { what, files } => {
            let mut words = text::harmless(what);
            if !files.is_empty() {
                let named: Vec<String> = files
                    .iter()
                    .take(FILES_NAMED)
                    .map(|file| text::harmless(file))
                    .collect();
                words = format!("{words} ({})", named.join(", "));
                if files.len() > FILES_NAMED {
                    words.pop();
                    words = format!("{words} and {} more)", files.len() - FILES_NAMED);
                }
            }
            words
        }
        MissReason::Removed => "its result was removed from the store".to_owned(),
        MissReason::Refresh => "it was asked to".to_owned(),
    }
}

/// Where the result of a step was.
pub(crate) fn hit(cache: Option<&str>) -> String {
    match cache {
        None => "cached".to_owned(),
        Some(cache) => format!("cached in {cache}"),
    }
}

/// What a cache was given.
pub(crate) fn written(cache: &str, steps: usize, sent_bytes: u64) -> String {
    let (steps, size) = (text::count(steps, "result"), text::bytes(sent_bytes));
    format!("cache {cache}: {steps} written, {size} sent")
}

/// How a step that ran ended well.
pub(crate) fn done(duration_ms: u64, size_bytes: u64, unchanged: bool) -> String {
    let took = text::duration(Duration::from_millis(duration_ms));
    let size = text::bytes(size_bytes);
    if unchanged {
        format!("done in {took}, {size}, same result as before")
    } else {
        format!("done in {took}, {size}")
    }
}

/// Why a step did not run.
pub(crate) fn skipped(because: &SkipReason) -> String {
    match because {
        SkipReason::Failed { failed } => format!("skipped: {failed} failed"),
        SkipReason::Stopped => "skipped: another step failed".to_owned(),
    }
}

/// That a step failed, and what one sees next.
pub(crate) fn shell(message: &str) -> String {
    format!("{message}; this shell is where it ran, and `exit` leaves it")
}

/// The last lines of a step, apart from all else; nothing if there are none.
pub(crate) fn last_lines(step: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let mut block = format!("\nthe last lines of {step}:\n");
    for line in lines {
        block.push_str("  │ ");
        block.push_str(&text::harmless(line));
        block.push('\n');
    }
    block.push('\n');
    block
}

/// `34 MB`, or `34 MB of 120 MB`.
pub(crate) fn done_of(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) => format!("{} of {}", text::bytes(done), text::bytes(total)),
        None => text::bytes(done),
    }
}

/// Where an image is.
pub(crate) fn image(image: &str, digest: &Digest, references: &[String]) -> String {
    match references.first() {
        Some(reference) => format!("image {image}: {reference} {digest}"),
        None => format!("image {image}: {digest}"),
    }
}

/// How a build ended; `counts` are steps built, cached, failed and skipped.
pub(crate) fn summary(outcome: Outcome, counts: [usize; 4], took: Duration) -> String {
    let [built, cached, failed, skipped] = counts;
    let took = text::duration(took);
    let mut parts = Vec::new();
    for (number, word) in [
        (built, "built"),
        (cached, "cached"),
        (failed, "failed"),
        (skipped, "skipped"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {word}"));
        }
    }
    if parts.is_empty() {
        parts.push("no steps".to_owned());
    }
    let parts = parts.join(", ");
    match outcome {
        Outcome::Complete if built == 0 => format!("up to date in {took}: {parts}"),
        Outcome::Complete => format!("built in {took}: {parts}"),
        Outcome::Failed => format!("failed after {took}: {parts}"),
        Outcome::Cancelled => format!("cancelled after {took}: {parts}"),
    }
}

/// A part of the store.
pub(crate) fn area(area: Area) -> &'static str {
    match area {
        Area::Layers => "layers",
        Area::Blobs => "blobs",
        Area::Steps => "step records",
        Area::Sources => "project files",
        Area::Downloads => "downloads",
        Area::Caches => "caches",
        Area::Projects => "projects",
        Area::Volumes => "volumes",
        Area::Containers => "containers",
    }
}
