//! Clients, collections and restarts by chance, and what must hold after each step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// A step of the world.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A client uploads a blob to a repository.
    Upload {
        repo: usize,
        blob: usize,
    },
    /// A client asks whether a repository has a blob.
    Head {
        repo: usize,
        blob: usize,
    },
    /// A client has a blob mounted.
    Mount {
        from: usize,
        to: usize,
        blob: usize,
    },
    /// A client puts a manifest of two blobs under a tag.
    Put {
        repo: usize,
        blobs: (usize, usize),
        tag: usize,
    },
    Untag {
        repo: usize,
        tag: usize,
    },
    Delete {
        repo: usize,
        blobs: (usize, usize),
    },
    Undelete {
        repo: usize,
        tag: usize,
    },
    DeleteBlob {
        repo: usize,
        blob: usize,
    },
    /// One part of a collection; others may come between.
    SweepTrash,
    SweepBlobs,
    /// The files of copies that are marked go.
    Remove,
    /// The rows of files that went go.
    Bury,
    /// Time passes.
    Wait(Seconds),
    /// The process ends and another begins.
    Restart,
    /// The index is lost and made again.
    Compact,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (repo, blob, tag) = (0..2_usize, 0..4_usize, 0..2_usize);
    let pair = || (0..4_usize, 0..4_usize);
    let step = prop_oneof![
        4 => (repo.clone(), blob.clone()).prop_map(|(repo, blob)| Step::Upload { repo, blob }),
        1 => (repo.clone(), blob.clone()).prop_map(|(repo, blob)| Step::Head { repo, blob }),
        1 => (repo.clone(), repo.clone(), blob.clone()).prop_map(|(from, to, blob)| Step::Mount { from, to, blob }),
        4 => (repo.clone(), pair(), tag.clone()).prop_map(|(repo, blobs, tag)| Step::Put { repo, blobs, tag }),
        1 => (repo.clone(), tag.clone()).prop_map(|(repo, tag)| Step::Untag { repo, tag }),
        2 => (repo.clone(), pair()).prop_map(|(repo, blobs)| Step::Delete { repo, blobs }),
        1 => (repo.clone(), tag).prop_map(|(repo, tag)| Step::Undelete { repo, tag }),
        1 => (repo, blob).prop_map(|(repo, blob)| Step::DeleteBlob { repo, blob }),
        3 => Just(Step::SweepTrash),
        3 => Just(Step::SweepBlobs),
        2 => Just(Step::Remove),
        2 => Just(Step::Bury),
        3 => prop_oneof![Just(1), Just(GRACE / 2), Just(GRACE + 1), Just(TRASH + 1)].prop_map(Step::Wait),
        1 => Just(Step::Restart),
        1 => Just(Step::Compact),
    ];
    prop::collection::vec(step, 1..60)
}

/// Where the index is kept.
pub(super) enum Place {
    Folder(tempfile::TempDir),
    Server(std::rc::Rc<replicas::Server>),
}

impl Place {
    pub(super) fn open(&self) -> Index {
        match self {
            Self::Folder(folder) => Index::open(folder.path()).unwrap(),
            Self::Server(server) => server.connect(),
        }
    }
}

/// The index, the files there would be, and what clients were promised.
pub(super) struct World {
    pub(super) place: Place,
    pub(super) index: Option<Index>,
    pub(super) now: Seconds,
    pub(super) keys: u64,
    pub(super) files: BTreeSet<String>,
    /// Copies that a collection took for removal before others did something.
    pub(super) marked: Vec<String>,
    /// Manifests that were acknowledged and not deleted: repository, digest → blobs.
    pub(super) promised: BTreeMap<(usize, String), Vec<Digest>>,
    /// Blobs that clients were told of, and until when they may rely on it.
    pub(super) leases: BTreeMap<(usize, String), Seconds>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::at(Place::Folder(tempfile::tempdir().unwrap()))
    }

    pub(super) fn at(place: Place) -> Self {
        Self {
            index: Some(place.open()),
            place,
            now: 1_000_000,
            keys: 0,
            files: BTreeSet::new(),
            marked: Vec::new(),
            promised: BTreeMap::new(),
            leases: BTreeMap::new(),
        }
    }

    pub(super) fn index(&self) -> &Index {
        self.index.as_ref().unwrap()
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            now: self.now,
            grace: GRACE,
            trash: TRASH,
            untagged: None,
        }
    }

    pub(super) fn lease(&mut self, repo: usize, digest: &Digest) {
        self.leases
            .insert((repo, digest.to_string()), self.now + GRACE);
    }

    pub(super) fn step(&mut self, step: Step) {
        match step {
            Step::Upload {
                repo: number,
                blob: which,
            } => {
                let (digest, name) = (blob(which), repo(number));
                self.keys += 1;
                let key = format!("{}.{}", digest.hex(), self.keys);
                self.files.insert(key.clone());
                let commit =
                    self.index()
                        .commit_blob(&name, &digest, 1, key.clone(), None, self.now);
                if wait(commit).unwrap() == Stored::Already {
                    self.files.remove(&key);
                }
                self.lease(number, &digest);
            }
            Step::Head {
                repo: number,
                blob: which,
            } => {
                let digest = blob(which);
                if wait(self.index().blob(&repo(number), &digest))
                    .unwrap()
                    .is_some()
                    && wait(self.index().renew_blob(&repo(number), &digest, self.now)).unwrap()
                {
                    self.lease(number, &digest);
                }
            }
            Step::Mount {
                from,
                to,
                blob: which,
            } => {
                let digest = blob(which);
                let (from, target) = (repo(from), repo(to));
                let mount = self
                    .index()
                    .mount(&target, &digest, Some(&from), |_| true, self.now);
                if wait(mount).unwrap() == Mounted::Yes {
                    self.lease(to, &digest);
                }
            }
            Step::Put {
                repo: number,
                blobs,
                tag: which,
            } => self.put(number, blobs, which),
            Step::Untag {
                repo: number,
                tag: which,
            } => {
                wait(
                    self.index()
                        .untag(&repo(number), &tag(which), "t", self.now),
                )
                .unwrap();
            }
            Step::Delete {
                repo: number,
                blobs,
            } => {
                let ((digest, _), name) = (manifest(blobs), repo(number));
                let delete = self.index().delete_manifest(&name, &digest, "t", self.now);
                if wait(delete).unwrap() == DeleteManifest::Done {
                    self.promised.remove(&(number, digest.to_string()));
                }
            }
            Step::Undelete {
                repo: number,
                tag: which,
            } => self.undelete(number, which),
            Step::DeleteBlob {
                repo: number,
                blob: which,
            } => {
                let (digest, name) = (blob(which), repo(number));
                let delete = self.index().delete_blob(&name, &digest, self.now);
                if wait(delete).unwrap() == DeleteBlob::Done {
                    self.leases.remove(&(number, digest.to_string()));
                }
            }
            Step::SweepTrash => {
                self.index().sweep_trash(self.policy(), 500).unwrap();
            }
            Step::SweepBlobs => {
                sweep_blobs(self.index(), self.policy());
            }
            Step::Remove => {
                let doomed = self.index().doomed(500).unwrap();
                for copy in doomed {
                    self.files.remove(&copy.key);
                    self.marked.push(copy.key);
                }
            }
            // A collector that slept removes by the names it noted.
            Step::Bury => {
                let keys = std::mem::take(&mut self.marked);
                for key in &keys {
                    self.files.remove(key);
                }
                self.index()
                    .sweep_blobs(self.policy(), Vec::new(), keys, Durability::Later)
                    .unwrap();
            }
            Step::Wait(seconds) => self.now += seconds,
            Step::Restart => {
                self.index = None;
                self.index = Some(self.place.open());
            }
            Step::Compact => self.index().compact_journal().unwrap(),
        }
    }

    pub(super) fn put(&mut self, number: usize, blobs: (usize, usize), which: usize) {
        let (digest, body) = manifest(blobs);
        let new = NewManifest {
            repo: repo(number),
            digest: digest.clone(),
            document: Document::parse(&body, Some("application/vnd.oci.image.manifest.v1+json"))
                .unwrap(),
            body,
            tags: vec![tag(which)],
            by: "t".to_owned(),
            may_miss: false,
        };
        let parts = vec![blob(blobs.0), blob(blobs.1)];
        match wait(self.index().put_manifest(new, self.now)).unwrap() {
            PutManifest::Done => {
                self.promised.insert((number, digest.to_string()), parts);
            }
            PutManifest::Missing(missing) => {
                for digest in missing {
                    let until = self.leases.get(&(number, digest.to_string()));
                    assert!(
                        until.is_none_or(|until| *until < self.now),
                        "a blob that was promised for long enough is missing: {digest}"
                    );
                }
            }
        }
    }

    pub(super) fn undelete(&mut self, number: usize, which: usize) {
        let (name, reference) = (repo(number).to_string(), tag(which).to_string());
        let found = self
            .index()
            .undelete(name, reference, self.now, "t".to_owned())
            .unwrap();
        if let Some(digest) = found {
            let parts = (0..4)
                .flat_map(|a| (0..4).map(move |b| (a, b)))
                .find(|pair| manifest(*pair).0.as_str() == digest)
                .map(|(a, b)| vec![blob(a), blob(b)])
                .unwrap();
            self.promised.insert((number, digest), parts);
        }
    }

    /// What was promised is there.
    pub(super) fn check(&self) {
        for ((number, digest), parts) in &self.promised {
            let repo = repo(*number);
            let digest_there = digest.parse().unwrap();
            let row = wait(self.index().by_digest(&repo, &digest_there)).unwrap();
            assert!(row.is_some(), "{repo} lost {digest}");
            for part in parts {
                let blob = wait(self.index().blob(&repo, part)).unwrap();
                let blob = blob.unwrap_or_else(|| panic!("{repo}@{digest} lost {part}"));
                assert!(self.files.contains(&blob.key), "the file of {part} is gone");
            }
        }
        assert_eq!(
            self.index().broken_references().unwrap(),
            Vec::<String>::new()
        );
    }

    /// After enough time all that nobody needs is gone, and the journal knows what the index does.
    pub(super) fn end(&mut self) {
        self.now += GRACE + TRASH + 2;
        let policy = self.policy();
        while self.index().sweep_trash(policy, 500).unwrap() > 0 {}
        while sweep_blobs(self.index(), policy) > 0 {}
        self.step(Step::Remove);
        self.step(Step::Bury);
        self.check();
        let needed: BTreeSet<&Digest> = self.promised.values().flatten().collect();
        assert_eq!(
            self.files.len(),
            needed.len(),
            "garbage is left: {:?}",
            self.files
        );
        let mut remembered = BTreeSet::new();
        self.index()
            .replay(|change| {
                change.note_manifest(&mut remembered);
                Ok(())
            })
            .unwrap();
        for (number, digest) in self.promised.keys() {
            assert!(remembered.contains(&format!("{}@{digest}", repo(*number))));
        }
    }
}
