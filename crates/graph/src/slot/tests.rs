use super::*;
use crate::build_graph::BuildGraph;
use crate::file_graph::ImageName;
use crate::target::BuildTarget;
use crate::testing::{host, manifest, name, produced};

const TWO: &str = "
lib from scratch
lib.make run
base from debian bookworm
base.more run
app from image base on linux/amd64 linux/arm64
app.copy copy reads lib.make
";

fn lower(text: &str, target: &str, choice: PlatformChoice) -> BuildGraph {
    let manifest = manifest(text);
    let target = BuildTarget::parse(&manifest, target).unwrap();
    let request = PlatformRequest { choice, ..host() };
    BuildGraph::lower(&manifest, &[target], &request).unwrap()
}

fn nodes(graph: &BuildGraph) -> Vec<&str> {
    let nodes = graph.nodes().iter();
    nodes.map(|(_, node)| node.name.as_str()).collect()
}

fn named(graph: &BuildGraph, image: &str) -> Option<Vec<String>> {
    let keys = graph.named().get(&ImageName::Image(name(image)))?;
    Some(keys.iter().map(ToString::to_string).collect())
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

#[test]
fn everything_behind_an_image_is_for_its_platform() {
    let graph = lower(TWO, "app", PlatformChoice::Declared);
    assert_eq!(
        nodes(&graph),
        [
            "base:base@linux/amd64",
            "base:base@linux/arm64",
            "base.more@linux/amd64",
            "base.more@linux/arm64",
            "lib.make@linux/amd64",
            "lib.make@linux/arm64",
            "app.copy@linux/amd64",
            "app.copy@linux/arm64",
        ]
    );
    for target in ["linux/amd64", "linux/arm64"] {
        let at = |node: &str| graph.find(&format!("{node}@{target}")).unwrap();
        let reader = at("app.copy");
        assert_eq!(graph.stack(reader), [at("base:base"), at("base.more")]);
        let read = graph.produced(reader, &produced("lib.make")).unwrap();
        assert_eq!(read, [at("lib.make")]);
    }
    assert_eq!(graph.find_all("app.copy").len(), 2);
    assert_eq!(graph.find_all("app.copy@linux/arm64").len(), 1);
    let app = ["app@linux/amd64", "app@linux/arm64"].map(str::to_owned);
    assert_eq!(named(&graph, "app"), Some(app.to_vec()));
    // What it is built for by itself is the host.
    assert_eq!(
        named(&graph, "base"),
        Some(vec!["base@linux/amd64".to_owned()])
    );
    assert_eq!(graph.asked_for().len(), 6);
}

#[test]
fn one_platform_is_not_named() {
    for choice in [
        PlatformChoice::Exactly(vec![platform("linux/arm64")]),
        PlatformChoice::Once(platform("linux/arm64")),
    ] {
        let graph = lower(TWO, "app", choice);
        assert_eq!(
            nodes(&graph),
            ["base:base", "base.more", "lib.make", "app.copy"]
        );
        assert_eq!(graph.find_all("app.copy@linux/arm64").len(), 1);
        assert!(graph.find_all("app.copy@linux/amd64").is_empty());
        let amd64 = platform("linux/amd64");
        let node = &graph.nodes()[graph.find("app.copy").unwrap()];
        assert_eq!(node.lasting_name(&amd64).as_str(), "app.copy@linux/arm64");
    }
}

#[test]
fn a_name_never_stands_for_less_than_the_manifest_says() {
    let once = lower(TWO, "app", PlatformChoice::Once(platform("linux/amd64")));
    assert_eq!(named(&once, "app"), None);
    assert!(named(&once, "base").is_some());
    let exactly = PlatformChoice::Exactly(vec![platform("linux/arm64")]);
    let exactly = lower(TWO, "app", exactly);
    assert_eq!(
        named(&exactly, "app"),
        Some(vec!["app@linux/arm64".to_owned()])
    );
    assert_eq!(named(&exactly, "base"), None);
}

const CROSS: &str = "
sdk from debian bookworm
sdk.packages packages
tool from image sdk on host
tool.fetch run
tool.compile run for-target needs fetch
tool.docs run
app from scratch on linux/amd64 linux/arm64
app.binary copy reads tool.compile
app.docs copy reads tool.docs
";

#[test]
fn an_image_for_the_host_is_made_once_up_to_where_the_target_is_used() {
    let graph = lower(CROSS, "app", PlatformChoice::Declared);
    assert_eq!(
        nodes(&graph),
        [
            "sdk:base@linux/amd64",
            "sdk.packages@linux/amd64",
            "tool.docs@linux/amd64",
            "app.docs@linux/amd64",
            "app.docs@linux/arm64",
            "tool.fetch@linux/amd64",
            "tool.compile@linux/amd64",
            "app.binary@linux/amd64",
            "tool.compile@linux/arm64",
            "app.binary@linux/arm64",
        ]
    );
    let node = |name: &str| graph.find(name).unwrap();
    let compile = node("tool.compile@linux/arm64");
    let slot = &graph.nodes()[compile].slot;
    assert!(slot.is_cross());
    assert_eq!(slot.platform, platform("linux/amd64"));
    assert_eq!(
        graph.stack(compile),
        [
            node("sdk:base@linux/amd64"),
            node("sdk.packages@linux/amd64"),
            node("tool.fetch@linux/amd64")
        ]
    );
    let read = graph.produced(node("app.binary@linux/arm64"), &produced("tool.compile"));
    assert_eq!(read.unwrap().last(), Some(&compile));
    let read = graph.produced(node("app.docs@linux/arm64"), &produced("tool.docs"));
    assert_eq!(read.unwrap().last(), Some(&node("tool.docs@linux/amd64")));
}

#[test]
fn an_image_for_the_host_alone_is_for_the_host() {
    let graph = lower(CROSS, "tool", PlatformChoice::Declared);
    assert!(graph.find("tool.compile").is_some());
    assert!(named(&graph, "tool").is_some());
    let exactly = PlatformChoice::Exactly(vec![platform("linux/arm64")]);
    let graph = lower(CROSS, "tool.compile", exactly);
    let [target] = graph.targets() else { panic!() };
    assert_eq!(target.slot.target, platform("linux/arm64"));
    assert_eq!(target.slot.platform, platform("linux/amd64"));
    assert_eq!(target.stack.len(), 4);
}
