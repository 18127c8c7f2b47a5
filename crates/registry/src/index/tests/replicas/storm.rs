//! Pushes and collections of several processes at once, and what must hold whenever they are done.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use super::*;

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
        index
            .sweep_blobs(policy, Vec::new(), keys, Durability::Later)
            .unwrap();
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
