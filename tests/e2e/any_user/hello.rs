//! The README's first command.

use crate::examples::kiln_or_update;
use crate::space::TestSpace;

#[test]
fn the_tour_builds_runs_and_then_starts_at_once() {
    let space = TestSpace::with_example("hello");
    let first = kiln_or_update(&space, &["run"]);
    assert!(first.stdout.contains("hello, world"), "{}", first.shown());
    assert!(
        first.stdout.contains("Strike while the iron is hot."),
        "{}",
        first.shown()
    );
    assert!(first.stdout.contains("first visit"), "{}", first.shown());

    let second = space.kiln_ok(["run"]);
    assert!(
        second.stdout.contains("visit number 2"),
        "{}",
        second.shown()
    );
    assert_eq!(
        second.stderr, "",
        "a second run builds nothing and says nothing"
    );

    // Another greeting is another config, and no step runs for it.
    let greeting = space.kiln_ok(["run", "--set", "name=you"]);
    assert!(
        greeting.stdout.contains("hello, you"),
        "{}",
        greeting.shown()
    );
    let explained = space.kiln_ok(["explain"]).stdout;
    assert_eq!(
        explained
            .lines()
            .filter(|line| line.ends_with("hit here"))
            .count(),
        6
    );
}
