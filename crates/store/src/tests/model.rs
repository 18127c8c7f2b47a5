//! Random use of the store against a model: nothing named or pinned is ever lost.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::DiffId;
use proptest::prelude::*;

use crate::disk::failpoint;
use crate::testing::{NOW, TestStore, make_image, make_layer, put_step};
use crate::{GcPolicy, Session, StoreError, Timestamp};

#[derive(Debug, Clone)]
enum Action {
    /// Session `who` makes an image of layer `layer` and names it `name`.
    Image {
        who: usize,
        name: usize,
        layer: usize,
    },
    /// Session `who` makes a layer and records a step.
    Step {
        who: usize,
        layer: usize,
    },
    /// Session `who` asks for a step's record.
    Hit {
        who: usize,
        layer: usize,
    },
    Untag {
        name: usize,
    },
    /// Session `who` ends.
    Finish {
        who: usize,
    },
    /// Session `who` is killed.
    Kill {
        who: usize,
    },
    Gc {
        older: Option<u64>,
        keep_bytes: Option<u64>,
    },
    Tidy,
}

/// One action, and after how many changes the process that does it is killed, if it is.
fn action() -> impl Strategy<Value = (Action, Option<u64>)> {
    let who = 0..3_usize;
    let layer = 0..5_usize;
    let action = prop_oneof![
        3 => (who.clone(), 0..3_usize, layer.clone())
            .prop_map(|(who, name, layer)| Action::Image { who, name, layer }),
        2 => (who.clone(), layer.clone()).prop_map(|(who, layer)| Action::Step { who, layer }),
        2 => (who.clone(), layer).prop_map(|(who, layer)| Action::Hit { who, layer }),
        1 => (0..3_usize).prop_map(|name| Action::Untag { name }),
        1 => who.clone().prop_map(|who| Action::Finish { who }),
        1 => who.prop_map(|who| Action::Kill { who }),
        3 => (prop::option::of(0..40_u64), prop::option::of(0..60_000_u64))
            .prop_map(|(older, keep_bytes)| Action::Gc { older, keep_bytes }),
        1 => Just(Action::Tidy),
    ];
    (action, prop::option::weighted(0.3, 0..30_u64))
}

struct Model {
    test: TestStore,
    clock: u64,
    sessions: BTreeMap<usize, Session>,
    /// What each session was told is there.
    pinned: BTreeMap<usize, BTreeSet<DiffId>>,
    /// What each name stands for; uncertain after a death.
    named: BTreeMap<usize, Option<DiffId>>,
}

impl Model {
    fn session(&mut self, who: usize) -> Result<Session, StoreError> {
        if let Some(session) = self.sessions.get(&who) {
            return Ok(session.clone());
        }
        let now = Timestamp::from_seconds(NOW.seconds() + self.clock);
        let session = Session::begin(&self.test.store, now)?;
        self.sessions.insert(who, session.clone());
        Ok(session)
    }

    fn end(&mut self, who: usize) {
        self.sessions.remove(&who);
        self.pinned.remove(&who);
    }

    fn pin(&mut self, who: usize, layer: DiffId) {
        self.pinned.entry(who).or_default().insert(layer);
    }

    fn run(&mut self, action: &Action) -> Result<(), StoreError> {
        let store = self.test.store.clone();
        match *action {
            Action::Image { who, name, layer } => {
                let session = self.session(who)?;
                self.named.insert(name, None);
                let image = make_image(&store, &session, &tag(name), &content(layer))?;
                self.named.insert(name, Some(image.layer));
                self.pin(who, image.layer);
            }
            Action::Step { who, layer } => {
                let session = self.session(who)?;
                let diff_id = make_layer(&store, &session, &content(layer))?;
                self.pin(who, diff_id);
                put_step(&store, &session, &content(layer), diff_id)?;
            }
            Action::Hit { who, layer } => {
                let session = self.session(who)?;
                let key = crate::testing::step_key(&content(layer));
                if let Some(record) = store.steps().get(&session, &key)? {
                    self.pin(who, record.layer);
                }
            }
            Action::Untag { name } => {
                let session = self.session(9)?;
                self.named.insert(name, None);
                let reference = tag(name).parse().unwrap();
                store.references().remove(&session, &reference)?;
                self.named.remove(&name);
                self.end(9);
            }
            Action::Finish { who } => {
                if let Some(session) = self.sessions.remove(&who) {
                    self.pinned.remove(&who);
                    session.finish()?;
                }
            }
            Action::Kill { who } => {
                failpoint::die_after(Some(0));
                self.end(who);
                failpoint::die_after(None);
            }
            Action::Gc { older, keep_bytes } => {
                let unused_since = older.map(|older| {
                    Timestamp::from_seconds(NOW.seconds() + self.clock).earlier_by(older)
                });
                store.gc(GcPolicy {
                    unused_since,
                    keep_bytes,
                    dry_run: false,
                })?;
            }
            Action::Tidy => store.tidy()?,
        }
        Ok(())
    }

    fn check(&self) {
        self.test.assert_consistent();
        let list = self.test.store.references().list().unwrap();
        for (name, layer) in &self.named {
            let Some(layer) = layer else { continue };
            let descriptor = &list[&tag(*name).parse().unwrap()];
            let manifest = self.test.store.blobs().read(descriptor).unwrap();
            let manifest = kiln_oci::ImageManifest::parse(&manifest).unwrap();
            assert_eq!(manifest.layers[0].digest, layer.0);
        }
        for layers in self.pinned.values() {
            for layer in layers {
                let record = self.test.store.layers().record(layer).unwrap();
                assert!(record.is_some(), "a pinned layer is gone");
            }
        }
    }
}

fn tag(name: usize) -> String {
    format!("localhost/image-{name}")
}

fn content(layer: usize) -> String {
    layer.to_string().repeat(1 + layer * 5000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn nothing_reachable_is_ever_lost(actions in prop::collection::vec(action(), 1..30)) {
        let mut model = Model {
            test: TestStore::new(),
            clock: 0,
            sessions: BTreeMap::new(),
            pinned: BTreeMap::new(),
            named: BTreeMap::new(),
        };
        for (action, death) in &actions {
            model.clock += 10;
            failpoint::die_after(*death);
            let outcome = model.run(action);
            if outcome.is_err() {
                // The whole process is gone, with all of its sessions.
                model.sessions.clear();
                model.pinned.clear();
            }
            failpoint::die_after(None);
            if death.is_none() {
                outcome.unwrap();
            }
            model.check();
        }
    }
}
