//! What a cache has promised and lost.

use super::*;

#[test]
fn a_node_whose_inputs_are_lost_ends_without_failing_and_stops_nothing_else() {
    let graph = graph_of(&[
        ("a", &[]),
        ("user", &["a"]),
        ("behind", &["user"]),
        ("z", &[]),
    ]);
    let mut executor = FakeExecutor::default();
    executor.act("user", |_| Err(Failure::lost()));
    let cancel = Cancel::new().unwrap();
    let report = run_graph(&graph, &executor, &options(1), &cancel, &mut |_| {}).unwrap();
    assert!(report.failures.is_empty());
    let state = |step: &str| report.states[graph.find(&format!("i.{step}")).unwrap()];
    assert_eq!(state("user"), StepState::Cancelled);
    assert_eq!(state("behind"), StepState::Skipped);
    assert_eq!(
        (state("a"), state("z")),
        (StepState::Built, StepState::Built)
    );
}
