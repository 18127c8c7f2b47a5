mod lost;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use kiln_graph::{BuildTarget, PlatformRequest, Sink};
use kiln_manifest::model::{Action, Base, BuildManifest, Command, Image, Project, Run, Step};
use kiln_manifest::value::Name;
use kiln_manifest::{Span, Spanned};
use kiln_oci::Digest;
use proptest::prelude::*;

use super::*;
use crate::event::{FailureKind, MissReason, OutputStream};
use crate::executor::{LookUp, Task};

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

type Act = Box<dyn Fn(&Task<'_>) -> Result<(), Failure> + Send + Sync>;

/// Keeps results in memory, and records what it is asked to do.
#[derive(Default)]
struct FakeExecutor {
    /// What decides the key of a step beside the layers it sees; its name if not given.
    recipes: BTreeMap<String, String>,
    /// What decides the layer of a step; key and recipe if not given.
    results: BTreeMap<String, String>,
    /// What else a step does when it runs.
    acts: BTreeMap<String, Act>,
    /// What happens between the end of a look-up that missed and its report; told whether it is the first.
    looked_up: BTreeMap<String, Box<dyn Fn(bool) + Send + Sync>>,
    look_ups: AtomicUsize,
    forgets: bool,
    cache: Mutex<BTreeMap<CacheKey, NodeOutput>>,
    last: Mutex<BTreeMap<String, Vec<DiffId>>>,
    ran: Mutex<Vec<String>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
}

impl FakeExecutor {
    fn act(
        &mut self,
        step: &str,
        act: impl Fn(&Task<'_>) -> Result<(), Failure> + Send + Sync + 'static,
    ) {
        self.acts.insert(format!("i.{step}"), Box::new(act));
    }

    fn recipe(&mut self, step: &str, recipe: &str) {
        self.recipes.insert(format!("i.{step}"), recipe.to_owned());
    }

    /// Returns what ran since the last call, sorted.
    fn take_ran(&self) -> Vec<String> {
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
fn an_equal_layer_stops_the_re_runs() {
    let mut executor = FakeExecutor::default();
    executor
        .results
        .insert("i.base".to_owned(), "always the same".to_owned());
    let _first = Build::new(DIAMOND, &executor, &options(2));
    executor.take_ran();
    executor.recipe("base", "new recipe");
    let build = Build::new(DIAMOND, &executor, &options(2));
    assert_eq!(executor.take_ran(), ["i.base"]);
    assert_eq!(build.states(), ["built", "cached", "cached", "cached"]);
    let unchanged = |event: &EventKind| {
        matches!(
            event,
            EventKind::Done {
                unchanged: true,
                ..
            }
        )
    };
    assert!(build.events.iter().any(unchanged));
    // Without the cutoff all would run.
    executor.results.clear();
    executor.recipe("base", "another recipe");
    let _third = Build::new(DIAMOND, &executor, &options(2));
    assert_eq!(executor.take_ran().len(), 4);
}

#[test]
fn equal_keys_run_once() {
    for keep_going in [false, true] {
        let mut executor = FakeExecutor::default();
        executor.recipe("one", "same");
        executor.recipe("two", "same");
        executor.recipe("three", "same");
        let steps: &[(&str, &[&str])] = &[
            ("one", &[]),
            ("two", &[]),
            ("three", &[]),
            ("after", &["one", "two", "three"]),
        ];
        let options = SchedulerOptions {
            keep_going,
            refresh: Refresh::Everything,
            ..options(4)
        };
        for _ in 0..2 {
            let build = Build::new(steps, &executor, &options);
            let ran = executor.take_ran();
            assert_eq!(ran.len(), 2, "{ran:?}");
            assert_eq!(build.report.outcome, Outcome::Complete);
            let joined = build
                .events
                .iter()
                .filter(|event| matches!(event, EventKind::Joined { .. }));
            assert_eq!(joined.count(), 2);
        }
    }
}

/// The look-up of the second ends before the first one runs, but is told about only afterwards.
#[test]
fn equal_keys_run_once_even_if_the_look_up_was_too_early() {
    let mut executor = FakeExecutor::default();
    executor.recipe("one", "same");
    executor.recipe("two", "same");
    let looked = Arc::new(Barrier::new(2));
    let built = Arc::new(Barrier::new(2));
    let (early, late) = (Arc::clone(&looked), Arc::clone(&built));
    executor.looked_up.insert(
        "i.two".to_owned(),
        Box::new(move |is_first| {
            if is_first {
                early.wait();
                late.wait();
            }
        }),
    );
    executor.act("one", move |_| {
        looked.wait();
        Ok(())
    });
    // Runs only when `one` is built, and lets `two` report its stale miss.
    executor.act("then", move |_| {
        built.wait();
        Ok(())
    });
    let steps: &[(&str, &[&str])] = &[("one", &[]), ("two", &[]), ("then", &["one"])];
    let build = Build::new(steps, &executor, &options(2));
    assert_eq!(executor.take_ran(), ["i.one", "i.then"]);
    assert_eq!(build.state("two"), StepState::Cached);
}

#[test]
fn a_cache_that_forgets_does_not_keep_the_build_going_round() {
    let mut executor = FakeExecutor {
        forgets: true,
        ..FakeExecutor::default()
    };
    executor.recipe("one", "same");
    executor.recipe("two", "same");
    let build = Build::new(&[("one", &[]), ("two", &[])], &executor, &options(2));
    assert_eq!(build.report.outcome, Outcome::Complete);
    assert_eq!(executor.take_ran(), ["i.one", "i.two"]);
}

#[test]
fn a_failure_skips_what_is_behind_and_lets_siblings_finish() {
    let mut executor = FakeExecutor::default();
    let meeting = Arc::new(Barrier::new(2));
    let (one, other) = (Arc::clone(&meeting), meeting);
    executor.act("left", move |task| {
        for line in 0..30 {
            task.line(OutputStream::Stderr, format!("line {line}").as_bytes());
        }
        one.wait();
        Err(Failure::exited(7))
    });
    executor.act("right", move |_| {
        other.wait();
        Ok(())
    });
    let steps: &[(&str, &[&str])] = &[
        ("left", &[]),
        ("right", &[]),
        ("top", &["left"]),
        ("late", &["right"]),
    ];
    let build = Build::new(steps, &executor, &options(2));
    assert_eq!(build.report.outcome, Outcome::Failed);
    assert_eq!(build.state("left"), StepState::Failed);
    assert_eq!(build.state("right"), StepState::Built);
    assert_eq!(build.state("top"), StepState::Skipped);
    assert_eq!(build.report.failures[0].1.summary.exit_code, Some(7));
    let failed = build.events.iter().find_map(|event| {
        let EventKind::Failed {
            cause, last_lines, ..
        } = event
        else {
            return None;
        };
        Some((cause.clone(), last_lines.clone()))
    });
    let (cause, last_lines) = failed.unwrap();
    assert_eq!(
        (cause.kind, cause.exit_code),
        (FailureKind::Process, Some(7))
    );
    assert_eq!(last_lines.len(), LAST_LINES);
    assert_eq!(last_lines.last().unwrap(), "line 29");
    // What finished stays cached.
    executor.acts.clear();
    executor.take_ran();
    let again = Build::new(steps, &executor, &options(2));
    assert_eq!(again.state("right"), StepState::Cached);
    assert_eq!(again.report.outcome, Outcome::Complete);
}

#[test]
fn keep_going_runs_all_that_can_run() {
    let steps: &[(&str, &[&str])] = &[
        ("bad", &[]),
        ("behind", &["bad"]),
        ("far-behind", &["behind", "good"]),
        ("good", &[]),
        ("later", &["good"]),
        ("last", &["later"]),
    ];
    for (keep_going, jobs) in [(true, 1), (true, 4), (false, 1)] {
        let mut executor = FakeExecutor::default();
        executor.act("bad", |_| Err(Failure::exited(1)));
        let build = Build::new(
            steps,
            &executor,
            &SchedulerOptions {
                keep_going,
                ..options(jobs)
            },
        );
        assert_eq!(build.report.outcome, Outcome::Failed);
        let behind = SkipReason::Failed {
            failed: NodeName::of_step(&name("i"), &name("bad")),
        };
        let skips = build.skips();
        assert!(skips.contains(&("i.far-behind".to_owned(), behind.clone())));
        assert!(skips.contains(&("i.behind".to_owned(), behind)));
        if keep_going {
            assert_eq!(
                executor.take_ran(),
                ["i.bad", "i.good", "i.last", "i.later"]
            );
        } else {
            assert!(!executor.take_ran().contains(&"i.last".to_owned()));
            assert!(skips.contains(&("i.last".to_owned(), SkipReason::Stopped)));
        }
    }
}

#[test]
fn cancelling_stops_what_runs_and_begins_nothing() {
    let mut executor = FakeExecutor::default();
    let cancel = Cancel::new().unwrap();
    let canceller = cancel.clone();
    // Waits as a real step does: on the descriptor, without end.
    let wait_for_cancel = |task: &Task<'_>| {
        let mut fds = [rustix::event::PollFd::new(
            task.cancel(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut fds, None).unwrap();
        task.check_cancelled()
    };
    executor.act("left", wait_for_cancel);
    executor.act("right", move |task| {
        canceller.cancel();
        wait_for_cancel(task)
    });
    let build = Build::cancelled_by(DIAMOND, &executor, &options(2), &cancel);
    assert_eq!(build.report.outcome, Outcome::Cancelled);
    assert_eq!(
        build.states(),
        ["built", "cancelled", "cancelled", "cancelled"]
    );
    assert_eq!(executor.take_ran(), ["i.base", "i.left", "i.right"]);
    assert!(matches!(
        build.events.last(),
        Some(EventKind::Finished {
            outcome: Outcome::Cancelled,
            ..
        })
    ));
}

#[test]
fn a_build_that_is_cancelled_beforehand_runs_nothing() {
    let executor = FakeExecutor::default();
    let cancel = Cancel::new().unwrap();
    cancel.cancel();
    let build = Build::cancelled_by(DIAMOND, &executor, &options(2), &cancel);
    assert_eq!(build.states(), ["cancelled"; 4]);
    assert_eq!(executor.take_ran(), Vec::<String>::new());
}

#[test]
fn a_worker_that_panics_fails_its_step_and_the_build_ends() {
    let mut executor = FakeExecutor::default();
    executor.act("left", |_| panic!("as a test"));
    let options = SchedulerOptions {
        keep_going: true,
        ..options(2)
    };
    let build = Build::new(DIAMOND, &executor, &options);
    assert_eq!(build.states(), ["built", "failed", "built", "skipped"]);
    let failure = &build.report.failures[0].1;
    assert_eq!(failure.summary.kind, FailureKind::Bug);
    assert!(failure.to_string().contains("as a test"), "{failure}");
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

#[test]
fn a_step_that_writes_without_end_is_slowed_down_not_kept() {
    let mut executor = FakeExecutor::default();
    executor.act("loud", |task| {
        use std::io::Write;
        let mut output = task.output(OutputStream::Stdout);
        for _ in 0..100_000 {
            output.write_all(b"again and again\n").unwrap();
        }
        Ok(())
    });
    let graph = graph_of(&[("loud", &[])]);
    let mut lines = 0;
    let mut sink = |event: BuildEvent| {
        lines += usize::from(matches!(event.kind, EventKind::Output { .. }));
    };
    let cancel = Cancel::new().unwrap();
    let report = run_graph(&graph, &executor, &options(1), &cancel, &mut sink).unwrap();
    assert_eq!((report.outcome, lines), (Outcome::Complete, 100_000));
}

#[test]
fn progress_is_thinned_out_but_its_end_is_told() {
    let mut executor = FakeExecutor::default();
    executor.act("download", |task| {
        for done in 0..=10_000 {
            task.progress("package", done, Some(10_000));
        }
        Ok(())
    });
    let build = Build::new(&[("download", &[])], &executor, &options(1));
    let progress: Vec<u64> = build
        .events
        .iter()
        .filter_map(|event| {
            let EventKind::Progress { done_bytes, .. } = event else {
                return None;
            };
            Some(*done_bytes)
        })
        .collect();
    assert!(progress.len() < 1000, "{}", progress.len());
    assert_eq!((progress[0], *progress.last().unwrap()), (0, 10_000));
}

/// Checks the order of events that `docs/formats/build-events.md` promises.
#[test]
fn the_stream_keeps_its_promises() {
    let mut executor = FakeExecutor::default();
    executor.act("left", |task| {
        task.line(OutputStream::Stdout, b"hello");
        task.warn("careful");
        Ok(())
    });
    executor.act("right", |_| Err(Failure::killed(9)));
    let graph = graph_of(DIAMOND);
    let mut lines = Vec::new();
    let mut sink = |event: BuildEvent| lines.push(serde_json::to_value(&event).unwrap());
    let cancel = Cancel::new().unwrap();
    let _report = run_graph(&graph, &executor, &options(2), &cancel, &mut sink).unwrap();
    assert_eq!(lines[0]["event"], "build");
    assert_eq!(lines[0]["format"], 1);
    assert_eq!(lines[0]["nodes"][1]["after"][0], "i.base");
    assert_eq!(lines.last().unwrap()["event"], "finished");
    let of = |step: &str| -> Vec<&str> {
        let events = lines.iter().filter(|line| line["step"] == step);
        events.map(|line| line["event"].as_str().unwrap()).collect()
    };
    assert_eq!(
        of("i.base"),
        ["queued", "checking", "miss", "started", "done"]
    );
    assert_eq!(
        of("i.left"),
        [
            "queued", "checking", "miss", "started", "output", "warning", "done"
        ]
    );
    assert_eq!(
        of("i.right"),
        ["queued", "checking", "miss", "started", "failed"]
    );
    assert_eq!(of("i.top"), ["skipped"]);
    let find = |event: &str| lines.iter().find(|line| line["event"] == event).unwrap();
    assert_eq!(find("miss")["reason"], "new");
    assert_eq!(find("failed")["kind"], "process");
    assert_eq!(find("failed")["signal"], 9);
    assert_eq!(find("skipped")["because"], "failed");
    assert_eq!(find("skipped")["failed"], "i.right");
    assert_eq!(find("output")["line"], "hello");
    assert!(lines.iter().all(|line| line["at_ms"].is_u64()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the graph and whatever fails: all nodes finish, nothing runs before what it needs, and with
    /// `keep_going` exactly what is behind a failure has no result.
    #[test]
    fn random_graphs_finish(
        needs in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..14),
        fails in prop::collection::vec(prop::bool::weighted(0.15), 14),
        equal in prop::collection::vec(0..6_usize, 14),
        jobs in 1..5_usize,
        keep_going: bool,
    ) {
        let names: Vec<String> = (0..needs.len()).map(|at| format!("s{at:02}")).collect();
        let needed: Vec<Vec<&str>> = needs
            .iter()
            .enumerate()
            .map(|(at, needs)| {
                let names = needs.iter().filter(|_| at > 0).map(|need| names[need.index(at)].as_str());
                names.collect::<BTreeSet<&str>>().into_iter().collect()
            })
            .collect();
        let steps: Vec<(&str, &[&str])> =
            names.iter().zip(&needed).map(|(name, needs)| (name.as_str(), needs.as_slice())).collect();
        let mut executor = FakeExecutor::default();
        for (at, name) in names.iter().enumerate() {
            if fails[at] {
                executor.act(name, |_| Err(Failure::exited(1)));
            } else {
                // Some steps have the same inputs as others.
                executor.recipe(name, &format!("recipe {}", equal[at]));
            }
        }
        let build = Build::new(&steps, &executor, &SchedulerOptions { keep_going, ..options(jobs) });
        let report = &build.report;
        let mut doomed: BTreeSet<StepId> = BTreeSet::new();
        for id in build.graph.nodes().ids() {
            let state = report.states[id];
            prop_assert!(state.is_finished());
            prop_assert_eq!(state.has_output(), report.outputs[id].is_some());
            let after = build.graph.dependencies(id);
            if state.has_output() || state == StepState::Failed {
                prop_assert!(after.iter().all(|edge| report.states[edge.node].has_output()));
            }
            let name = build.graph.nodes()[id].name.as_str();
            let at: usize = name.rsplit('s').next().unwrap().parse().unwrap();
            let is_behind = after.iter().any(|edge| doomed.contains(&edge.node));
            if fails[at] || is_behind {
                doomed.insert(id);
            }
            if keep_going {
                prop_assert_eq!(state == StepState::Failed, fails[at] && !is_behind);
                prop_assert_eq!(state.has_output(), !doomed.contains(&id));
            }
        }
        let is_complete = report.outcome == Outcome::Complete;
        prop_assert_eq!(is_complete, report.failures.is_empty() && doomed.is_empty());
        // Equal inputs ran once: no two runs made the same layer.
        let done = build.events.iter().filter_map(|event| {
            let EventKind::Done { layers, .. } = event else { return None };
            Some(layers.clone())
        });
        let done: Vec<Vec<DiffId>> = done.collect();
        prop_assert_eq!(done.iter().collect::<BTreeSet<_>>().len(), done.len());
    }
}
