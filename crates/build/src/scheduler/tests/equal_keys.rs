//! Steps with the same key, and layers that come out as they were.

use super::*;

#[test]
fn an_equal_layer_stops_the_re_runs() {
    let mut executor = FakeExecutor::default();
    executor
        .results
        .insert("i.base".to_owned(), "always the same".to_owned());
    let _first = Build::new(DIAMOND, &executor, &options(2));
    executor.take_ran();
    executor.recipe("base", "new recipe");
    let build = Build::new(DIAMOND, &executor, &options(2));
    assert_eq!(executor.take_ran(), ["i.base"]);
    assert_eq!(build.states(), ["built", "cached", "cached", "cached"]);
    let unchanged = |event: &EventKind| {
        matches!(
            event,
            EventKind::Done {
                unchanged: true,
                ..
            }
        )
    };
    assert!(build.events.iter().any(unchanged));
    // Without the cutoff all would run.
    executor.results.clear();
    executor.recipe("base", "another recipe");
    let _third = Build::new(DIAMOND, &executor, &options(2));
    assert_eq!(executor.take_ran().len(), 4);
}

#[test]
fn equal_keys_run_once() {
    for keep_going in [false, true] {
        let mut executor = FakeExecutor::default();
        executor.recipe("one", "same");
        executor.recipe("two", "same");
        executor.recipe("three", "same");
        let steps: &[(&str, &[&str])] = &[
            ("one", &[]),
            ("two", &[]),
            ("three", &[]),
            ("after", &["one", "two", "three"]),
        ];
        let options = SchedulerOptions {
            keep_going,
            refresh: Refresh::Everything,
            ..options(4)
        };
        for _ in 0..2 {
            let build = Build::new(steps, &executor, &options);
            let ran = executor.take_ran();
            assert_eq!(ran.len(), 2, "{ran:?}");
            assert_eq!(build.report.outcome, Outcome::Complete);
            let joined = build
                .events
                .iter()
                .filter(|event| matches!(event, EventKind::Joined { .. }));
            assert_eq!(joined.count(), 2);
        }
    }
}

/// The look-up of the second ends before the first one runs, but is told about only afterwards.
#[test]
fn equal_keys_run_once_even_if_the_look_up_was_too_early() {
    let mut executor = FakeExecutor::default();
    executor.recipe("one", "same");
    executor.recipe("two", "same");
    let looked = Arc::new(Barrier::new(2));
    let built = Arc::new(Barrier::new(2));
    let (early, late) = (Arc::clone(&looked), Arc::clone(&built));
    executor.looked_up.insert(
        "i.two".to_owned(),
        Box::new(move |is_first| {
            if is_first {
                early.wait();
                late.wait();
            }
        }),
    );
    executor.act("one", move |_| {
        looked.wait();
        Ok(())
    });
    // Runs only when `one` is built, and lets `two` report its stale miss.
    executor.act("then", move |_| {
        built.wait();
        Ok(())
    });
    let steps: &[(&str, &[&str])] = &[("one", &[]), ("two", &[]), ("then", &["one"])];
    let build = Build::new(steps, &executor, &options(2));
    assert_eq!(executor.take_ran(), ["i.one", "i.then"]);
    assert_eq!(build.state("two"), StepState::Cached);
}

#[test]
fn a_cache_that_forgets_does_not_keep_the_build_going_round() {
    let mut executor = FakeExecutor {
        forgets: true,
        ..FakeExecutor::default()
    };
    executor.recipe("one", "same");
    executor.recipe("two", "same");
    let build = Build::new(&[("one", &[]), ("two", &[])], &executor, &options(2));
    assert_eq!(build.report.outcome, Outcome::Complete);
    assert_eq!(executor.take_ran(), ["i.one", "i.two"]);
}
