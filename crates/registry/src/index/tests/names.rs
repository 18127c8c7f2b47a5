//! Which objects nothing names, however many rows there are.

use std::collections::BTreeSet;

use super::replicas::Server;
use super::*;
use crate::blobs::key;
use crate::index::schema::NAMES_BLOB;

fn name(number: u32) -> String {
    format!("{number:032x}")
}

fn commit(index: &Index, number: u32) {
    let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
    let key = key::named(&digest, 1_700_000_000, number, &name(number));
    let repo = repo(0);
    wait(index.commit_blob(&repo, &digest, 4, key, None, 1_700_000_000)).unwrap();
}

/// Names in uploads and of blobs are known, with more of both than are looked at together.
fn only_what_nothing_names_is_unnamed(index: &Index) {
    for number in 0..250 {
        commit(index, number);
        let state = format!(
            "{{\"tail\":{{\"name\":\"{}\",\"size\":1}}}}",
            name(1000 + number)
        );
        wait(index.new_upload(&format!("upload {number}"), state, 1)).unwrap();
    }
    // A file is named by its digest, which is no name of an object.
    let digest = Digest::of(Algorithm::Sha256, b"a file");
    let plain = key::new(&digest, 1_700_000_000, 1);
    let end = plain[plain.len() - 32..].to_owned();
    wait(index.commit_blob(&repo(0), &digest, 6, plain, None, 1_700_000_000)).unwrap();
    let known = (0..250).chain(1000..1250).map(name);
    let unknown: BTreeSet<String> = (2000..2150).map(name).chain([end]).collect();
    let asked = known.chain(unknown.clone()).collect();
    assert_eq!(wait(index.unnamed(asked)).unwrap(), unknown);
    assert_eq!(
        wait(index.unnamed(BTreeSet::new())).unwrap(),
        BTreeSet::new()
    );
}

#[test]
fn a_folder_finds_them_by_an_index_and_so_does_one_of_before() {
    let folder = tempfile::tempdir().unwrap();
    drop(Index::open(folder.path()).unwrap());
    let raw = || rusqlite::Connection::open(folder.path().join("registry.db")).unwrap();
    raw().execute_batch("DROP INDEX blob_name").unwrap();
    only_what_nothing_names_is_unnamed(&Index::open(folder.path()).unwrap());
    let plan: String = raw()
        .query_row(&format!("EXPLAIN QUERY PLAN {NAMES_BLOB}"), ["x"], |row| {
            row.get(3)
        })
        .unwrap();
    assert!(
        plan.starts_with("SEARCH blob USING COVERING INDEX blob_name"),
        "{plan}"
    );
}

#[test]
fn a_database_finds_them_by_an_index_and_so_does_one_of_before() {
    let server = Server::start("fsync = off");
    drop(server.connect());
    server.query("DROP INDEX kiln_registry.blob_name");
    only_what_nothing_names_is_unnamed(&server.connect());
    let question = NAMES_BLOB.replace("?1", "'x'");
    let plan = server.query(&format!(
        "SET search_path TO kiln_registry; SET enable_seqscan = off; EXPLAIN {question}"
    ));
    assert!(plan.contains("blob_name"), "{plan}");
}
