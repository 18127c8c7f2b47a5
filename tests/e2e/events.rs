//! What happened in a build, from `--progress json`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::space::{Run, TestSpace};

/// A build that ended, with its events.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) run: Run,
    pub(crate) events: Vec<Value>,
}

impl Build {
    /// Runs `kiln build` with `arguments`.
    #[track_caller]
    pub(crate) fn of(space: &TestSpace, arguments: &[&str]) -> Self {
        let mut all = vec!["build", "--progress", "json"];
        all.extend(arguments);
        Self::from(space.kiln(all))
    }

    /// Runs `kiln build` with `arguments` and expects it to succeed.
    #[track_caller]
    pub(crate) fn ok(space: &TestSpace, arguments: &[&str]) -> Self {
        let build = Self::of(space, arguments);
        build.run.assert_code(0);
        build
    }

    /// Reads the events of a run that was made in another way.
    #[track_caller]
    pub(crate) fn from(run: Run) -> Self {
        // Diagnostics follow the events on standard error.
        let events = run
            .stderr
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).expect("an event is a JSON object"))
            .collect();
        Self { run, events }
    }

    /// When `event` happened to `step`, in milliseconds since the build began.
    #[track_caller]
    pub(crate) fn time(&self, step: &str, event: &str) -> u64 {
        self.find(step, event)
            .and_then(|event| event["at_ms"].as_u64())
            .unwrap_or_else(|| panic!("`{step}` has no `{event}`\n{}", self.run.shown()))
    }

    /// Whether `event` happened to `step`.
    pub(crate) fn has(&self, step: &str, event: &str) -> bool {
        self.find(step, event).is_some()
    }

    /// The steps that `event` happened to, sorted.
    pub(crate) fn steps(&self, event: &str) -> Vec<String> {
        let mut steps: Vec<String> = self
            .events
            .iter()
            .filter(|candidate| candidate["event"] == event)
            .filter_map(|event| event["step"].as_str().map(str::to_owned))
            .collect();
        steps.sort();
        steps
    }

    /// The digest of the only image that was built.
    #[track_caller]
    pub(crate) fn digest(&self) -> String {
        let mut digests = self
            .events
            .iter()
            .filter(|event| event["event"] == "image")
            .filter_map(|event| event["digest"].as_str());
        match (digests.next(), digests.next()) {
            (Some(only), None) => only.to_owned(),
            _ => panic!("not one image\n{}", self.run.shown()),
        }
    }

    /// The digest of one of the images that were built.
    #[track_caller]
    pub(crate) fn digest_of(&self, image: &str) -> String {
        let digest = self.images().remove(image);
        digest.unwrap_or_else(|| panic!("`{image}` was not built\n{}", self.run.shown()))
    }

    /// The steps and bases that really ran, sorted.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.steps("started")
    }

    /// Where the first `event` of `step` stands in the stream.
    #[track_caller]
    pub(crate) fn position(&self, step: &str, event: &str) -> usize {
        self.events
            .iter()
            .position(|candidate| candidate["event"] == event && candidate["step"] == step)
            .unwrap_or_else(|| panic!("`{step}` has no `{event}`\n{}", self.run.shown()))
    }

    /// The digests of the images that were built, by name.
    pub(crate) fn images(&self) -> BTreeMap<String, String> {
        self.of_kind("image")
            .map(|event| (text(&event["image"]), text(&event["digest"])))
            .collect()
    }

    /// The layers of every step and base, by name.
    pub(crate) fn layers(&self) -> BTreeMap<String, Vec<String>> {
        self.of_kind("done")
            .chain(self.of_kind("hit"))
            .map(|event| {
                let layers = event["layers"].as_array().expect("a list of layers");
                (text(&event["step"]), layers.iter().map(text).collect())
            })
            .collect()
    }

    /// All lines that `step` wrote.
    pub(crate) fn output(&self, step: &str) -> Vec<String> {
        self.of_kind("output")
            .filter(|event| event["step"] == step)
            .map(|event| text(&event["line"]))
            .collect()
    }

    /// Every event of a kind.
    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events
            .iter()
            .filter(move |candidate| candidate["event"] == kind)
    }

    fn find(&self, step: &str, event: &str) -> Option<&Value> {
        self.events
            .iter()
            .find(|candidate| candidate["event"] == event && candidate["step"] == step)
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
