//! A build that goes through its graph more than once, as one stream of events.
//!
//! When a result that a cache promised cannot be had, the graph is run again, and what was finished
//! until then is found in the store. Whoever watches sees one build: each node ends once, those whose
//! result was lost begin a second time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kiln_graph::NodeName;

use crate::event::{BuildEvent, EventKind, Outcome, SkipReason};

/// What an event says of a node that has ended in an earlier pass.
enum Second {
    /// It is looked at again, which may come to nothing.
    Beginning,
    /// It ended as it did before.
    SameEnd,
    /// It really has to be worked on.
    Work,
    /// Nothing about how far it is.
    Aside,
}

impl Second {
    fn of(kind: &EventKind) -> Self {
        match kind {
            EventKind::Queued { .. } | EventKind::Checking { .. } => Self::Beginning,
            EventKind::Hit { .. } => Self::SameEnd,
            EventKind::Miss { .. }
            | EventKind::Joined { .. }
            | EventKind::Started { .. }
            | EventKind::ShellOpened { .. }
            | EventKind::ShellClosed { .. }
            | EventKind::Done { .. }
            | EventKind::Failed { .. } => Self::Work,
            EventKind::Build { .. }
            | EventKind::Output { .. }
            | EventKind::Progress { .. }
            | EventKind::Warning { .. }
            | EventKind::Detail { .. }
            | EventKind::Skipped { .. }
            | EventKind::Cancelled { .. }
            | EventKind::Image { .. }
            | EventKind::Written { .. }
            | EventKind::Finished { .. } => Self::Aside,
        }
    }
}

/// Passes events on, and keeps back those that hold only if there is no further pass.
pub(crate) struct Passes<'s> {
    sink: &'s mut dyn FnMut(BuildEvent),
    began: Instant,
    /// When the pass began, since the build began.
    pass_began_ms: u64,
    has_begun: bool,
    /// The ends of this pass that another pass would take back.
    ends: Vec<BuildEvent>,
    finished: Option<BuildEvent>,
    /// Nodes whose end was passed on; whether they ran.
    ended: BTreeMap<NodeName, bool>,
    /// Beginnings of nodes that have ended in an earlier pass, until it is known whether they run.
    again: BTreeMap<NodeName, Vec<BuildEvent>>,
    reopened: BTreeSet<NodeName>,
}

impl<'s> Passes<'s> {
    pub(crate) fn new(sink: &'s mut dyn FnMut(BuildEvent)) -> Self {
        Self {
            sink,
            began: Instant::now(),
            pass_began_ms: 0,
            has_begun: false,
            ends: Vec::new(),
            finished: None,
            ended: BTreeMap::new(),
            again: BTreeMap::new(),
            reopened: BTreeSet::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes an event of the scheduler.
    pub(crate) fn event(&mut self, mut event: BuildEvent) {
        event.at_ms += self.pass_began_ms;
        let step = match &event.kind {
            EventKind::Build { .. } => {
                if !std::mem::replace(&mut self.has_begun, true) {
                    (self.sink)(event);
                }
                return;
            }
            EventKind::Finished { .. } => {
                self.finished = Some(event);
                return;
            }
            EventKind::Cancelled { .. } | EventKind::Skipped { .. } => {
                self.ends.push(event);
                return;
            }
            EventKind::Image { .. } | EventKind::Written { .. } | EventKind::Detail { .. } => {
                (self.sink)(event);
                return;
            }
            EventKind::Queued { step }
            | EventKind::Checking { step }
            | EventKind::Hit { step, .. }
            | EventKind::Miss { step, .. }
            | EventKind::Joined { step, .. }
            | EventKind::Started { step }
            | EventKind::Output { step, .. }
            | EventKind::Progress { step, .. }
            | EventKind::ShellOpened { step, .. }
            | EventKind::ShellClosed { step, .. }
            | EventKind::Done { step, .. }
            | EventKind::Failed { step, .. } => Some(step.clone()),
            EventKind::Warning { step, .. } => step.clone(),
        };
        let Some(step) = step else {
            (self.sink)(event);
            return;
        };
        if self.ended.contains_key(&step) && !self.reopened.contains(&step) {
            match Second::of(&event.kind) {
                Second::Beginning => {
                    self.again.entry(step).or_default().push(event);
                    return;
                }
                Second::SameEnd => {
                    self.again.remove(&step);
                    return;
                }
                Second::Aside => {}
                Second::Work => {
                    for held in self.again.remove(&step).into_iter().flatten() {
                        (self.sink)(held);
                    }
                    self.reopened.insert(step.clone());
                }
            }
        }
        let is_hit = matches!(event.kind, EventKind::Hit { .. });
        if is_hit
            || matches!(
                event.kind,
                EventKind::Done { .. } | EventKind::Failed { .. }
            )
        {
            self.reopened.remove(&step);
            self.ended.insert(step, !is_hit);
        }
        (self.sink)(event);
    }

    /// Tells something that no scheduler told.
    pub(crate) fn tell(&mut self, kind: EventKind) {
        let at_ms = self.now_ms();
        (self.sink)(BuildEvent { at_ms, kind });
    }

    /// Forgets how this pass ended: there is another.
    pub(crate) fn again(&mut self) {
        self.ends.clear();
        self.finished = None;
        self.pass_began_ms = self.now_ms();
    }

    /// Tells how the nodes of the last pass ended. In a build that was not cancelled, a node that was given
    /// up is one that the failure of another one left without a result.
    pub(crate) fn end(&mut self, build: Outcome) {
        for mut event in std::mem::take(&mut self.ends) {
            if let EventKind::Cancelled { step } = &event.kind
                && build != Outcome::Cancelled
            {
                let (step, because) = (step.clone(), SkipReason::Stopped);
                event.kind = EventKind::Skipped { step, because };
            }
            (self.sink)(event);
        }
    }

    /// Tells how the build ended, images included.
    pub(crate) fn finish(&mut self, build: Outcome) {
        let Some(mut event) = self.finished.take() else {
            return;
        };
        event.at_ms = event.at_ms.max(self.now_ms());
        if let EventKind::Finished {
            outcome,
            built,
            cached,
            failed,
            ..
        } = &mut event.kind
        {
            // What ran in an earlier pass was found in the store by this one.
            let ran = self.ended.values().filter(|ran| **ran).count() - *failed;
            let more = ran.saturating_sub(*built).min(*cached);
            *built += more;
            *cached -= more;
            *outcome = build;
        }
        (self.sink)(event);
    }
}

#[cfg(test)]
mod tests {
    use kiln_manifest::value::Name;

    use super::*;
    use crate::event::MissReason;

    fn step(text: &str) -> NodeName {
        let name = |text| Name::parse(text).unwrap();
        NodeName::of_step(&name("i"), &name(text))
    }

    fn hit(name: &str) -> EventKind {
        EventKind::Hit {
            step: step(name),
            key: String::new(),
            layers: Vec::new(),
            size_bytes: 0,
            cache: None,
        }
    }

    fn done(name: &str) -> EventKind {
        EventKind::Done {
            step: step(name),
            layers: Vec::new(),
            size_bytes: 0,
            duration_ms: 0,
            unchanged: false,
        }
    }

    fn finished(outcome: Outcome, counts: [usize; 4]) -> EventKind {
        let [built, cached, failed, skipped] = counts;
        EventKind::Finished {
            outcome,
            built,
            cached,
            failed,
            skipped,
        }
    }

    fn begin() -> EventKind {
        EventKind::Build {
            format: 1,
            jobs: 1,
            nodes: Vec::new(),
        }
    }

    fn checking(name: &str) -> EventKind {
        EventKind::Checking { step: step(name) }
    }

    /// Runs passes over their events, and returns what is told.
    fn told(passes: &[&[EventKind]], build: Outcome) -> Vec<EventKind> {
        let mut told = Vec::new();
        let mut sink = |event: BuildEvent| told.push(event.kind);
        let mut all = Passes::new(&mut sink);
        for (number, events) in passes.iter().enumerate() {
            if number > 0 {
                all.again();
            }
            for kind in *events {
                let kind = kind.clone();
                all.event(BuildEvent { at_ms: 0, kind });
            }
        }
        all.end(build);
        all.finish(build);
        told
    }

    #[test]
    fn two_passes_are_told_as_one_build() {
        let miss = |name| EventKind::Miss {
            step: step(name),
            key: String::new(),
            reason: MissReason::New,
        };
        let first = [
            begin(),
            checking("lost"),
            hit("lost"),
            checking("aside"),
            done("aside"),
            checking("user"),
            EventKind::Cancelled { step: step("user") },
            finished(Outcome::Cancelled, [1, 1, 0, 1]),
        ];
        let second = [
            begin(),
            checking("aside"),
            hit("aside"),
            checking("lost"),
            miss("lost"),
            done("lost"),
            checking("user"),
            done("user"),
            finished(Outcome::Complete, [2, 1, 0, 0]),
        ];
        let expected = [
            begin(),
            checking("lost"),
            hit("lost"),
            checking("aside"),
            done("aside"),
            checking("user"),
            // The second pass; `aside` is as it was.
            checking("lost"),
            miss("lost"),
            done("lost"),
            checking("user"),
            done("user"),
            finished(Outcome::Complete, [3, 0, 0, 0]),
        ];
        assert_eq!(told(&[&first, &second], Outcome::Complete), expected);
    }

    #[test]
    fn what_is_given_up_beside_a_failure_is_skipped_and_a_cancelled_build_is_cancelled() {
        let events = [
            EventKind::Cancelled { step: step("user") },
            finished(Outcome::Cancelled, [0, 0, 0, 1]),
        ];
        let (step, because) = (step("user"), SkipReason::Stopped);
        assert_eq!(
            told(&[&events], Outcome::Failed),
            [
                EventKind::Skipped { step, because },
                finished(Outcome::Failed, [0, 0, 0, 1])
            ]
        );
        assert_eq!(told(&[&events], Outcome::Cancelled), events);
    }
}
