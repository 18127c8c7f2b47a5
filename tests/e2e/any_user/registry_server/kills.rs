//! The end of the process at each kind of step of whatever it does: what was acknowledged stays, what was not is done
//! or not done, and everything goes on.

mod clients;

use std::collections::BTreeMap;

use self::clients::{Known, Layer, STEPS, Work};
use crate::fixtures::own_registry::{OwnRegistry, database_server};
use crate::fixtures::{ObjectStore, Steps};
use crate::space::{TestSpace, is_soaked};

/// Garbage goes as soon as it may, when it is told to.
const SETTINGS: &str = "[log]\nrequests = false\n[gc]\ngrace = \"0s\"\ntrash = \"0s\"\nuploads = \"0s\"\ninterval = \"0s\"\n";

/// Where a registry is ended.
struct Walk<'a> {
    space: &'a TestSpace,
    registry: OwnRegistry,
    steps: &'a Steps,
    known: Known,
    kills: usize,
}

impl<'a> Walk<'a> {
    fn new(space: &'a TestSpace, registry: OwnRegistry, steps: &'a Steps) -> Self {
        Self {
            space,
            registry,
            steps,
            known: Known::default(),
            kills: 0,
        }
    }

    /// Has clients do everything, again and again, and ends the registry at a step of each request; until there are no
    /// steps left at which it was not ended.
    fn go(&mut self, layer: Layer, collect: &(dyn Fn(&OwnRegistry) -> bool + Sync)) {
        self.known.host = self.registry.host();
        let mut images = BTreeMap::new();
        let mut before = usize::MAX;
        let mut round = 0;
        while self.kills != before {
            before = self.kills;
            let work = Work::new(round, layer);
            for (phase, step) in STEPS {
                self.steps.watch(phase);
                let outcome = step(&mut self.known, &work);
                if self.ended(round, phase, &work) {
                    step(&mut self.known, &work).expect("it runs again");
                } else {
                    outcome.expect("nobody ended it");
                }
            }
            self.known.lets_go();
            self.steps.watch("collect garbage");
            let is_done = collect(&self.registry);
            if self.ended(round, "collect garbage", &work) {
                assert!(collect(&self.registry), "garbage stays");
            } else {
                assert!(is_done, "nobody ended it");
            }
            self.known
                .verify(&self.registry, &work, "at the end of the round");
            self.check("at the end of the round");
            // Tags are looked at each time, and what they are about once more at the end.
            images.extend(self.known.end_round());
            round += 1;
        }
        for (path, bytes) in images {
            assert_eq!(self.registry.get(&path).expect(200).body, bytes, "{path}");
        }
        self.registry.admin(self.space, &["scrub"]).assert_code(0);
        println!("{} kills in {round} rounds", self.kills);
    }

    /// Says whether the registry was ended; then it runs again, and has what clients know.
    fn ended(&mut self, round: usize, phase: &str, work: &Work) -> bool {
        let Some(call) = self.steps.rest() else {
            return false;
        };
        self.kills += 1;
        let at = format!("round {round}, {phase}, {call}");
        println!("{at}");
        self.registry.kill();
        let (registry, space) = (&mut self.registry, self.space);
        self.steps.start(|| registry.run(space));
        self.known.verify(&self.registry, work, &at);
        if is_soaked() {
            self.check(&at);
        }
        true
    }

    /// Reads all bytes, and has the registry look at itself.
    fn check(&self, at: &str) {
        self.known.verify_bytes(&self.registry, at);
        self.registry.admin(self.space, &["check"]).assert_code(0);
    }
}

#[test]
fn a_registry_that_is_killed_at_any_step_loses_nothing() {
    let space = TestSpace::new();
    let mut registry = OwnRegistry::start(&space, SETTINGS);
    assert!(registry.stop());
    let steps = Steps::new(&registry.data(), &[]);
    steps.start(|| registry.run(&space));
    let mut walk = Walk::new(&space, registry, &steps);
    let layer = Layer {
        length: 6000,
        pieces: [2000, 3000],
    };
    walk.go(layer, &|registry| {
        registry.admin(&space, &["gc"]).code == Some(0)
    });
    // At least where the index and the journal are written, for each request.
    assert!(walk.kills > 3 * STEPS.len(), "{} kills", walk.kills);
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
    let mut walk = Walk::new(&space, registry, &steps);
    // More than a part.
    let layer = Layer {
        length: 8_500_002,
        pieces: [90_000, 8_450_000],
    };
    // Whoever has the command collects.
    walk.go(layer, &|registry| {
        steps.start(|| registry.admin(&space, &["gc"]).code == Some(0))
    });
    // At least before what is said to the database, for each request.
    assert!(walk.kills > STEPS.len(), "{} kills", walk.kills);
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
        steps.watch("stop and start");
        registry.stop();
        let started = steps.start(|| registry.try_run(&space));
        let Some(call) = steps.rest() else {
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
        steps.watch("rebuild");
        let run = steps.start(|| registry.admin(&space, &["rebuild"]));
        let ended = steps.rest();
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
    registry.lose_index();
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
