use miette::Diagnostic;
use proptest::prelude::*;

use super::*;
use crate::inputs::{BaseInputs, BuildInputs, PackagePin, Resolver, StepInputs};
use crate::sink::CacheKey;
use crate::testing::{host, manifest, name, produced as produced_by};
use crate::tree::TreeDigest;
use kiln_manifest::model::{Fetch, FileSet, Git};
use kiln_oci::{DiffId, Digest};

fn lower(text: &str, targets: &[&str]) -> BuildGraph {
    let manifest = manifest(text);
    let parse = |target: &&str| BuildTarget::parse(&manifest, target).unwrap();
    let targets: Vec<BuildTarget> = targets.iter().map(parse).collect();
    BuildGraph::lower(&manifest, &targets, &host()).unwrap()
}

fn plan(graph: &BuildGraph, image: ImageName) -> &ImagePlan {
    let mut plans = graph.images().values();
    plans.find(|plan| plan.key.image == image).unwrap()
}

fn names(graph: &BuildGraph, ids: &[StepId]) -> String {
    let names: Vec<&str> = ids
        .iter()
        .map(|&id| graph.nodes()[id].name.as_str())
        .collect();
    names.join(" ")
}

fn stack(graph: &BuildGraph, node: &str) -> String {
    names(graph, graph.stack(graph.find(node).unwrap()))
}

fn edges(graph: &BuildGraph, node: &str) -> String {
    let edge = |edge: &Edge| format!("{}:{}", graph.nodes()[edge.node].name, edge.kind.word());
    let edges: Vec<String> = graph
        .dependencies(graph.find(node).unwrap())
        .iter()
        .map(edge)
        .collect();
    edges.join(" ")
}

const NOTES: &str = "
tool from debian bookworm
tool.packages packages
tool.compile run needs packages
app from debian bookworm
app.user account
app.binary copy reads tool.compile
app.assets run uses user
";

#[test]
fn a_step_sees_its_base_and_what_it_needs_and_nothing_else() {
    let graph = lower(NOTES, &["app"]);
    let all: Vec<StepId> = graph.nodes().ids().collect();
    assert_eq!(
        names(&graph, &all),
        "app:base tool:base app.user app.assets tool.packages tool.compile app.binary"
    );
    assert_eq!(stack(&graph, "app.binary"), "app:base");
    assert_eq!(stack(&graph, "app.assets"), "app:base app.user");
    assert_eq!(stack(&graph, "tool.compile"), "tool:base tool.packages");
    assert_eq!(
        edges(&graph, "app.binary"),
        "app:base:base tool.compile:reads"
    );
    assert_eq!(edges(&graph, "app.assets"), "app.user:account");
    let image = plan(&graph, ImageName::Image(name("app")));
    assert_eq!(
        names(&graph, &image.stack),
        "app:base app.binary app.user app.assets"
    );
    assert_eq!(
        names(&graph, &image.steps),
        "app.binary app.user app.assets"
    );
    // `tool` is reached by one step only.
    assert_eq!(graph.images().len(), 1);
    let reader = graph.find("app.binary").unwrap();
    let read = graph.produced(reader, &produced_by("tool.compile"));
    assert_eq!(
        names(&graph, read.unwrap()),
        "tool:base tool.packages tool.compile"
    );
    assert_eq!(graph.produced(reader, &produced_by("tool")), None);
}

#[test]
fn only_what_targets_reach_is_lowered() {
    let graph = lower(NOTES, &["tool.packages"]);
    let all: Vec<StepId> = graph.nodes().ids().collect();
    assert_eq!(names(&graph, &all), "tool:base tool.packages");
    assert!(graph.images().is_empty());
    assert!(lower(NOTES, &[]).is_empty());
}

#[test]
fn an_image_on_an_image_sees_all_its_layers() {
    let text = "
one from scratch
one.b run
one.a run needs b
two from image one
three from image two
three.s run
three.t run needs s
";
    let graph = lower(text, &["three"]);
    assert_eq!(stack(&graph, "three.s"), "one.b one.a");
    assert_eq!(stack(&graph, "three.t"), "one.b one.a three.s");
    assert_eq!(edges(&graph, "three.s"), "one.a:base");
    assert_eq!(edges(&graph, "three.t"), "three.s:needs");
    let key = |image: &str| plan(&graph, ImageName::Image(name(image))).key.clone();
    let base = |image: &str| graph.origin(&key(image)).unwrap().base.clone();
    assert_eq!(base("one"), ImageBase::Scratch);
    assert_eq!(base("three"), ImageBase::Image(Box::new(key("two"))));
    assert_eq!(graph.images().len(), 3);
}

#[test]
fn packages_and_accounts_chain_by_themselves() {
    let text = "
i from scratch
i.user account
i.admin account
i.zlib packages
i.curl packages
i.other run
";
    let graph = lower(text, &["i"]);
    assert_eq!(stack(&graph, "i.user"), "i.curl i.zlib i.admin");
    assert_eq!(edges(&graph, "i.user"), "i.admin:chain");
    assert_eq!(stack(&graph, "i.other"), "");
    // A need is stronger than both rules.
    let text = "
i from scratch
i.user account
i.script run needs user
i.zlib packages needs script
i.curl packages
";
    let graph = lower(text, &["i"]);
    assert_eq!(stack(&graph, "i.user"), "i.curl");
    assert_eq!(stack(&graph, "i.zlib"), "i.curl i.user i.script");
    // And so is what leads through another image.
    let text = "
i from scratch
i.a packages needs script
i.b packages
i.script copy reads j.out
j from image i2
j.out run
i2 from scratch
i2.s copy reads i.b
";
    assert_eq!(stack(&lower(text, &["i"]), "i.a"), "i.b i.script");
}

#[test]
fn a_service_runs_an_image_or_a_base_as_it_is() {
    let graph = lower(
        "db serves debian bookworm\napp from scratch\napp.s run",
        &["db"],
    );
    assert_eq!(graph.len(), 1);
    let plan = plan(&graph, ImageName::Service(name("db")));
    assert_eq!(names(&graph, &plan.stack), "service.db:base");
}

#[test]
fn siblings_are_pairs_of_which_neither_sees_the_other() {
    let text = "
i from debian bookworm
i.a run
i.b run
i.c run needs a
i.d run needs b c
";
    let graph = lower(text, &["i"]);
    let stack = &plan(&graph, ImageName::Image(name("i"))).stack;
    let pairs: Vec<String> = graph
        .siblings(stack)
        .iter()
        .map(|&(one, other)| names(&graph, &[one, other]))
        .collect();
    assert_eq!(pairs, ["i.a i.b", "i.b i.c"]);
}

fn rendered(error: &dyn Diagnostic) -> String {
    let mut text = String::new();
    let theme = miette::GraphicalTheme::unicode_nocolor();
    miette::GraphicalReportHandler::new_themed(theme)
        .with_width(100)
        .render_report(&mut text, error)
        .unwrap();
    text
}

#[test]
fn every_circle_is_shown_with_all_its_references() {
    let text = "
app from image tool
app.a run needs b
app.b run needs c
app.c run needs a
app.self run needs self
tool from scratch
tool.x copy reads app
tool.y run
";
    let error = BuildGraph::lower(&manifest(text), &[], &host()).unwrap_err();
    let shown = rendered(&error);
    let expected = [
        "these depend on each other in a circle: image `app` → image `tool` → `tool.x`",
        "these depend on each other in a circle: `app.a` → `app.b` → `app.c`",
        "`app.self` depends on itself",
        "image `app` starts from image `tool`",
        "`tool.x` copies from image `app`",
        "`app.a` needs `app.b`",
        "`app.b` needs `app.c`",
        "`app.c` needs `app.a`",
        "`app.self` needs `app.self`",
        "take one of these references away",
        "kiln.toml:",
    ];
    for text in expected {
        assert!(shown.contains(text), "`{text}` is not in\n{shown}");
    }
}

#[test]
fn unknown_targets_say_what_there_is() {
    let manifest = manifest(NOTES);
    let help = |target: &str| match BuildTarget::parse(&manifest, target) {
        Err(GraphError::UnknownTarget { help, .. }) => help,
        other => panic!("{other:?}"),
    };
    assert_eq!(help("ap"), "did you mean `app`?");
    assert_eq!(help("tool.compiel"), "did you mean `tool.compile`?");
    assert_eq!(help("compile"), "did you mean `tool.compile`?");
    assert_eq!(help("something"), "the file has `app`, `tool`");
    assert!(BuildTarget::parse(&manifest, "app.binary").is_ok());
}

/// A file with references to earlier steps only, so that there is no circle.
#[derive(Clone, Debug)]
struct RandomFile {
    images: Vec<RandomImage>,
}

#[derive(Clone, Debug)]
struct RandomImage {
    name: String,
    /// The place of an earlier image, if it starts from one; else whether from a suite.
    from: Option<usize>,
    has_base: bool,
    steps: Vec<RandomStep>,
}

#[derive(Clone, Debug)]
struct RandomStep {
    name: String,
    kind: usize,
    needs: Vec<prop::sample::Index>,
    reads: Vec<(prop::sample::Index, prop::sample::Index)>,
}

impl RandomFile {
    fn text(&self, rename: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        for (at, image) in self.images.iter().enumerate() {
            let from = match (image.from, image.has_base) {
                (Some(other), _) => format!("image {}", rename(&self.images[other].name)),
                (None, true) => "debian bookworm".to_owned(),
                (None, false) => "scratch".to_owned(),
            };
            text += &format!("{} from {from}\n", rename(&image.name));
            for (place, step) in image.steps.iter().enumerate() {
                let kind = ["run", "packages", "account", "copy"][step.kind];
                let own = format!("{}.{}", rename(&image.name), rename(&step.name));
                text += &format!("{own} {kind} needs");
                for need in step.needs.iter().filter(|_| place > 0) {
                    text += &format!(" {}", rename(&image.steps[need.index(place)].name));
                }
                text += " reads";
                for (other, step) in step.reads.iter().filter(|_| at > 0) {
                    let other = &self.images[other.index(at)];
                    text += &format!(" {}", rename(&other.name));
                    if !other.steps.is_empty() {
                        let step = &other.steps[step.index(other.steps.len())];
                        text += &format!(".{}", rename(&step.name));
                    }
                }
                text += "\n";
            }
        }
        text
    }
}

fn files() -> impl Strategy<Value = RandomFile> {
    let names = || Just(["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec()).prop_shuffle();
    let step = (
        0..4_usize,
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..2),
    );
    let image = (
        prop::collection::vec(step, 0..6),
        names(),
        any::<bool>(),
        any::<Option<prop::sample::Index>>(),
    );
    (prop::collection::vec(image, 1..5), names()).prop_map(|(images, image_names)| {
        let image = |(at, (steps, step_names, has_base, from)): (
            usize,
            (Vec<_>, Vec<String>, _, Option<prop::sample::Index>),
        )| {
            let step = |((kind, needs, reads), name): ((usize, _, _), String)| RandomStep {
                name,
                kind,
                needs,
                reads,
            };
            RandomImage {
                name: image_names[at].clone(),
                from: from.filter(|_| at > 0).map(|from| from.index(at)),
                has_base,
                steps: steps.into_iter().zip(step_names).map(step).collect(),
            }
        };
        RandomFile {
            images: images.into_iter().enumerate().map(image).collect(),
        }
    })
}

/// What a step is, without its name: so that renaming can be seen to change nothing.
struct ByContent<'a> {
    graph: &'a BuildGraph,
    reader: StepId,
    layers: &'a BTreeMap<StepId, DiffId>,
}

impl Resolver for ByContent<'_> {
    type Error = std::convert::Infallible;

    fn files(&mut self, _: &FileSet) -> Result<TreeDigest, Self::Error> {
        Ok(TreeDigest::of(b""))
    }

    fn produced(&mut self, from: &ProducedBy) -> Result<Vec<DiffId>, Self::Error> {
        let stack = self.graph.produced(self.reader, from);
        let stack = stack.expect("what is read is reached");
        Ok(stack.iter().map(|id| self.layers[id]).collect())
    }

    fn packages(&mut self, _: &[String]) -> Result<Vec<PackagePin>, Self::Error> {
        Ok(Vec::new())
    }

    fn download(&mut self, _: &Fetch) -> Result<Digest, Self::Error> {
        Ok(Digest::of(b""))
    }

    fn commit(&mut self, _: &Git) -> Result<String, Self::Error> {
        Ok(String::new())
    }

    fn environment(&mut self) -> Result<BTreeMap<String, String>, Self::Error> {
        Ok(BTreeMap::new())
    }
}

/// Computes every key, with layers that follow from keys, as a build of these steps would.
fn keys(graph: &BuildGraph) -> BTreeMap<String, CacheKey> {
    let build = BuildInputs {
        epoch_seconds: 0,
        layer_format: 1,
    };
    let (mut keys, mut layers) = (BTreeMap::new(), BTreeMap::new());
    for (id, node) in graph.nodes().iter() {
        let seen = graph.stack(id).iter().map(|below| layers[below]).collect();
        let inputs = match &node.work {
            Work::Base(_) => StepInputs::of_base(
                &build,
                &node.slot.platform,
                BaseInputs::Image {
                    manifest: Digest::of(b""),
                },
            ),
            Work::Step(step) => {
                let mut resolver = ByContent {
                    graph,
                    reader: id,
                    layers: &layers,
                };
                let platform = &node.slot.platform;
                StepInputs::of_step(&build, platform, seen, step, &mut resolver).unwrap()
            }
        };
        let key = inputs.key();
        layers.insert(id, DiffId(Digest::of(key.as_raw())));
        keys.insert(node.name.to_string(), key);
    }
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn order_respects_edges(file in files()) {
        let graph = BuildGraph::lower_all(&manifest(&file.text(str::to_owned)), &host()).unwrap();
        for id in graph.nodes().ids() {
            for edge in graph.dependencies(id) {
                prop_assert!(edge.node < id);
                prop_assert!(graph.dependents(edge.node).iter().any(|back| back.node == id));
                if edge.kind.is_seen() {
                    prop_assert!(graph.stack(id).contains(&edge.node));
                    // What is seen is seen with all below it.
                    for below in graph.stack(edge.node) {
                        prop_assert!(graph.stack(id).contains(below));
                    }
                }
            }
            // All that is seen is waited for, directly or not, and comes lower than what sees it.
            let mut waits = BTreeSet::from([id]);
            for node in (0..=id.index()).rev().map(StepId::from_index) {
                if waits.contains(&node) {
                    waits.extend(graph.dependencies(node).iter().map(|edge| edge.node));
                }
            }
            let stack = graph.stack(id);
            for (at, node) in stack.iter().enumerate() {
                prop_assert!(waits.contains(node));
                prop_assert!(graph.stack(*node).iter().all(|below| stack[..at].contains(below)));
            }
        }
        // The order of an image with the rest left out is the order that each of its steps sees.
        for plan in graph.images().values() {
            for (at, &id) in plan.stack.iter().enumerate() {
                let below: Vec<StepId> =
                    plan.stack[..at].iter().copied().filter(|node| graph.stack(id).contains(node)).collect();
                prop_assert_eq!(&below, graph.stack(id));
            }
        }
        // Steps that share the system's databases never run side by side.
        let chained = |id: &StepId| matches!(graph.nodes()[*id].work.key(), "packages" | "account");
        for plan in graph.images().values() {
            for (one, other) in graph.siblings(&plan.stack) {
                prop_assert!(!(chained(&one) && chained(&other)));
            }
        }
    }

    #[test]
    fn what_is_not_reached_changes_nothing(file in files(), pick: prop::sample::Index) {
        let manifest = manifest(&file.text(str::to_owned));
        let whole = BuildGraph::lower_all(&manifest, &host()).unwrap();
        prop_assume!(!whole.is_empty());
        let id = StepId::from_index(pick.index(whole.len()));
        let node = whole.nodes()[id].name.to_string();
        prop_assume!(!node.ends_with(":base"));
        let target = BuildTarget::parse(&manifest, &node).unwrap();
        let part = BuildGraph::lower(&manifest, &[target], &host()).unwrap();
        let (whole_keys, part_keys) = (keys(&whole), keys(&part));
        prop_assert_eq!(part_keys.get(&node), whole_keys.get(&node));
        for (node, key) in &part_keys {
            prop_assert_eq!(Some(key), whole_keys.get(node));
            prop_assert_eq!(stack(&part, node), stack(&whole, node));
            prop_assert_eq!(edges(&part, node), edges(&whole, node));
        }
    }

    #[test]
    fn renaming_changes_no_key(file in files()) {
        // The label of an action is the only content here that has a name in it.
        let keys_of = |rename: &dyn Fn(&str) -> String| {
            let mut manifest = manifest(&file.text(rename));
            for image in manifest.images.values_mut() {
                for step in image.steps.values_mut() {
                    strip_label(&mut step.action.value);
                }
            }
            let graph = BuildGraph::lower_all(&manifest, &host()).unwrap();
            let keys = keys(&graph);
            keys.into_values().collect::<BTreeSet<CacheKey>>()
        };
        // Names that sort as before: every step sees the same.
        prop_assert_eq!(keys_of(&str::to_owned), keys_of(&|name| format!("x{name}")));
    }
}

fn strip_label(action: &mut kiln_manifest::model::Action) {
    use kiln_manifest::model::{Action, Command};
    match action {
        Action::Run(run) => run.command = Command::Script(String::new()),
        Action::Packages(packages) => packages[0].value = "package".to_owned(),
        Action::Account(account) => account.name.value = "account".to_owned(),
        Action::Copy(_)
        | Action::Fetch(_)
        | Action::Git(_)
        | Action::Write(_)
        | Action::Remove(_)
        | Action::Mkdir(_)
        | Action::Link(_) => {}
    }
}

#[test]
fn renaming_one_step_changes_neither_its_key_nor_that_of_what_sees_it_alone() {
    let text =
        |step: &str| format!("i from scratch\ni.{step} run\ni.other run\ni.top run needs {step}\n");
    let keys_of = |step: &str| {
        let mut manifest = manifest(&text(step));
        for step in manifest
            .images
            .values_mut()
            .flat_map(|image| image.steps.values_mut())
        {
            strip_label(&mut step.action.value);
        }
        let graph = BuildGraph::lower_all(&manifest, &host()).unwrap();
        let keys = keys(&graph);
        (keys[&format!("i.{step}")], keys["i.top"])
    };
    assert_eq!(keys_of("a"), keys_of("z"));
}

#[test]
fn a_hundred_steps_on_a_hundred_steps_lower_quickly_enough_to_count() {
    let mut text = String::from("one from scratch\none.s000 run\n");
    for at in 1..100 {
        text += &format!("one.s{at:03} run needs s{:03}\n", at - 1);
    }
    text += &text
        .replace("one", "two")
        .replace("from scratch", "from image one");
    let graph = lower(&text, &["two"]);
    assert_eq!(graph.stack(graph.find("two.s099").unwrap()).len(), 199);
    assert_eq!(edges(&graph, "two.s000"), "one.s099:base");
}
