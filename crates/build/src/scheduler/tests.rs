mod equal_keys;
mod events;
mod failures;
mod fake;
mod lost;
mod random;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};

use kiln_graph::{BuildTarget, PlatformRequest};
use kiln_manifest::model::{Action, Base, BuildManifest, Command, Image, Project, Run, Step};
use kiln_manifest::value::Name;
use kiln_manifest::{Span, Spanned};

use fake::FakeExecutor;

use super::*;
use crate::event::MissReason;
use crate::executor::Task;

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Span::default())
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// One image `i` of `run` steps: name and needs.
fn graph_of(steps: &[(&str, &[&str])]) -> BuildGraph {
    let step = |(step, needs): &(&str, &[&str])| {
        let run = Run {
            command: Command::Script(String::new()),
            files: None,
            workdir: None,
            env: BTreeMap::new(),
            user: None,
            network: false,
            caches: BTreeMap::new(),
            secrets: Vec::new(),
            ssh: false,
            limits: kiln_manifest::model::Limits::default(),
            timeout: None,
        };
        let step = Step {
            name: spanned(name(step)),
            span: Span::default(),
            needs: needs.iter().map(|need| spanned(name(need))).collect(),
            account_steps: Vec::new(),
            action: spanned(Action::Run(Box::new(run))),
            uses_target: false,
        };
        (step.name.value.clone(), step)
    };
    let image = Image {
        name: spanned(name("i")),
        from: spanned(Base::Scratch),
        steps: steps.iter().map(step).collect(),
        config: Default::default(),
        tags: Vec::new(),
        platforms: Default::default(),
        base_uses_target: false,
        config_uses_target: false,
    };
    let manifest = BuildManifest {
        warnings: Vec::new(),
        source: Arc::new(miette::NamedSource::new("kiln.toml", String::new())),
        project: Project {
            name: spanned(name("p")),
            default: None,
        },
        args: BTreeMap::new(),
        images: BTreeMap::from([(name("i"), image)]),
        targets: BTreeMap::new(),
        volumes: BTreeMap::new(),
        networks: BTreeMap::new(),
        secrets: BTreeMap::new(),
        caches: BTreeMap::new(),
        services: BTreeMap::new(),
    };
    let request = PlatformRequest::declared(kiln_oci::Platform::host());
    BuildGraph::lower(&manifest, &[BuildTarget::Image(name("i"))], &request).unwrap()
}

fn options(jobs: usize) -> SchedulerOptions {
    SchedulerOptions {
        jobs: NonZeroUsize::new(jobs).unwrap(),
        keep_going: false,
        refresh: Refresh::Nothing,
    }
}

struct Build {
    report: BuildReport,
    events: Vec<EventKind>,
    graph: BuildGraph,
}

impl Build {
    fn new(steps: &[(&str, &[&str])], executor: &FakeExecutor, options: &SchedulerOptions) -> Self {
        Self::cancelled_by(steps, executor, options, &Cancel::new().unwrap())
    }

    fn cancelled_by(
        steps: &[(&str, &[&str])],
        executor: &FakeExecutor,
        options: &SchedulerOptions,
        cancel: &Cancel,
    ) -> Self {
        let graph = graph_of(steps);
        let mut events = Vec::new();
        let mut sink = |event: BuildEvent| events.push(event.kind);
        let report = run_graph(&graph, executor, options, cancel, &mut sink).unwrap();
        Self {
            report,
            events,
            graph,
        }
    }

    fn state(&self, step: &str) -> StepState {
        self.report.states[self.graph.find(&format!("i.{step}")).unwrap()]
    }

    fn states(&self) -> Vec<&'static str> {
        self.graph
            .nodes()
            .ids()
            .map(|id| self.report.states[id].word())
            .collect()
    }

    fn skips(&self) -> Vec<(String, SkipReason)> {
        let skip = |event: &EventKind| {
            let EventKind::Skipped { step, because } = event else {
                return None;
            };
            Some((step.to_string(), because.clone()))
        };
        self.events.iter().filter_map(skip).collect()
    }
}

const DIAMOND: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("left", &["base"]),
    ("right", &["base"]),
    ("top", &["left", "right"]),
];

#[test]
fn everything_runs_once_and_then_is_cached() {
    let executor = FakeExecutor::default();
    let build = Build::new(DIAMOND, &executor, &options(4));
    assert_eq!(build.report.outcome, Outcome::Complete);
    assert_eq!(build.states(), ["built"; 4]);
    assert_eq!(executor.take_ran().len(), 4);
    let again = Build::new(DIAMOND, &executor, &options(4));
    assert_eq!(again.states(), ["cached"; 4]);
    assert_eq!(again.report.outputs, build.report.outputs);
    assert_eq!(executor.take_ran(), Vec::<String>::new());
}

#[test]
fn siblings_overlap_in_time() {
    let mut executor = FakeExecutor::default();
    let meeting = Arc::new(Barrier::new(2));
    for step in ["left", "right"] {
        let meeting = Arc::clone(&meeting);
        // Neither returns unless both run at the same time.
        executor.act(step, move |_| {
            meeting.wait();
            Ok(())
        });
    }
    assert_eq!(
        Build::new(DIAMOND, &executor, &options(2)).report.outcome,
        Outcome::Complete
    );
}

#[test]
fn never_more_than_jobs_run_at_once() {
    let names: Vec<String> = (0..12).map(|number| format!("s{number}")).collect();
    let steps: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    for jobs in [1, 3] {
        let mut executor = FakeExecutor::default();
        let meeting = Arc::new(Barrier::new(jobs));
        for name in &names {
            let meeting = Arc::clone(&meeting);
            executor.act(name, move |_| {
                meeting.wait();
                Ok(())
            });
        }
        // The barrier needs `jobs` at once to let any go; the counter sees more than that.
        let build = Build::new(&steps, &executor, &options(jobs));
        assert_eq!(build.report.outcome, Outcome::Complete);
        assert_eq!(executor.most_running.load(Ordering::SeqCst), jobs);
    }
}

#[test]
fn a_changed_sibling_runs_again_alone() {
    let mut executor = FakeExecutor::default();
    let steps: &[(&str, &[&str])] = &[("base", &[]), ("left", &["base"]), ("right", &["base"])];
    let _first = Build::new(steps, &executor, &options(2));
    executor.take_ran();
    executor.recipe("left", "new recipe");
    let build = Build::new(steps, &executor, &options(2));
    assert_eq!(executor.take_ran(), ["i.left"]);
    assert_eq!(
        (build.state("left"), build.state("right")),
        (StepState::Built, StepState::Cached)
    );
}

#[test]
fn refreshed_nodes_run_although_they_are_cached() {
    let executor = FakeExecutor::default();
    let _first = Build::new(DIAMOND, &executor, &options(2));
    executor.take_ran();
    let left = graph_of(DIAMOND).find("i.left").unwrap();
    let refresh = Refresh::Nodes(BTreeSet::from([left]));
    let build = Build::new(
        DIAMOND,
        &executor,
        &SchedulerOptions {
            refresh,
            ..options(2)
        },
    );
    assert_eq!(executor.take_ran(), ["i.left"]);
    let is_refresh = |event: &&EventKind| {
        matches!(
            event,
            EventKind::Miss {
                reason: MissReason::Refresh,
                ..
            }
        )
    };
    assert_eq!(build.events.iter().filter(is_refresh).count(), 1);
    assert_eq!(build.state("top"), StepState::Cached);
}

#[test]
fn the_longest_way_begins_first() {
    let executor = FakeExecutor::default();
    let steps: &[(&str, &[&str])] = &[
        ("a", &[]),
        ("b", &[]),
        ("z", &[]),
        ("z2", &["z"]),
        ("z3", &["z2"]),
    ];
    let _build = Build::new(steps, &executor, &options(1));
    assert_eq!(executor.ran.lock().unwrap()[0], "i.z");
}
