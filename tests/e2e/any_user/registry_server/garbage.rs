//! What a collection has the disk do, for which those who push would wait.

use crate::fixtures::Steps;
use crate::fixtures::own_registry::OwnRegistry;
use crate::space::TestSpace;

/// Garbage goes as soon as it may, when it is told to.
const SETTINGS: &str =
    "[log]\nrequests = false\n[gc]\ngrace = \"0s\"\ntrash = \"0s\"\ninterval = \"0s\"\n";
/// More than are marked before that is synced.
const BLOBS: usize = 700;
/// The most files that are removed for each time that marks are synced.
const MOST_REMOVED: usize = 500;

#[test]
fn files_go_after_their_marks_are_synced_many_at_once() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, SETTINGS);
    for number in 0..BLOBS {
        registry.blob("a", format!("dead {number}").as_bytes());
    }
    assert!(registry.stop());
    // Times are whole seconds, and what is as old as the grace time may be younger.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let steps = Steps::new(&registry.data(), &[]);
    steps.start(|| registry.run(&space));
    let calls = steps.during(|| {
        let run = registry.admin(&space, &["gc", "--format", "json"]);
        run.assert_code(0);
        let report: serde_json::Value = serde_json::from_str(&run.stdout).expect("a report");
        assert_eq!(report["blobs"], BLOBS);
    });
    let (mut synced, mut removed) = (0, 0);
    for call in &calls {
        match call.as_str() {
            "fsync /registry.db-wal" | "fdatasync /registry.db-wal" => synced += 1,
            "unlink" | "unlinkat" => {
                removed += 1;
                assert!(removed <= synced * MOST_REMOVED, "{calls:#?}");
            }
            _ => {}
        }
    }
    assert_eq!(removed, BLOBS);
    assert!(synced < 12, "{synced} times: {calls:#?}");
}
