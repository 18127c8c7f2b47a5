//! What happened in a build, from `--progress json`.

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

    #[track_caller]
    fn from(run: Run) -> Self {
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

    fn find(&self, step: &str, event: &str) -> Option<&Value> {
        self.events
            .iter()
            .find(|candidate| candidate["event"] == event && candidate["step"] == step)
    }
}
