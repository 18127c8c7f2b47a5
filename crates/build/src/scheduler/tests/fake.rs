//! An executor that makes nothing and keeps results in memory.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use kiln_graph::Sink;
use kiln_oci::Digest;

use super::*;
use crate::executor::LookUp;

pub(super) type Act = Box<dyn Fn(&Task<'_>) -> Result<(), Failure> + Send + Sync>;

/// Keeps results in memory, and records what it is asked to do.
#[derive(Default)]
pub(super) struct FakeExecutor {
    /// What decides the key of a step beside the layers it sees; its name if not given.
    pub(super) recipes: BTreeMap<String, String>,
    /// What decides the layer of a step; key and recipe if not given.
    pub(super) results: BTreeMap<String, String>,
    /// What else a step does when it runs.
    pub(super) acts: BTreeMap<String, Act>,
    /// What happens between the end of a look-up that missed and its report; told whether it is the first.
    pub(super) looked_up: BTreeMap<String, Box<dyn Fn(bool) + Send + Sync>>,
    pub(super) look_ups: AtomicUsize,
    pub(super) forgets: bool,
    pub(super) cache: Mutex<BTreeMap<CacheKey, NodeOutput>>,
    pub(super) last: Mutex<BTreeMap<String, Vec<DiffId>>>,
    pub(super) ran: Mutex<Vec<String>>,
    pub(super) running: AtomicUsize,
    pub(super) most_running: AtomicUsize,
}

impl FakeExecutor {
    pub(super) fn act(
        &mut self,
        step: &str,
        act: impl Fn(&Task<'_>) -> Result<(), Failure> + Send + Sync + 'static,
    ) {
        self.acts.insert(format!("i.{step}"), Box::new(act));
    }

    pub(super) fn recipe(&mut self, step: &str, recipe: &str) {
        self.recipes.insert(format!("i.{step}"), recipe.to_owned());
    }

    /// Returns what ran since the last call, sorted.
    pub(super) fn take_ran(&self) -> Vec<String> {
        let mut ran = std::mem::take(&mut *self.ran.lock().unwrap());
        ran.sort();
        ran
    }
}

fn step_of(task: &Task<'_>) -> String {
    task.graph().nodes()[task.node()].name.to_string()
}

impl Executor for FakeExecutor {
    type Inputs = ();

    fn describe(&self, task: &Task<'_>) -> Result<Described<()>, Failure> {
        let step = step_of(task);
        let mut hasher = kiln_graph::Hasher::new();
        hasher.field(
            "recipe",
            self.recipes.get(&step).unwrap_or(&step).as_bytes(),
        );
        for layer in task.layers_seen() {
            hasher.field("layer", layer.to_string().as_bytes());
        }
        Ok(Described {
            key: hasher.finish(),
            inputs: (),
        })
    }

    fn look_up(&self, task: &Task<'_>, described: &Described<()>) -> Result<LookUp, Failure> {
        let step = step_of(task);
        if let Some(output) = self.cache.lock().unwrap().get(&described.key) {
            self.last
                .lock()
                .unwrap()
                .insert(step, output.layers.clone());
            return Ok(LookUp::Hit {
                output: output.clone(),
                cache: None,
            });
        }
        if let Some(looked_up) = self.looked_up.get(&step) {
            looked_up(self.look_ups.fetch_add(1, Ordering::SeqCst) == 0);
        }
        let previous = self.last.lock().unwrap().get(&step).cloned();
        let reason = match previous {
            Some(_) => MissReason::Changed {
                what: "recipe".to_owned(),
                files: Vec::new(),
            },
            None => MissReason::New,
        };
        Ok(LookUp::Miss { reason, previous })
    }

    fn run(&self, task: &Task<'_>, described: Described<()>) -> Result<NodeOutput, Failure> {
        let step = step_of(task);
        self.ran.lock().unwrap().push(step.clone());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let done = match self.acts.get(&step) {
            Some(act) => act(task),
            None => Ok(()),
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        done?;
        let made = format!("{:?}", described.key);
        let result = self.results.get(&step).unwrap_or(&made);
        let layers = vec![DiffId(Digest::of(result.as_bytes()))];
        let output = NodeOutput {
            layers,
            size_bytes: 1,
            config: None,
        };
        self.last
            .lock()
            .unwrap()
            .insert(step, output.layers.clone());
        if !self.forgets {
            let mut cache = self.cache.lock().unwrap();
            cache.insert(described.key, output.clone());
        }
        Ok(output)
    }
}
