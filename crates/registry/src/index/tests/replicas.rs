//! Several processes with one database: what they promise together, while garbage is collected and
//! connections are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kiln_peers::{Ending, Postgres};

use super::*;

/// A database server of one test.
pub(super) struct Server {
    postgres: Mutex<Postgres>,
    runtime: tokio::runtime::Runtime,
    journal: tempfile::TempDir,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(super) fn start(settings: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), settings)
    }

    fn start_in(folder: tempfile::TempDir, settings: &str) -> Self {
        let postgres = Postgres::start(folder.path(), settings).unwrap();
        Self {
            postgres: Mutex::new(postgres),
            runtime: crate::registry::runtime().unwrap(),
            journal: tempfile::tempdir().unwrap(),
            _folder: folder,
        }
    }

    fn url(&self) -> String {
        self.postgres.lock().unwrap().url()
    }

    pub(super) fn query(&self, sql: &str) -> String {
        self.postgres.lock().unwrap().query(sql).unwrap()
    }

    /// One more process that uses the database.
    pub(super) fn connect(&self) -> Index {
        self.connect_by(&self.url())
    }

    fn connect_by(&self, url: &str) -> Index {
        self.try_connect(url, Path::new("")).unwrap()
    }

    fn try_connect(&self, url: &str, authorities: &Path) -> Result<Index, IndexError> {
        let address = Address::parse(url, authorities)?;
        let handle = self.runtime.handle().clone();
        let records = Records::in_folder(self.journal.path(), handle.clone()).unwrap();
        Index::connect(address, 6, records, handle)
    }

    /// Removes the index.
    pub(super) fn empty(&self) {
        self.query("DROP SCHEMA IF EXISTS kiln_registry CASCADE");
        let journal = self.journal.path().join("journal");
        if journal.exists() {
            std::fs::remove_dir_all(journal).unwrap();
        }
    }
}

/// Has every connection but this one end now and then, until it is told to stop.
fn cut_connections(server: &Server, every: Duration, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(every);
        server.query(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE application_name = 'kiln registry' AND random() < 0.5",
        );
    }
}

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

/// Passes bytes on to the database, and cuts every third connection that commits: before the
/// commit is passed on, or afterwards and before its answer.
struct Proxy {
    url: String,
    cuts: std::sync::Arc<AtomicU64>,
}

impl Proxy {
    fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (before, after) = url.rsplit_once(':').unwrap();
        let (old, name) = after.split_once('/').unwrap();
        let target = format!("127.0.0.1:{old}");
        let cuts = std::sync::Arc::new(AtomicU64::new(0));
        let proxy = Self {
            url: format!("{before}:{port}/{name}"),
            cuts: std::sync::Arc::clone(&cuts),
        };
        let commits = std::sync::Arc::new(AtomicU64::new(0));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(&target).unwrap());
                let (mut answers, mut back) =
                    (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || {
                    if std::io::copy(&mut answers, &mut back).is_err() {
                        // One of the two went away.
                    }
                    drop(back.shutdown(std::net::Shutdown::Both));
                });
                let (cuts, commits) = (cuts.clone(), commits.clone());
                thread::spawn(move || pass_on(client, server, &cuts, &commits));
            }
        });
        proxy
    }
}

fn pass_on(mut client: TcpStream, mut server: TcpStream, cuts: &AtomicU64, commits: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read) = client.read(&mut buffer) {
        let bytes = &buffer[..read];
        let commits_now = bytes.windows(6).any(|text| text == b"COMMIT");
        let count = match commits_now {
            true => commits.fetch_add(1, Ordering::Relaxed),
            false => 0,
        };
        let cut_before = commits_now && count % 6 == 2;
        let cut_after = commits_now && count % 6 == 5;
        if cut_after {
            // The answer has nowhere to go.
            drop(client.shutdown(std::net::Shutdown::Both));
        }
        if cut_before || cut_after {
            cuts.fetch_add(1, Ordering::Relaxed);
        }
        if read == 0 || cut_before || server.write_all(bytes).is_err() || cut_after {
            break;
        }
    }
    // What was passed on is done before the server hears of the end.
    drop(server.shutdown(std::net::Shutdown::Write));
    drop(client.shutdown(std::net::Shutdown::Both));
}

/// What several clients were promised, and the bytes there are.
#[derive(Default)]
struct Shared {
    files: Mutex<BTreeSet<String>>,
    /// Repository and digest → blobs.
    promised: Mutex<BTreeMap<(usize, String), Vec<Digest>>>,
    now: AtomicI64,
    numbers: AtomicU64,
}

/// Seconds of the world that pass in a real one.
const PACE: i64 = 200;

impl Shared {
    fn now(&self) -> Seconds {
        self.now.load(Ordering::Relaxed)
    }

    /// A number that was not there before.
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn policy(&self) -> Policy {
        Policy {
            now: self.now(),
            // So short that pushes meet collections all the time, and have to begin anew now and then.
            grace: PACE / 20,
            trash: PACE / 40,
            untagged: None,
        }
    }

    fn upload(&self, index: &Index, target: usize, which: usize) {
        let digest = blob(which);
        let key = format!("{}.{}", digest.hex(), self.number());
        self.files.lock().unwrap().insert(key.clone());
        let target = repo(target);
        let commit = index.commit_blob(&target, &digest, 1, key.clone(), None, self.now());
        if wait(commit).unwrap() == Stored::Already {
            self.files.lock().unwrap().remove(&key);
        }
    }

    /// Pushes an image of two blobs that nobody else pushes.
    fn push(&self, index: &Index) {
        let number = self.number();
        let pick = |by: u64, most: u64| usize::try_from(number / by % most).unwrap();
        let (target, blobs) = (pick(1, 2), (pick(2, 7), pick(5, 7)));
        let (_, body) = manifest(blobs);
        let unique = format!(r#""annotations":{{"a":"{number}"}},"config""#);
        let body = String::from_utf8(body)
            .unwrap()
            .replacen(r#""config""#, &unique, 1)
            .into_bytes();
        let digest = Digest::of(Algorithm::Sha256, &body);
        let new = NewManifest {
            repo: repo(target),
            digest: digest.clone(),
            document: Document::parse(&body, Some("application/vnd.oci.image.manifest.v1+json"))
                .unwrap(),
            body,
            tags: vec![tag(pick(3, 4))],
            by: "t".to_owned(),
            may_miss: false,
        };
        loop {
            self.upload(index, target, blobs.0);
            self.upload(index, target, blobs.1);
            let put = wait(index.put_manifest(new.clone(), self.now())).unwrap();
            if put == PutManifest::Done {
                break;
            }
        }
        let parts = vec![blob(blobs.0), blob(blobs.1)];
        let name = (target, digest.to_string());
        self.promised.lock().unwrap().insert(name, parts);
    }

    /// Deletes what was promised first.
    fn delete(&self, index: &Index) {
        let oldest = {
            let mut promised = self.promised.lock().unwrap();
            // Most of what there was is garbage.
            let is_enough = promised.len() > 5;
            is_enough.then(|| promised.pop_first()).flatten()
        };
        let Some(((target, digest), _)) = oldest else {
            return thread::sleep(Duration::from_millis(1));
        };
        let (target, digest) = (repo(target), digest.parse().unwrap());
        let delete = index.delete_manifest(&target, &digest, "t", self.now());
        assert_eq!(wait(delete).unwrap(), DeleteManifest::Done);
    }

    fn collect(&self, index: &Index) {
        let policy = self.policy();
        index.sweep_trash(policy, 500).unwrap();
        sweep_blobs(index, policy);
        let doomed = index.doomed(500).unwrap();
        for copy in &doomed {
            self.files.lock().unwrap().remove(&copy.key);
        }
        let keys = doomed.into_iter().map(|copy| copy.key).collect();
        index.sweep_blobs(policy, Vec::new(), keys).unwrap();
        index.sweep_repositories(policy).unwrap();
    }

    /// What was promised and is promised still is there.
    fn check(&self, index: &Index) {
        let promised = self.promised.lock().unwrap().clone();
        for (name, parts) in &promised {
            let (target, digest) = (repo(name.0), name.1.parse().unwrap());
            let is_whole = || {
                let has_blob = |part| {
                    let row = wait(index.blob(&target, part)).unwrap();
                    row.is_some_and(|row| self.files.lock().unwrap().contains(&row.key))
                };
                let row = wait(index.by_digest(&target, &digest)).unwrap();
                row.is_some() && parts.iter().all(has_blob)
            };
            let is_promised = || self.promised.lock().unwrap().contains_key(name);
            assert!(is_whole() || !is_promised(), "{target} lost {digest}");
        }
    }
}

/// Two processes push, delete, look and collect at once while `disturb` goes on.
fn storm(server: &Server, time: Duration, disturb: impl Fn(&AtomicBool) + Sync) {
    let replicas = [server.connect(), server.connect()];
    let (shared, stop) = (Shared::default(), AtomicBool::new(false));
    shared.now.store(1_000_000, Ordering::Relaxed);
    let begun = Instant::now();
    thread::scope(|scope| {
        for number in 0..8_usize {
            let (shared, stop, index) = (&shared, &stop, &replicas[number % 2]);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match number / 2 {
                        0 | 1 => shared.push(index),
                        2 => shared.collect(index),
                        _ if number == 6 => shared.delete(index),
                        _ => shared.check(index),
                    }
                }
            });
        }
        scope.spawn(|| disturb(&stop));
        while begun.elapsed() < time {
            thread::sleep(Duration::from_millis(5));
            let passed = i64::try_from(begun.elapsed().as_millis()).unwrap();
            let now = 1_000_000 + passed * PACE / 1000;
            shared.now.store(now, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
    });
    shared.check(&replicas[0]);
    let problems = replicas[1].broken_references().unwrap();
    assert_eq!(problems, Vec::<String>::new());
    assert!(shared.number() > 50, "hardly anything happened");
    // In the end there is no garbage either.
    shared.now.fetch_add(100 * PACE, Ordering::Relaxed);
    while replicas[0].sweep_trash(shared.policy(), 500).unwrap() > 0 {}
    while sweep_blobs(&replicas[0], shared.policy()) > 0 {}
    shared.collect(&replicas[1]);
    shared.check(&replicas[1]);
    let promised = shared.promised.lock().unwrap();
    let needed: BTreeSet<&Digest> = promised.values().flatten().collect();
    assert_eq!(shared.files.lock().unwrap().len(), needed.len());
}

#[test]
fn replicas_collect_and_push_at_once() {
    let server = Server::start("");
    storm(&server, Duration::from_secs(4), |_| {});
}

#[test]
fn replicas_survive_cut_connections() {
    let server = Server::start("");
    storm(&server, Duration::from_secs(4), |stop| {
        cut_connections(&server, Duration::from_millis(300), stop);
    });
}

#[test]
fn replicas_survive_a_server_that_is_killed() {
    let server = Server::start("");
    storm(&server, Duration::from_secs(6), |_| {
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(1500));
            let mut postgres = server.postgres.lock().unwrap();
            postgres.end(Ending::Kill);
            thread::sleep(Duration::from_millis(300));
            postgres.resume().unwrap();
        }
    });
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
