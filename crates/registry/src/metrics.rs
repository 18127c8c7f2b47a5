//! Numbers for monitoring, in Prometheus' text form.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};

use crate::api::route::Kind;
use crate::index::Totals;

/// Upper bounds of the buckets of times, in milliseconds.
const BUCKETS: [u64; 10] = [1, 5, 10, 50, 100, 500, 1000, 5000, 30_000, 120_000];
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const KINDS: usize = Kind::ALL.len();

/// Counters. All are plain additions.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    requests: [[[AtomicU64; 6]; METHODS.len()]; KINDS],
    times: [[AtomicU64; BUCKETS.len() + 1]; KINDS],
    milliseconds: [AtomicU64; KINDS],
    /// Bytes of blobs received.
    pub(crate) received_bytes: AtomicU64,
    /// Bytes of blobs sent.
    pub(crate) sent_bytes: AtomicU64,
    /// Open connections.
    pub(crate) connections: AtomicI64,
    /// Connections that were closed because they were too slow.
    pub(crate) too_slow: AtomicU64,
    /// Collections since the start.
    pub(crate) collections: AtomicU64,
    /// Blobs removed by them.
    pub(crate) collected_blobs: AtomicU64,
    /// Bytes freed by them.
    pub(crate) collected_bytes: AtomicU64,
    /// Times that an object did not come back as it was put.
    pub(crate) damaged_reads: AtomicU64,
    /// Lines that no reader of the log was fast enough for.
    pub(crate) lost_lines: AtomicU64,
}

impl Metrics {
    /// Counts an answer.
    pub(crate) fn count(&self, kind: Kind, method: &Method, status: StatusCode, took: Duration) {
        let kind = kind as usize;
        let method = METHODS.iter().position(|name| *name == method.as_str());
        if let Some(method) = method {
            let class = usize::from(status.as_u16() / 100).min(5);
            self.requests[kind][method][class].fetch_add(1, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = BUCKETS
            .iter()
            .position(|limit| took <= *limit)
            .unwrap_or(BUCKETS.len());
        self.times[kind][bucket].fetch_add(1, Ordering::Relaxed);
        self.milliseconds[kind].fetch_add(took, Ordering::Relaxed);
    }

    /// All numbers as text.
    pub(crate) fn render(
        &self,
        totals: &Totals,
        uploads: usize,
        free_bytes: Option<u64>,
    ) -> String {
        let mut out = String::new();
        self.render_requests(&mut out);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let connections = u64::try_from(self.connections.load(Ordering::Relaxed)).unwrap_or(0);
        for (name, kind, help, value) in [
            (
                "received_bytes_total",
                "counter",
                "Bytes of blobs received",
                read(&self.received_bytes),
            ),
            (
                "sent_bytes_total",
                "counter",
                "Bytes of blobs sent",
                read(&self.sent_bytes),
            ),
            ("connections", "gauge", "Open connections", connections),
            (
                "too_slow_total",
                "counter",
                "Connections closed for being too slow",
                read(&self.too_slow),
            ),
            (
                "collections_total",
                "counter",
                "Garbage collections",
                read(&self.collections),
            ),
            (
                "collected_blobs_total",
                "counter",
                "Blobs removed",
                read(&self.collected_blobs),
            ),
            (
                "collected_bytes_total",
                "counter",
                "Bytes freed",
                read(&self.collected_bytes),
            ),
            (
                "damaged_reads_total",
                "counter",
                "Times that the object store returned other bytes than were put",
                read(&self.damaged_reads),
            ),
            (
                "lost_log_lines_total",
                "counter",
                "Lines of the log dropped",
                read(&self.lost_lines),
            ),
            ("repositories", "gauge", "Repositories", totals.repositories),
            ("manifests", "gauge", "Manifests", totals.manifests),
            ("tags", "gauge", "Tags", totals.tags),
            ("blobs", "gauge", "Blobs on disk", totals.blobs),
            (
                "blob_bytes",
                "gauge",
                "Bytes of blobs on disk",
                totals.blob_bytes,
            ),
            ("uploads", "gauge", "Uploads under way", uploads as u64),
        ] {
            number(&mut out, name, kind, help, value);
        }
        if let Some(value) = free_bytes {
            number(
                &mut out,
                "free_bytes",
                "gauge",
                "Bytes free on the disk",
                value,
            );
        }
        out
    }

    fn render_requests(&self, out: &mut String) {
        line(
            out,
            format_args!("# HELP kiln_registry_requests_total Requests answered"),
        );
        line(
            out,
            format_args!("# TYPE kiln_registry_requests_total counter"),
        );
        for (kind, methods) in Kind::ALL.iter().zip(&self.requests) {
            for (method, classes) in METHODS.iter().zip(methods) {
                for (class, counter) in classes.iter().enumerate() {
                    let value = counter.load(Ordering::Relaxed);
                    if value > 0 {
                        let route = kind.name();
                        line(
                            out,
                            format_args!(
                                "kiln_registry_requests_total{{route=\"{route}\",method=\"{method}\",status=\"{class}xx\"}} {value}"
                            ),
                        );
                    }
                }
            }
        }
        line(
            out,
            format_args!("# HELP kiln_registry_request_seconds Time until the head of an answer"),
        );
        line(
            out,
            format_args!("# TYPE kiln_registry_request_seconds histogram"),
        );
        for (at, kind) in Kind::ALL.iter().enumerate() {
            let route = kind.name();
            let mut sum = 0;
            for (limit, counter) in BUCKETS.iter().zip(&self.times[at]) {
                sum += counter.load(Ordering::Relaxed);
                let (whole, rest) = (limit / 1000, limit % 1000);
                line(
                    out,
                    format_args!(
                        "kiln_registry_request_seconds_bucket{{route=\"{route}\",le=\"{whole}.{rest:03}\"}} {sum}"
                    ),
                );
            }
            sum += self.times[at][BUCKETS.len()].load(Ordering::Relaxed);
            let total = self.milliseconds[at].load(Ordering::Relaxed);
            line(
                out,
                format_args!(
                    "kiln_registry_request_seconds_bucket{{route=\"{route}\",le=\"+Inf\"}} {sum}"
                ),
            );
            line(
                out,
                format_args!(
                    "kiln_registry_request_seconds_sum{{route=\"{route}\"}} {}.{:03}",
                    total / 1000,
                    total % 1000
                ),
            );
            line(
                out,
                format_args!("kiln_registry_request_seconds_count{{route=\"{route}\"}} {sum}"),
            );
        }
    }
}

fn number(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    line(out, format_args!("# HELP kiln_registry_{name} {help}"));
    line(out, format_args!("# TYPE kiln_registry_{name} {kind}"));
    line(out, format_args!("kiln_registry_{name} {value}"));
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(out, "{text}").expect("text can always grow");
}
