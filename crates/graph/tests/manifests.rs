//! Real manifests: the examples lower and render, and a circle is shown in the text it stands in.

use std::fs;
use std::path::Path;

use kiln_graph::{BuildGraph, BuildTarget, PlatformRequest, RenderFormat};
use kiln_manifest::{BuildManifest, Overrides};
use kiln_oci::Platform;

fn host() -> PlatformRequest {
    PlatformRequest::declared(Platform::host())
}

fn parse(text: &str) -> BuildManifest {
    BuildManifest::parse("kiln.toml", text, &Overrides::default())
        .expect("a manifest without errors")
}

#[test]
fn every_example_lowers_and_renders() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path().join("kiln.toml");
        if !path.exists() {
            continue;
        }
        count += 1;
        let manifest = parse(&fs::read_to_string(&path).unwrap());
        let graph = BuildGraph::lower_all(&manifest, &host()).unwrap();
        assert!(!graph.is_empty(), "{}", path.display());
        for format in [
            RenderFormat::Text,
            RenderFormat::Dot,
            RenderFormat::Mermaid,
            RenderFormat::Svg,
            RenderFormat::Json,
        ] {
            let rendered = graph.render(format, None);
            for (_, node) in graph.nodes().iter() {
                let name = node.name.as_str().rsplit(['.', ':']).next().unwrap();
                // Where a diagram has the platform elsewhere, or says it once for several.
                let name = name.split('@').next().unwrap();
                assert!(rendered.contains(name), "`{name}` is not in\n{rendered}");
            }
        }
    }
    assert!(count >= 4, "{count} examples");
}

#[test]
fn siblings_of_the_first_example_wait_for_the_base_only() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/hello/kiln.toml");
    let manifest = parse(&fs::read_to_string(path).unwrap());
    let target = BuildTarget::parse(&manifest, "hello").unwrap();
    let graph = BuildGraph::lower(&manifest, &[target], &host()).unwrap();
    for step in ["letters", "embers", "motto"] {
        let id = graph.find(&format!("hello.{step}")).unwrap();
        let after = graph.dependencies(id);
        assert_eq!(after.len(), 1);
        assert_eq!(graph.nodes()[after[0].node].name.as_str(), "hello:base");
    }
}

#[test]
fn a_circle_is_shown_where_it_stands() {
    let manifest = parse(
        r#"schema = 1
[project]
name = "circle"

[image.app]
from = { image = "tool" }
step.compile = { needs = ["fetch"], run = "make" }
step.fetch = { needs = ["compile"], run = "get" }

[image.tool]
from = "scratch"
step.take = { copy = [{ from = "app", path = "/x", to = "/x" }] }
"#,
    );
    let error = BuildGraph::lower(&manifest, &[], &host()).unwrap_err();
    let mut shown = String::new();
    miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor())
        .with_width(100)
        .render_report(&mut shown, &error)
        .unwrap();
    let expected = r#"graph::cycles

  × `kiln.toml` has references that lead in a circle

Error: graph::cycle

  × these depend on each other in a circle: image `app` → image `tool` → `tool.take`
    ╭─[kiln.toml:6:18]
  5 │ [image.app]
  6 │ from = { image = "tool" }
    ·                  ───┬──
    ·                     ╰── image `app` starts from image `tool`
  7 │ step.compile = { needs = ["fetch"], run = "make" }
  8 │ step.fetch = { needs = ["compile"], run = "get" }
  9 │
 10 │ [image.tool]
 11 │ from = "scratch"
 12 │ step.take = { copy = [{ from = "app", path = "/x", to = "/x" }] }
    ·                                ──┬──
    ·                                  ╰── `tool.take` copies from image `app`
    ╰────
  help: take one of these references away

Error: graph::cycle

  × these depend on each other in a circle: `app.compile` → `app.fetch`
   ╭─[kiln.toml:7:27]
 6 │ from = { image = "tool" }
 7 │ step.compile = { needs = ["fetch"], run = "make" }
   ·                           ───┬───
   ·                              ╰── `app.compile` needs `app.fetch`
 8 │ step.fetch = { needs = ["compile"], run = "get" }
   ·                         ────┬────
   ·                             ╰── `app.fetch` needs `app.compile`
 9 │ 
   ╰────
  help: take one of these references away
"#;
    let trimmed = |text: &str| {
        text.lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert_eq!(trimmed(&shown), trimmed(expected), "{shown}");
}
