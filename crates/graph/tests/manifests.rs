//! Real manifests: a circle is shown in the text it stands in.

use kiln_graph::BuildGraph;
use kiln_manifest::{BuildManifest, Overrides};

fn parse(text: &str) -> BuildManifest {
    BuildManifest::parse("kiln.toml", text, &Overrides::default()).unwrap()
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
    let error = BuildGraph::lower(&manifest, &[]).unwrap_err();
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
