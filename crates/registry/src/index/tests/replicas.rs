//! Several processes with one database: what they promise together, while garbage is collected and
//! connections are cut.

mod proxy;
mod server;
mod storm;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_peers::Ending;

use super::*;
use proxy::Proxy;
pub(super) use server::Server;
use server::cut_connections;

/// Does something `count` times with each number, in four threads.
fn in_threads(count: u64, work: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

/// Writes a row that there can be once.
struct Once {
    name: String,
}

impl Job for Once {
    type Output = ();

    async fn run(&self, batch: &mut Batch<'_>) -> Result<(), IndexError> {
        let sql = "INSERT INTO meta (key, value) VALUES (?1, ?2)";
        let values = db::values![&self.name, b"x".as_slice()];
        batch.db.execute(sql, values).await.map(drop)
    }
}

#[test]
fn what_is_done_is_done_once_however_connections_end() {
    let server = Server::start("");
    let proxy = Proxy::start(&server.url());
    let index = server.connect_by(&proxy.url);
    in_threads(120, |number| {
        let name = format!("row {number}");
        index.write_blocking(Once { name }).unwrap();
    });
    assert_eq!(
        server.query("SELECT count(*) FROM kiln_registry.meta WHERE key LIKE 'row %'"),
        "120"
    );
    assert!(proxy.cuts.load(Ordering::Relaxed) > 10);
}

#[test]
fn a_server_that_is_away_is_said_to_be() {
    let server = Server::start("");
    let index = server.connect();
    let name = repo(0);
    wait(index.commit_blob(&name, &blob(0), 1, "key".to_owned(), None, 1)).unwrap();
    server.postgres.lock().unwrap().end(Ending::Fast);
    let away = |error: IndexError| {
        assert!(!error.is_certain(), "{error}");
    };
    thread::scope(|scope| {
        scope.spawn(|| away(wait(index.moment(Some(&name))).unwrap_err()));
        scope.spawn(|| away(wait(index.by_digest(&name, &blob(0))).unwrap_err()));
        scope.spawn(|| away(wait(index.link_blob(&name, &blob(0), 2)).unwrap_err()));
    });
    server.postgres.lock().unwrap().resume().unwrap();
    assert!(wait(index.link_blob(&name, &blob(0), 2)).unwrap());
    assert!(wait(index.moment(Some(&name))).unwrap().epoch > 0);
}

#[test]
fn what_one_replaces_is_over_for_the_other() {
    let server = Server::start("");
    let (one, other) = (server.connect(), server.connect());
    let (here, there) = (repo(0), repo(1));
    let put = |text: &str, which| {
        let body = format!(
            r#"{{"schemaVersion":2,"annotations":{{"a":"{text}"}},"config":{{"mediaType":"application/x","digest":"{}","size":1}},"layers":[]}}"#,
            blob(0)
        )
        .into_bytes();
        let kind = Some("application/vnd.oci.image.manifest.v1+json");
        let new = NewManifest {
            repo: here.clone(),
            digest: Digest::of(Algorithm::Sha256, &body),
            document: Document::parse(&body, kind).unwrap(),
            body,
            tags: vec![tag(which)],
            by: "t".to_owned(),
            may_miss: false,
        };
        assert_eq!(wait(one.put_manifest(new, 1)).unwrap(), PutManifest::Done);
    };
    let moment = |repo: &RepoName| wait(other.moment(Some(repo))).unwrap();
    for name in [&here, &there] {
        let key = format!("key of {name}");
        wait(one.commit_blob(name, &blob(0), 1, key, None, 1)).unwrap();
    }
    put("a", 0);
    let (first, elsewhere) = (moment(&here), moment(&there));
    put("b", 1);
    assert_eq!(moment(&here), first, "what is new makes nothing wrong");
    put("b", 0);
    let moved = moment(&here);
    assert_ne!(moved.epoch, first.epoch);
    assert!(wait(one.untag(&here, &tag(0), "t", 2)).unwrap());
    assert_ne!(moment(&here).epoch, moved.epoch);
    assert_eq!(
        moment(&there),
        elsewhere,
        "another repository is another matter"
    );
    assert_eq!(
        wait(one.delete_blob(&there, &blob(0), 2)).unwrap(),
        DeleteBlob::Done
    );
    assert_ne!(moment(&there).epoch, elsewhere.epoch);
    assert_eq!(moment(&here).accounts, first.accounts);
    let name = "somebody".to_owned();
    one.change_account(change::Change::NoAccount { name })
        .unwrap();
    assert!(moment(&here).accounts > first.accounts);
    assert!(one.set_read_only(true).unwrap());
    assert!(moment(&here).read_only);
}

/// A document of a type that needs others, with a text that makes it another one.
fn document(kind: &str, text: &str, children: &str) -> (Digest, Vec<u8>, Document) {
    let body = format!(r#"{{"schemaVersion":2,"annotations":{{"a":"{text}"}},{children}}}"#);
    let digest = Digest::of(Algorithm::Sha256, body.as_bytes());
    let kind = format!("application/vnd.oci.image.{kind}.v1+json");
    let document = Document::parse(body.as_bytes(), Some(&kind)).unwrap();
    (digest, body.into_bytes(), document)
}

fn put(index: &Index, made: &(Digest, Vec<u8>, Document), tags: Vec<Tag>) -> PutManifest {
    let (digest, body, document) = made.clone();
    let new = NewManifest {
        repo: repo(0),
        digest,
        document,
        body,
        tags,
        by: "t".to_owned(),
        may_miss: false,
    };
    wait(index.put_manifest(new, 1)).unwrap()
}

#[test]
fn an_index_and_the_end_of_what_it_needs_exclude_each_other() {
    let server = Server::start("");
    let (one, other) = (server.connect(), server.connect());
    let (mut kept, mut deleted) = (0, 0);
    for round in 0..150 {
        let child = document("index", &format!("child {round}"), r#""manifests":[]"#);
        assert_eq!(put(&one, &child, Vec::new()), PutManifest::Done);
        let entry = format!(
            r#""manifests":[{{"mediaType":"{}","digest":"{}","size":{}}}]"#,
            child.2.media_type,
            child.0,
            child.1.len()
        );
        let parent = document("index", &format!("parent {round}"), &entry);
        let (made, gone) = thread::scope(|scope| {
            let made = scope.spawn(|| put(&one, &parent, Vec::new()) == PutManifest::Done);
            let name = repo(0);
            let delete = other.delete_manifest(&name, &child.0, "t", 2);
            let gone = wait(delete).unwrap() == DeleteManifest::Done;
            (made.join().unwrap(), gone)
        });
        assert_ne!(made, gone, "round {round}");
        kept += u32::from(made);
        deleted += u32::from(gone);
    }
    assert!(kept > 0 && deleted > 0, "{kept} and {deleted}: no race");
}

#[test]
fn what_is_kept_in_memory_is_what_a_tag_is() {
    let server = Server::start("");
    let replicas = [server.connect(), server.connect(), server.connect()];
    let documents: Vec<_> = (0..2)
        .map(|number| document("index", &number.to_string(), r#""manifests":[]"#))
        .collect();
    let name = repo(0);
    for round in 0..60 {
        let fresh: Tag = format!("round{round}").parse().unwrap();
        let stop = AtomicBool::new(false);
        let seen = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen: BTreeMap<u64, Digest> = BTreeMap::new();
                let moment = || wait(replicas[2].moment(Some(&name))).unwrap().epoch;
                let mut last = false;
                while !last {
                    last = stop.load(Ordering::Relaxed);
                    let before = moment();
                    let row = wait(replicas[2].by_tag(&name, &fresh)).unwrap();
                    if let Some(row) = row
                        && before == moment()
                    {
                        let kept = seen.entry(before).or_insert_with(|| row.digest.clone());
                        assert_eq!(*kept, row.digest, "a tag moved, and nobody was told");
                    }
                }
                seen
            });
            let writers: Vec<_> = documents
                .iter()
                .zip(&replicas)
                .map(|(document, index)| {
                    let tags = vec![fresh.clone()];
                    scope.spawn(move || put(index, document, tags))
                })
                .collect();
            for writer in writers {
                assert_eq!(writer.join().unwrap(), PutManifest::Done);
            }
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap()
        });
        assert!(!seen.is_empty());
    }
}

#[test]
fn a_database_that_knows_less_than_its_journal_is_not_used() {
    let server = Server::start("");
    let index = server.connect();
    let made = document("index", "x", r#""manifests":[]"#);
    assert_eq!(put(&index, &made, Vec::new()), PutManifest::Done);
    drop(index);
    drop(server.connect());
    let refused = || server.try_connect(&server.url(), Path::new(""));
    let sequence = "kiln_registry.journal_number_seq";
    server.query(&format!(
        "SELECT setval('{sequence}', last_value - 1) FROM {sequence}"
    ));
    assert!(matches!(refused(), Err(IndexError::Behind)));
    server.query("DROP SCHEMA kiln_registry CASCADE");
    assert!(matches!(refused(), Err(IndexError::Behind)));
    server.empty();
    drop(server.connect());
}

#[test]
fn one_collects_at_a_time() {
    let server = Server::start("");
    let (one, other) = (server.connect(), server.connect());
    let right = one.take_upkeep().unwrap();
    assert!(right.is_some());
    assert!(other.take_upkeep().unwrap().is_none());
    drop(right);
    let until = Instant::now() + Duration::from_secs(5);
    while other.take_upkeep().unwrap().is_none() {
        assert!(Instant::now() < until, "the right was not given back");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A certificate for the loopback device, and its key, as files that the server can read.
fn write_certificate(folder: &Path) {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.join("certificate"), made.cert.pem()).unwrap();
    let key = folder.join("key");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    // As whom the server runs where root starts it; nobody else can give files away.
    if chown(&key, Some(65534), Some(65534)).is_err() {
        // It runs as who has the file.
    }
}

#[test]
fn a_server_shows_who_it_is_and_is_spoken_to_in_secret() {
    let folder = tempfile::tempdir().unwrap();
    write_certificate(folder.path());
    let certificate = folder.path().join("certificate");
    let settings = format!(
        "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'",
        certificate.display(),
        folder.path().join("key").display()
    );
    let server = Server::start_in(folder, &settings);
    let url = format!("{}?sslmode=require", server.url());
    let index = server.try_connect(&url, &certificate).unwrap();
    let key = "key".to_owned();
    wait(index.commit_blob(&repo(0), &blob(0), 1, key, None, 1)).unwrap();
    let sql = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
               WHERE ssl = false AND application_name = 'kiln registry'";
    assert_eq!(server.query(sql), "0");
    // A certificate of somebody else's.
    let other = tempfile::tempdir().unwrap();
    write_certificate(other.path());
    let refused = server.try_connect(&url, &other.path().join("certificate"));
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    let none = server.try_connect(&url, Path::new("/nowhere")).unwrap_err();
    assert!(none.to_string().contains("/nowhere"), "{none}");
}
