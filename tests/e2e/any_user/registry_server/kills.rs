//! The end of the process before each of its steps, in turn: whatever it was doing, what was acknowledged stays, what
//! was not is done or not done, and everything goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde_json::json;

use crate::fixtures::http::{self, Reply};
use crate::fixtures::own_registry::{MANIFEST, OwnRegistry, database_server, image, sha256};
use crate::fixtures::{ObjectStore, Steps};
use crate::space::{TestSpace, is_soaked};

/// Garbage goes as soon as it may, when it is told to.
const SETTINGS: &str = "[log]\nrequests = false\n[gc]\ngrace = \"0s\"\ntrash = \"0s\"\nuploads = \"0s\"\ninterval = \"0s\"\n";

/// An upload that is under way.
struct Upload {
    place: String,
    bytes: Vec<u8>,
    /// So many bytes were acknowledged.
    least: usize,
    /// Whether a request to end it was sent.
    ends: bool,
}

/// A layer that is pushed.
#[derive(Clone, Copy)]
struct Layer {
    length: usize,
    /// Where its pieces end, but the last.
    pieces: [usize; 2],
}

/// What clients know. What they were not told may be so or not.
#[derive(Default)]
struct Known {
    host: String,
    /// By path.
    blobs: BTreeMap<String, Vec<u8>>,
    /// Blobs that nothing refers to, and that may be collected once that was asked for.
    loose: BTreeMap<String, Vec<u8>>,
    /// By path.
    manifests: BTreeMap<String, Vec<u8>>,
    /// What each tag may stand for; `None` is nothing.
    tags: BTreeMap<String, BTreeSet<Option<String>>>,
    /// Paths at which nothing is any more.
    gone: BTreeSet<String>,
    upload: Option<Upload>,
}

impl Known {
    /// Sends a request; what is answered must be this status.
    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        status: u16,
    ) -> io::Result<Reply> {
        Ok(http::try_request(&self.host, method, path, headers, body)?.expect(status))
    }

    /// Sends a blob in pieces.
    fn push_in_pieces(&mut self, repo: &str, bytes: &[u8], pieces: &[usize]) -> io::Result<()> {
        let begin = self.ask("POST", &format!("/v2/{repo}/blobs/uploads/"), &[], b"", 202)?;
        let place = begin.header("location").expect("a location").to_owned();
        let bytes = bytes.to_vec();
        self.upload = Some(Upload {
            place: place.clone(),
            bytes: bytes.clone(),
            least: 0,
            ends: false,
        });
        let mut at = 0;
        for end in pieces {
            let range = format!("{at}-{}", end - 1);
            self.ask(
                "PATCH",
                &place,
                &[("Content-Range", &range)],
                &bytes[at..*end],
                202,
            )?;
            at = *end;
            self.upload = Some(Upload {
                place: place.clone(),
                bytes: bytes.clone(),
                least: at,
                ends: false,
            });
        }
        self.upload = Some(Upload {
            place: place.clone(),
            bytes: bytes.clone(),
            least: at,
            ends: true,
        });
        let digest = sha256(&bytes);
        self.ask(
            "PUT",
            &format!("{place}?digest={digest}"),
            &[],
            &bytes[at..],
            201,
        )?;
        self.upload = None;
        self.loose
            .insert(format!("/v2/{repo}/blobs/{digest}"), bytes);
        Ok(())
    }

    fn push_at_once(&mut self, repo: &str, bytes: &[u8]) -> io::Result<()> {
        let digest = sha256(bytes);
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        self.ask("POST", &path, &[], bytes, 201)?;
        self.loose
            .insert(format!("/v2/{repo}/blobs/{digest}"), bytes.to_vec());
        Ok(())
    }

    /// Puts a manifest under a tag, whose parts are there.
    fn put(&mut self, repo: &str, tag: &str, body: &[u8], parts: &[&[u8]]) -> io::Result<()> {
        let digest = sha256(body);
        let path = format!("/v2/{repo}/manifests/{tag}");
        let stands_for = self
            .tags
            .entry(path.clone())
            .or_insert_with(|| [None].into());
        stands_for.insert(Some(digest.clone()));
        self.ask("PUT", &path, &[("Content-Type", MANIFEST)], body, 201)?;
        self.tags.insert(path, [Some(digest.clone())].into());
        self.keep(repo, &digest, body, parts);
        Ok(())
    }

    fn keep(&mut self, repo: &str, digest: &str, body: &[u8], parts: &[&[u8]]) {
        self.manifests
            .insert(format!("/v2/{repo}/manifests/{digest}"), body.to_vec());
        for part in parts {
            self.blobs
                .insert(format!("/v2/{repo}/blobs/{}", sha256(part)), part.to_vec());
        }
    }

    /// Everything that clients do, once; `collect` has garbage collected and says whether that came to its end.
    fn do_everything(
        &mut self,
        round: usize,
        layer: Layer,
        collect: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let Layer { length, pieces } = layer;
        let layer = format!("{round:06}").repeat(length / 6).into_bytes();
        let config = format!("{{\"round\":{round}}}").into_bytes();
        self.push_in_pieces("main", &layer, &pieces)?;
        self.push_at_once("main", &config)?;
        let digest = sha256(&layer);
        self.ask(
            "POST",
            &format!("/v2/other/blobs/uploads/?mount={digest}&from=main"),
            &[],
            b"",
            201,
        )?;
        self.loose
            .insert(format!("/v2/other/blobs/{digest}"), layer.clone());
        let body = image(&config, &[&layer], &json!({}));
        self.put("main", &format!("r{round}"), &body, &[&config, &layer])?;
        self.put("main", "moves", &body, &[&config, &layer])?;
        // What is deleted stays deleted: a tag, a manifest, a blob, an upload.
        self.put("main", "goes", &body, &[&config, &layer])?;
        let path = "/v2/main/manifests/goes";
        self.tags.entry(path.to_owned()).or_default().insert(None);
        self.ask("DELETE", path, &[], b"", 202)?;
        self.tags.insert(path.to_owned(), [None].into());
        let second = image(
            &config,
            &[&layer],
            &json!({ "annotations": { "n": round.to_string() } }),
        );
        let path = format!("/v2/main/manifests/{}", sha256(&second));
        self.ask("PUT", &path, &[("Content-Type", MANIFEST)], &second, 201)?;
        self.ask("DELETE", &path, &[], b"", 202)?;
        self.gone.insert(path);
        let blob = format!("of nothing {round}").into_bytes();
        self.push_at_once("main", &blob)?;
        let path = format!("/v2/main/blobs/{}", sha256(&blob));
        self.loose.remove(&path);
        self.ask("DELETE", &path, &[], b"", 202)?;
        self.gone.insert(path);
        let begin = self.ask("POST", "/v2/main/blobs/uploads/", &[], b"", 202)?;
        let place = begin.header("location").expect("a location").to_owned();
        self.ask("PATCH", &place, &[], b"given up", 202)?;
        self.ask("DELETE", &place, &[], b"", 204)?;
        self.gone.insert(place);
        self.loose.clear();
        collect()
            .then_some(())
            .ok_or_else(|| io::ErrorKind::Interrupted.into())
    }

    /// Compares the registry with what clients know.
    fn verify(&mut self, registry: &OwnRegistry, at: &str) {
        for (path, bytes) in self.blobs.iter().chain(&self.loose).chain(&self.manifests) {
            let reply = registry.get(path);
            assert!(
                reply.status == 200 && reply.body == *bytes,
                "{at}: {path}: {}",
                reply.shown()
            );
        }
        for path in &self.gone {
            assert_eq!(registry.get(path).status, 404, "{at}: {path}");
        }
        for (path, may_be) in &mut self.tags {
            let reply = registry.get(path);
            let found = match reply.status {
                404 => None,
                _ => reply.header("docker-content-digest").map(str::to_owned),
            };
            assert!(
                may_be.contains(&found),
                "{at}: {path} is {found:?}, not of {may_be:?}"
            );
            *may_be = [found].into();
        }
        if let Some(upload) = self.upload.take() {
            self.finish(registry, &upload, at);
        }
    }

    /// Goes on with an upload where it is.
    fn finish(&mut self, registry: &OwnRegistry, upload: &Upload, at: &str) {
        let Upload {
            place,
            bytes,
            least,
            ends,
        } = upload;
        let reply = registry.get(place);
        if reply.status == 404 {
            assert!(ends, "{at}: the upload is lost");
            return;
        }
        let range = reply
            .expect(204)
            .header("range")
            .expect("a range")
            .to_owned();
        let last: usize = range.trim_start_matches("0-").parse().expect("a number");
        let offset = if last == 0 { 0 } else { last + 1 };
        assert!(
            offset >= *least && offset <= bytes.len(),
            "{at}: {offset} of {least} bytes"
        );
        let digest = sha256(bytes);
        let end = format!("{place}?digest={digest}");
        registry.ask("PUT", &end, &[], &bytes[offset..]).expect(201);
        let path = format!("/v2/main/blobs/{digest}");
        assert_eq!(registry.get(&path).expect(200).body, *bytes, "{at}");
        self.loose.insert(path, bytes.clone());
    }
}

/// Ends the registry before each step of everything that clients do, `stride` steps apart; returns how many that were.
fn walk(
    space: &TestSpace,
    registry: &mut OwnRegistry,
    steps: &Steps,
    (layer, stride): (Layer, usize),
    collect: &(dyn Fn(&OwnRegistry) -> bool + Sync),
) -> usize {
    let mut known = Known {
        host: registry.host(),
        ..Known::default()
    };
    let mut kills = 0;
    let mut older = Vec::new();
    for round in 0.. {
        steps.end_at(1 + round * stride);
        let ended = known.do_everything(round, layer, &|| collect(registry));
        let Some(call) = steps.end_none() else {
            assert!(ended.is_ok(), "{ended:?}\n{}", registry.log());
            break;
        };
        kills += 1;
        println!("{round}: {call}");
        let at = format!("round {round}, {call}");
        registry.kill();
        steps.start(|| registry.run(space));
        known.verify(registry, &at);
        registry.admin(space, &["check"]).assert_code(0);
        // Tags are looked at each time, and what they are about once more at the end.
        older.extend(std::mem::take(&mut known.blobs));
        older.extend(std::mem::take(&mut known.manifests));
        known.gone.clear();
        // Some of what they left is for a later one to collect, and to be killed while it does.
        if round % 5 == 4 {
            known.loose.clear();
            assert!(collect(registry), "{at}: garbage stays");
        }
    }
    for (path, bytes) in older {
        assert_eq!(registry.get(&path).expect(200).body, bytes, "{path}");
    }
    registry.admin(space, &["check"]).assert_code(0);
    registry.admin(space, &["scrub"]).assert_code(0);
    kills
}

#[test]
fn a_registry_that_is_killed_at_any_step_loses_nothing() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, SETTINGS);
    assert!(registry.stop());
    let steps = Steps::new(&registry.data(), &[]);
    steps.start(|| registry.run(&space));
    let collect = |registry: &OwnRegistry| registry.admin(&space, &["gc"]).code == Some(0);
    let kills = walk(
        &space,
        &mut registry,
        &steps,
        (
            Layer {
                length: 6000,
                pieces: [2000, 3000],
            },
            1,
        ),
        &collect,
    );
    println!("{kills} kills");
    assert!(kills > 50, "{kills} steps");
}

#[test]
fn replicas_that_are_killed_at_any_step_lose_nothing() {
    let space = TestSpace::new();
    let store = ObjectStore::start(&space);
    let (_folder, database) = database_server();
    let settings = format!(
        "{SETTINGS}\n{}\n[database]\nurl = \"{}\"\n",
        store.settings(),
        database.url()
    );
    let port = |text: &str| {
        let port = text.rsplit(':').next().expect("a port");
        let port = port.split('/').next().expect("a port");
        port.parse::<u16>().expect("a port")
    };
    let ports = [port(&store.host()), port(&database.url())];
    let mut registry = OwnRegistry::start(&space, &settings);
    registry.kill();
    let steps = Steps::new(&registry.data(), &ports);
    steps.start(|| registry.run(&space));
    // Whoever has the command collects.
    let collect =
        |registry: &OwnRegistry| steps.start(|| registry.admin(&space, &["gc"]).code == Some(0));
    // More than a part.
    let (length, pieces) = (8_500_002, [90_000, 8_450_000]);
    let stride = if is_soaked() { 1 } else { 23 };
    let layer = Layer { length, pieces };
    let kills = walk(&space, &mut registry, &steps, (layer, stride), &collect);
    println!("{kills} kills");
    assert!(kills > 100 / stride, "{kills} steps");
}

#[test]
fn a_registry_that_is_killed_while_it_stops_or_starts_starts_again() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, SETTINGS);
    let steps = Steps::new(&registry.data(), &[]);
    let (mut kills, mut digests) = (0, Vec::new());
    for round in 0.. {
        // It begins with what a process left that was killed.
        registry.kill();
        steps.start(|| registry.run(&space));
        let layer = format!("layer {round}");
        digests.push(
            registry
                .image("main", &format!("r{round}"), layer.as_bytes())
                .0,
        );
        steps.end_at(1 + round);
        registry.stop();
        let started = steps.start(|| registry.try_run(&space));
        let Some(call) = steps.end_none() else {
            started.expect("nobody killed it");
            break;
        };
        kills += 1;
        println!("{round}: {call}");
        registry.kill();
        registry.run(&space);
        for (round, digest) in digests.iter().enumerate() {
            let reply = registry
                .get(&format!("/v2/main/manifests/r{round}"))
                .expect(200);
            assert_eq!(
                reply.header("docker-content-digest"),
                Some(digest.as_str()),
                "{call}"
            );
        }
        registry.admin(&space, &["check"]).assert_code(0);
    }
    println!("{kills} kills");
    assert!(kills > 5, "{kills} steps");
}

#[test]
fn an_index_that_is_made_again_is_there_whenever_that_is_cut_short() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, SETTINGS);
    let (digest, _) = registry.image("main", "v1", b"layer");
    let steps = Steps::new(&registry.data(), &[]);
    let mut kills = 0;
    for round in 0.. {
        // With changes that are only in the log of the database.
        registry.image("main", &format!("r{round}"), b"another layer");
        registry.kill();
        steps.end_at(1 + round);
        let run = steps.start(|| registry.admin(&space, &["rebuild"]));
        let ended = steps.end_none();
        registry.run(&space);
        for tag in ["v1", &format!("r{round}")] {
            registry
                .get(&format!("/v2/main/manifests/{tag}"))
                .expect(200);
        }
        registry
            .get(&format!("/v2/main/manifests/{digest}"))
            .expect(200);
        registry.admin(&space, &["check"]).assert_code(0);
        let Some(call) = ended else {
            run.assert_code(0);
            break;
        };
        kills += 1;
        println!("{round}: {call}");
    }
    println!("{kills} kills");
    assert!(kills > 10, "{kills} steps");
    assert!(!registry.data().join("rebuild").exists());
    // An index that went otherwise is missed.
    registry.kill();
    for name in ["registry.db", "registry.db-wal", "registry.db-shm"] {
        drop(std::fs::remove_file(registry.data().join(name)));
    }
    let said = registry.try_run(&space).expect_err("there is no index");
    assert!(said.contains("kiln registry rebuild"), "{said}");
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.run(&space);
    registry.get("/v2/main/manifests/v1").expect(200);
    // An old one is not taken for the whole truth.
    assert!(registry.stop());
    let database = registry.data().join("registry.db");
    let old = std::fs::read(&database).expect("the index");
    registry.run(&space);
    registry.image("main", "later", b"later layer");
    registry.image("main", "last", b"last layer");
    assert!(registry.stop());
    std::fs::write(&database, old).expect("it can be written");
    let said = registry.try_run(&space).expect_err("it is old");
    assert!(said.contains("kiln registry rebuild"), "{said}");
    registry.admin(&space, &["rebuild"]).assert_code(0);
    registry.run(&space);
    for tag in ["later", "last", "v1"] {
        registry
            .get(&format!("/v2/main/manifests/{tag}"))
            .expect(200);
    }
}
