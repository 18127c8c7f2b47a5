//! How far blobs are on their way to or from a registry.
//!
//! Bars with rates on a terminal, a line for each finished blob elsewhere, JSON lines for programs.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kiln_oci::Digest;
use serde_json::json;

use crate::app::ProgressForm;
use crate::local;
use crate::notices::{Diversion, Notice};
use crate::settings::Settings;
use crate::text;

/// Time between two JSON lines about one blob.
const JSON_PACE: Duration = Duration::from_millis(100);

/// Shows blobs under way; told of them from any thread.
#[derive(Debug)]
pub(crate) struct BlobView {
    form: Form,
    /// What libraries tell meanwhile must not tear the bars, and be JSON among JSON.
    _diversion: Option<Diversion>,
}

#[derive(Debug)]
enum Form {
    Nothing,
    Bars {
        all: MultiProgress,
        blobs: Mutex<BTreeMap<Digest, ProgressBar>>,
    },
    Plain,
    Json(Mutex<BTreeMap<Digest, Instant>>),
}

/// One report.
#[derive(Debug)]
pub(crate) struct BlobReport {
    pub(crate) digest: Digest,
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
    /// How it ended, with the last report: `pulled`, `pushed`, `already there`.
    pub(crate) ended: Option<String>,
}

impl BlobView {
    /// Starts the view that the settings ask for.
    pub(crate) fn start(settings: &Settings) -> Self {
        let is_tty = settings.stderr_is_terminal && !settings.stderr_is_dumb;
        let form = match settings.progress {
            ProgressForm::Json => Form::Json(Mutex::default()),
            _ if settings.quiet => Form::Nothing,
            ProgressForm::Tty => Form::bars(),
            ProgressForm::Auto if is_tty => Form::bars(),
            ProgressForm::Auto | ProgressForm::Plain => Form::Plain,
        };
        let _diversion = match &form {
            Form::Nothing | Form::Plain => None,
            Form::Bars { all, .. } => {
                let all = all.clone();
                Some(Diversion::to(move |notice| stay(&all, &words_of(notice))))
            }
            Form::Json(_) => Some(Diversion::to(|notice| say(&line_of(notice)))),
        };
        Self { form, _diversion }
    }

    /// Takes in how far a blob is.
    pub(crate) fn report(&self, report: &BlobReport) {
        match &self.form {
            Form::Nothing => {}
            Form::Bars { all, blobs } => {
                let mut blobs = blobs.lock().unwrap_or_else(PoisonError::into_inner);
                draw(all, &mut blobs, report);
            }
            Form::Plain => {
                if report.ended.is_some() {
                    say(&finished(report));
                }
            }
            Form::Json(last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let is_due = last
                    .get(&report.digest)
                    .is_none_or(|told| told.elapsed() >= JSON_PACE);
                if is_due || report.ended.is_some() {
                    last.insert(report.digest, Instant::now());
                    say(&line(report));
                }
            }
        }
    }
}

impl Form {
    fn bars() -> Self {
        Self::Bars {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            blobs: Mutex::default(),
        }
    }
}

fn draw(all: &MultiProgress, blobs: &mut BTreeMap<Digest, ProgressBar>, report: &BlobReport) {
    if report.ended.is_some() {
        if let Some(bar) = blobs.remove(&report.digest) {
            bar.finish_and_clear();
            all.remove(&bar);
        }
        stay(all, &format!("✓ {}", finished(report)));
        return;
    }
    let bar = blobs.entry(report.digest).or_insert_with(|| {
        let style = "  {prefix} {bar:24} {decimal_bytes:>9} of {decimal_total_bytes:9} {decimal_bytes_per_sec}";
        let style = ProgressStyle::with_template(style)
            .expect("the template is right")
            .progress_chars("━╸ ");
        let bar = all.add(ProgressBar::new(report.total_bytes).with_style(style));
        bar.set_prefix(local::short(&report.digest));
        bar
    });
    bar.set_position(report.done_bytes);
}

/// Puts a line above the bars.
fn stay(all: &MultiProgress, line: &str) {
    // A terminal that is gone cannot be told that it is gone.
    all.println(line).unwrap_or_default();
}

fn words_of(notice: &Notice) -> String {
    match notice {
        Notice::Warning(message) => format!("warning: {message}"),
        Notice::Detail(message) => format!("detail: {message}"),
    }
}

/// A notice for programs, as a build tells it.
fn line_of(notice: &Notice) -> String {
    let (event, message) = match notice {
        Notice::Warning(message) => ("warning", message),
        Notice::Detail(message) => ("detail", message),
    };
    json!({ "event": event, "message": message }).to_string()
}

fn finished(report: &BlobReport) -> String {
    format!(
        "{} {} {}",
        local::short(&report.digest),
        report.ended.as_deref().unwrap_or_default(),
        text::bytes(report.total_bytes)
    )
}

fn line(report: &BlobReport) -> String {
    let BlobReport {
        digest,
        done_bytes,
        total_bytes,
        ended,
    } = report;
    json!({
        "event": "blob",
        "digest": digest.to_string(),
        "done_bytes": done_bytes,
        "total_bytes": total_bytes,
        "ended": ended,
    })
    .to_string()
}

fn say(line: &str) {
    // Standard error is gone, and with it whoever could be told so.
    if writeln!(std::io::stderr().lock(), "{line}").is_err() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ended: Option<&str>) -> BlobReport {
        BlobReport {
            digest: Digest::of(b"x"),
            done_bytes: 5,
            total_bytes: 1_500_000,
            ended: ended.map(str::to_owned),
        }
    }

    #[test]
    fn a_finished_blob_is_one_line() {
        assert_eq!(
            finished(&report(Some("pushed"))),
            "2d711642b726 pushed 1.5 MB"
        );
    }

    #[test]
    fn programs_get_numbers() {
        let value: serde_json::Value = serde_json::from_str(&line(&report(None))).unwrap();
        assert_eq!(value["done_bytes"], 5);
        assert!(value["ended"].is_null());
    }

    #[test]
    fn a_bar_goes_when_its_blob_is_done() {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let mut blobs = BTreeMap::new();
        draw(&all, &mut blobs, &report(None));
        assert_eq!(blobs.values().next().map(ProgressBar::position), Some(5));
        draw(&all, &mut blobs, &report(Some("pushed")));
        assert!(blobs.is_empty());
    }
}
