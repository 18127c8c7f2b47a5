//! The index against a model of what must hold, with collections at any moment.

mod names;
mod replicas;
mod world;

use proptest::prelude::*;

use super::*;
use crate::digest::{Algorithm, Digest};
use crate::document::Document;
use crate::name::{RepoName, Tag};
use crate::upkeep::wait;

use world::{Place, Step, World, steps};

const GRACE: Seconds = 100;
const TRASH: Seconds = 200;

/// Looks at what may be garbage; says how much that was.
fn sweep_blobs(index: &Index, policy: Policy) -> usize {
    let suspects = index.suspects(policy, 500).unwrap();
    let count = suspects.len();
    index
        .sweep_blobs(policy, suspects, Vec::new(), Durability::Now)
        .unwrap();
    count
}

fn repo(number: usize) -> RepoName {
    format!("repo{number}").parse().unwrap()
}

fn tag(number: usize) -> Tag {
    format!("tag{number}").parse().unwrap()
}

fn blob(number: usize) -> Digest {
    Digest::of(Algorithm::Sha256, format!("blob {number}").as_bytes())
}

fn manifest(blobs: (usize, usize)) -> (Digest, Vec<u8>) {
    let descriptor = |number| {
        format!(
            r#"{{"mediaType":"application/x","digest":"{}","size":1}}"#,
            blob(number)
        )
    };
    let body = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(blobs.0),
        descriptor(blobs.1)
    );
    (
        Digest::of(Algorithm::Sha256, body.as_bytes()),
        body.into_bytes(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_was_acknowledged_is_lost_and_no_garbage_stays(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        world.end();
    }
}

/// The same with a database, which is slower: fewer worlds.
#[test]
fn a_database_loses_nothing_and_keeps_no_garbage() {
    let server = std::rc::Rc::new(replicas::Server::start(""));
    let config = ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&steps(), |steps| {
        server.empty();
        let mut world = World::at(Place::Server(std::rc::Rc::clone(&server)));
        for step in steps {
            world.step(step);
            world.check();
        }
        world.end();
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn a_blob_may_be_up_for_review_on_two_accounts() {
    let server = std::rc::Rc::new(replicas::Server::start(""));
    for place in [
        Place::Folder(tempfile::tempdir().unwrap()),
        Place::Server(server),
    ] {
        review_on_two_accounts(World::at(place));
    }
}

fn review_on_two_accounts(mut world: World) {
    for step in [
        Step::Upload { repo: 1, blob: 3 },
        Step::Mount {
            from: 1,
            to: 0,
            blob: 3,
        },
        Step::Wait(101),
        Step::DeleteBlob { repo: 0, blob: 3 },
        Step::Put {
            repo: 1,
            blobs: (0, 3),
            tag: 0,
        },
        Step::SweepBlobs,
    ] {
        world.step(step);
        world.check();
    }
    world.end();
}

#[test]
fn what_is_relied_on_after_it_was_suspected_stays() {
    let folder = tempfile::tempdir().unwrap();
    let index = Index::open(folder.path()).unwrap();
    let (name, digest) = (repo(0), blob(0));
    let push = index.commit_blob(&name, &digest, 1, "key".to_owned(), None, 0);
    wait(push).unwrap();
    let at = |now| Policy {
        now,
        grace: GRACE,
        trash: TRASH,
        untagged: None,
    };
    let suspects = index.suspects(at(2 * GRACE), 10).unwrap();
    assert_eq!(suspects.len(), 1);
    assert!(wait(index.link_blob(&name, &digest, 2 * GRACE)).unwrap());
    index
        .sweep_blobs(at(2 * GRACE), suspects, Vec::new(), Durability::Later)
        .unwrap();
    assert_eq!(index.doomed(10).unwrap(), []);
    // It is looked at again when that is long ago.
    assert_eq!(index.suspects(at(2 * GRACE), 10).unwrap(), []);
    assert_eq!(sweep_blobs(&index, at(4 * GRACE)), 1);
    assert_eq!(index.doomed(10).unwrap().len(), 1);
}

#[test]
fn an_index_of_another_format_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    drop(Index::open(folder.path()).unwrap());
    let db = rusqlite::Connection::open(folder.path().join("registry.db")).unwrap();
    db.execute_batch("PRAGMA user_version = 99").unwrap();
    drop(db);
    assert!(matches!(
        Index::open(folder.path()),
        Err(IndexError::Format { found: 99 })
    ));
}

#[test]
fn a_line_that_was_being_written_is_cut_off() {
    let mut world = World::new();
    world.step(Step::Upload { repo: 0, blob: 0 });
    world.step(Step::Put {
        repo: 0,
        blobs: (0, 0),
        tag: 0,
    });
    world.index = None;
    let Place::Folder(folder) = &world.place else {
        return;
    };
    let path = folder.path().join("journal/00000001.log");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], b"{\"op\":\"untag\",\"re"].concat()).unwrap();
    world.step(Step::Restart);
    world.step(Step::Upload { repo: 0, blob: 1 });
    world.step(Step::Put {
        repo: 0,
        blobs: (0, 1),
        tag: 1,
    });
    world.end();
    assert_eq!(world.promised.len(), 2);
}

/// Writes a row, and fails afterwards if it is told to.
struct Note {
    key: &'static str,
    fails: bool,
}

impl Job for Note {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)";
        batch
            .db
            .execute(sql, db::values![self.key, b"x".as_slice()])
            .await?;
        if self.fails {
            return Err(IndexError::Row("no".to_owned()));
        }
        Ok(())
    }
}

#[test]
fn jobs_of_one_transaction_fail_alone() {
    let world = World::new();
    let index = world.index();
    let note = |key, fails| index.write_blocking(Note { key, fails });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| note("first", false));
        let bad = scope.spawn(|| note("bad", true));
        let last = scope.spawn(|| note("last", false));
        assert!(first.join().unwrap().is_ok());
        assert!(bad.join().unwrap().is_err());
        assert!(last.join().unwrap().is_ok());
    });
    let sql = "SELECT count(*) FROM meta WHERE key IN ('first', 'bad', 'last')";
    assert_eq!(wait(index.reading().number(sql, db::values![])).unwrap(), 2);
}
