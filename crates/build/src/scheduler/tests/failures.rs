//! Steps that fail, panic or are cancelled, and what becomes of the others.

use super::*;
use crate::event::{FailureKind, OutputStream};

#[test]
fn a_failure_skips_what_is_behind_and_lets_siblings_finish() {
    let mut executor = FakeExecutor::default();
    let meeting = Arc::new(Barrier::new(2));
    let (one, other) = (Arc::clone(&meeting), meeting);
    executor.act("left", move |task| {
        for line in 0..30 {
            task.line(OutputStream::Stderr, format!("line {line}").as_bytes());
        }
        one.wait();
        Err(Failure::exited(7))
    });
    executor.act("right", move |_| {
        other.wait();
        Ok(())
    });
    let steps: &[(&str, &[&str])] = &[
        ("left", &[]),
        ("right", &[]),
        ("top", &["left"]),
        ("late", &["right"]),
    ];
    let build = Build::new(steps, &executor, &options(2));
    assert_eq!(build.report.outcome, Outcome::Failed);
    assert_eq!(build.state("left"), StepState::Failed);
    assert_eq!(build.state("right"), StepState::Built);
    assert_eq!(build.state("top"), StepState::Skipped);
    assert_eq!(build.report.failures[0].1.summary.exit_code, Some(7));
    let failed = build.events.iter().find_map(|event| {
        let EventKind::Failed {
            cause, last_lines, ..
        } = event
        else {
            return None;
        };
        Some((cause.clone(), last_lines.clone()))
    });
    let (cause, last_lines) = failed.unwrap();
    assert_eq!(
        (cause.kind, cause.exit_code),
        (FailureKind::Process, Some(7))
    );
    assert_eq!(last_lines.len(), LAST_LINES);
    assert_eq!(last_lines.last().unwrap(), "line 29");
    // What finished stays cached.
    executor.acts.clear();
    executor.take_ran();
    let again = Build::new(steps, &executor, &options(2));
    assert_eq!(again.state("right"), StepState::Cached);
    assert_eq!(again.report.outcome, Outcome::Complete);
}

#[test]
fn keep_going_runs_all_that_can_run() {
    let steps: &[(&str, &[&str])] = &[
        ("bad", &[]),
        ("behind", &["bad"]),
        ("far-behind", &["behind", "good"]),
        ("good", &[]),
        ("later", &["good"]),
        ("last", &["later"]),
    ];
    for (keep_going, jobs) in [(true, 1), (true, 4), (false, 1)] {
        let mut executor = FakeExecutor::default();
        executor.act("bad", |_| Err(Failure::exited(1)));
        let build = Build::new(
            steps,
            &executor,
            &SchedulerOptions {
                keep_going,
                ..options(jobs)
            },
        );
        assert_eq!(build.report.outcome, Outcome::Failed);
        let behind = SkipReason::Failed {
            failed: NodeName::of_step(&name("i"), &name("bad")),
        };
        let skips = build.skips();
        assert!(skips.contains(&("i.far-behind".to_owned(), behind.clone())));
        assert!(skips.contains(&("i.behind".to_owned(), behind)));
        if keep_going {
            assert_eq!(
                executor.take_ran(),
                ["i.bad", "i.good", "i.last", "i.later"]
            );
        } else {
            assert!(!executor.take_ran().contains(&"i.last".to_owned()));
            assert!(skips.contains(&("i.last".to_owned(), SkipReason::Stopped)));
        }
    }
}

#[test]
fn cancelling_stops_what_runs_and_begins_nothing() {
    let mut executor = FakeExecutor::default();
    let cancel = Cancel::new().unwrap();
    let canceller = cancel.clone();
    // Waits as a real step does: on the descriptor, without end.
    let wait_for_cancel = |task: &Task<'_>| {
        let mut fds = [rustix::event::PollFd::new(
            task.cancel(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        task.check_cancelled()
    };
    executor.act("left", wait_for_cancel);
    executor.act("right", move |task| {
        canceller.cancel();
        wait_for_cancel(task)
    });
    let build = Build::cancelled_by(DIAMOND, &executor, &options(2), &cancel);
    assert_eq!(build.report.outcome, Outcome::Cancelled);
    assert_eq!(
        build.states(),
        ["built", "cancelled", "cancelled", "cancelled"]
    );
    assert_eq!(executor.take_ran(), ["i.base", "i.left", "i.right"]);
    assert!(matches!(
        build.events.last(),
        Some(EventKind::Finished {
            outcome: Outcome::Cancelled,
            ..
        })
    ));
}

#[test]
fn a_build_that_is_cancelled_beforehand_runs_nothing() {
    let executor = FakeExecutor::default();
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let build = Build::cancelled_by(DIAMOND, &executor, &options(2), &cancel);
    assert_eq!(build.states(), ["cancelled"; 4]);
    assert_eq!(executor.take_ran(), Vec::<String>::new());
}

#[test]
fn a_worker_that_panics_fails_its_step_and_the_build_ends() {
    let mut executor = FakeExecutor::default();
    executor.act("left", |_| panic!("as a test"));
    let options = SchedulerOptions {
        keep_going: true,
        ..options(2)
    };
    let build = Build::new(DIAMOND, &executor, &options);
    assert_eq!(build.states(), ["built", "failed", "built", "skipped"]);
    let failure = &build.report.failures[0].1;
    assert_eq!(failure.summary.kind, FailureKind::Bug);
    assert!(failure.to_string().contains("as a test"), "{failure}");
}
