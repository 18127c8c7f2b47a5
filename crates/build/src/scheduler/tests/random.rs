//! Graphs and failures by chance.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the graph and whatever fails: all nodes finish, nothing runs before what it needs, and with
    /// `keep_going` exactly what is behind a failure has no result.
    #[test]
    fn random_graphs_finish(
        needs in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..14),
        fails in prop::collection::vec(prop::bool::weighted(0.15), 14),
        equal in prop::collection::vec(0..6_usize, 14),
        jobs in 1..5_usize,
        keep_going: bool,
    ) {
        let names: Vec<String> = (0..needs.len()).map(|at| format!("s{at:02}")).collect();
        let needed: Vec<Vec<&str>> = needs
            .iter()
            .enumerate()
            .map(|(at, needs)| {
                let names = needs.iter().filter(|_| at > 0).map(|need| names[need.index(at)].as_str());
                names.collect::<BTreeSet<&str>>().into_iter().collect()
            })
            .collect();
        let steps: Vec<(&str, &[&str])> =
            names.iter().zip(&needed).map(|(name, needs)| (name.as_str(), needs.as_slice())).collect();
        let mut executor = FakeExecutor::default();
        for (at, name) in names.iter().enumerate() {
            if fails[at] {
                executor.act(name, |_| Err(Failure::exited(1)));
            } else {
                // Some steps have the same inputs as others.
                executor.recipe(name, &format!("recipe {}", equal[at]));
            }
        }
        let build = Build::new(&steps, &executor, &SchedulerOptions { keep_going, ..options(jobs) });
        let report = &build.report;
        let mut doomed: BTreeSet<StepId> = BTreeSet::new();
        for id in build.graph.nodes().ids() {
            let state = report.states[id];
            prop_assert!(state.is_finished());
            prop_assert_eq!(state.has_output(), report.outputs[id].is_some());
            let after = build.graph.dependencies(id);
            if state.has_output() || state == StepState::Failed {
                prop_assert!(after.iter().all(|edge| report.states[edge.node].has_output()));
            }
            let name = build.graph.nodes()[id].name.as_str();
            let at: usize = name.rsplit('s').next().unwrap().parse().unwrap();
            let is_behind = after.iter().any(|edge| doomed.contains(&edge.node));
            if fails[at] || is_behind {
                doomed.insert(id);
            }
            if keep_going {
                prop_assert_eq!(state == StepState::Failed, fails[at] && !is_behind);
                prop_assert_eq!(state.has_output(), !doomed.contains(&id));
            }
        }
        let is_complete = report.outcome == Outcome::Complete;
        prop_assert_eq!(is_complete, report.failures.is_empty() && doomed.is_empty());
        // Equal inputs ran once: no two runs made the same layer.
        let done = build.events.iter().filter_map(|event| {
            let EventKind::Done { layers, .. } = event else { return None };
            Some(layers.clone())
        });
        let done: Vec<Vec<DiffId>> = done.collect();
        prop_assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), done.len());
    }
}
