//! What is told of a build while it goes on.

use super::*;
use crate::event::OutputStream;

#[test]
fn a_step_that_writes_without_end_is_slowed_down_not_kept() {
    let mut executor = FakeExecutor::default();
    executor.act("loud", |task| {
        use std::io::Write;
        let mut output = task.output(OutputStream::Stdout);
        for _ in 0..100_000 {
            output.write_all(b"again and again\n").unwrap();
        }
        Ok(())
    });
    let graph = graph_of(&[("loud", &[])]);
    let mut lines = 0;
    let mut sink = |event: BuildEvent| {
        lines += usize::from(matches!(event.kind, EventKind::Output { .. }));
    };
    let cancel = Cancel::new().unwrap();
    let report = run_graph(&graph, &executor, &options(1), &cancel, &mut sink).unwrap();
    assert_eq!((report.outcome, lines), (Outcome::Complete, 100_000));
}

#[test]
fn progress_is_thinned_out_but_its_end_is_told() {
    let mut executor = FakeExecutor::default();
    executor.act("download", |task| {
        for done in 0..=10_000 {
            task.progress("package", done, Some(10_000));
        }
        Ok(())
    });
    let build = Build::new(&[("download", &[])], &executor, &options(1));
    let progress: Vec<u64> = build
        .events
        .iter()
        .filter_map(|event| {
            let EventKind::Progress { done_bytes, .. } = event else {
                return None;
            };
            Some(*done_bytes)
        })
        .collect();
    assert!(progress.len() < 1000, "{}", progress.len());
    assert_eq!((progress[0], *progress.last().unwrap()), (0, 10_000));
}

/// Checks the order of events that `docs/formats/build-events.md` promises.
#[test]
fn the_stream_keeps_its_promises() {
    let mut executor = FakeExecutor::default();
    executor.act("left", |task| {
        task.line(OutputStream::Stdout, b"hello");
        task.warn("careful");
        Ok(())
    });
    executor.act("right", |_| Err(Failure::killed(9)));
    let graph = graph_of(DIAMOND);
    let mut lines = Vec::new();
    let mut sink = |event: BuildEvent| lines.push(serde_json::to_value(&event).unwrap());
    let cancel = Cancel::new().unwrap();
    let _report = run_graph(&graph, &executor, &options(2), &cancel, &mut sink).unwrap();
    assert_eq!(lines[0]["event"], "build");
    assert_eq!(lines[0]["format"], 1);
    assert_eq!(lines[0]["nodes"][1]["after"][0], "i.base");
    assert_eq!(lines.last().unwrap()["event"], "finished");
    let of = |step: &str| -> Vec<&str> {
        let events = lines.iter().filter(|line| line["step"] == step);
        events.map(|line| line["event"].as_str().unwrap()).collect()
    };
    assert_eq!(
        of("i.base"),
        ["queued", "checking", "miss", "started", "done"]
    );
    assert_eq!(
        of("i.left"),
        [
            "queued", "checking", "miss", "started", "output", "warning", "done"
        ]
    );
    assert_eq!(
        of("i.right"),
        ["queued", "checking", "miss", "started", "failed"]
    );
    assert_eq!(of("i.top"), ["skipped"]);
    let find = |event: &str| lines.iter().find(|line| line["event"] == event).unwrap();
    assert_eq!(find("miss")["reason"], "new");
    assert_eq!(find("failed")["kind"], "process");
    assert_eq!(find("failed")["signal"], 9);
    assert_eq!(find("skipped")["because"], "failed");
    assert_eq!(find("skipped")["failed"], "i.right");
    assert_eq!(find("output")["line"], "hello");
    assert!(lines.iter().all(|line| line["at_ms"].is_u64()));
}
