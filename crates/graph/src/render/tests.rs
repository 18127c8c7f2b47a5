use super::*;
use crate::target::BuildTarget;
use crate::testing::{host, manifest};

const NOTES: &str = "
tool from debian bookworm
tool.packages packages
tool.compile run needs packages
tool.docs run needs packages
app from image base
app.user account
app.binary copy reads tool.compile
app.assets run uses user
app.all run needs assets binary
base from scratch
";

fn graph() -> BuildGraph {
    let manifest = manifest(NOTES);
    let target = BuildTarget::parse(&manifest, "app").unwrap();
    BuildGraph::lower(&manifest, &[target], &host()).unwrap()
}

fn marks(graph: &BuildGraph) -> StepMap<Mark> {
    graph.nodes().map(|id, _| match id.index() % 3 {
        0 => Mark {
            word: "cached".to_owned(),
            tone: Tone::Good,
        },
        1 => Mark {
            word: "will run".to_owned(),
            tone: Tone::Active,
        },
        _ => Mark {
            word: "failed".to_owned(),
            tone: Tone::Bad,
        },
    })
}

#[test]
fn text_has_a_line_for_each_node() {
    let graph = graph();
    let expected = "\
app (from image base)
├─ binary    copy             reads tool.compile
├─ user      account
├─ assets    run              uses the account of user
└─ all       run              needs binary, assets
base (from scratch)
tool
├─ base      debian bookworm
├─ packages  packages
└─ compile   run              needs packages
";
    assert_eq!(graph.render(RenderFormat::Text, None), expected);
    let marked = graph.render(RenderFormat::Text, Some(&marks(&graph)));
    assert!(
        marked.contains("├─ base      debian bookworm  [cached]\n"),
        "{marked}"
    );
}

#[test]
fn dot_and_mermaid_have_every_node_and_edge() {
    let graph = graph();
    let edges: usize = graph
        .nodes()
        .ids()
        .map(|id| graph.dependencies(id).len())
        .sum();
    let dot = graph.render(RenderFormat::Dot, Some(&marks(&graph)));
    assert_eq!(dot.matches(" -> ").count(), edges);
    assert!(
        dot.contains("\"tool.compile\" -> \"app.binary\" [style=dashed, label=\"reads\"];"),
        "{dot}"
    );
    assert!(dot.contains("label=\"app (from image base)\""), "{dot}");
    let mermaid = graph.render(RenderFormat::Mermaid, Some(&marks(&graph)));
    assert_eq!(
        mermaid.matches("-->").count() + mermaid.matches(".->").count(),
        edges
    );
    assert_eq!(mermaid.matches("subgraph").count(), 3);
}

#[test]
fn json_says_what_each_node_sees() {
    let graph = graph();
    let text = graph.render(RenderFormat::Json, None);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let nodes = json["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), graph.len());
    let all = nodes.iter().find(|node| node["name"] == "app.all").unwrap();
    assert_eq!(
        all["sees"],
        serde_json::json!(["app.binary", "app.user", "app.assets"])
    );
    assert_eq!(
        all["after"][0],
        serde_json::json!({ "name": "app.binary", "kind": "needs" })
    );
    assert_eq!(all.get("state"), None);
    let app = &json["images"][0];
    assert_eq!(
        (&app["name"], &app["from"], &app["from_image"]),
        (&"app".into(), &"image".into(), &"base".into())
    );
    assert_eq!(json["images"][1]["from"], "scratch");
}

#[test]
fn a_picture_puts_no_two_nodes_in_one_place() {
    let graph = graph();
    let drawing = Drawing {
        graph: &graph,
        marks: None,
    };
    let layout = layout::Layout::new(&drawing);
    let mut places: Vec<(usize, usize)> = layout
        .cells
        .iter()
        .map(|(_, cell)| (cell.column, cell.row))
        .collect();
    places.sort();
    places.dedup();
    assert_eq!(places.len(), graph.len());
    for id in graph.nodes().ids() {
        for edge in graph.dependencies(id) {
            assert!(layout.cells[edge.node].column < layout.cells[id].column);
        }
    }
    let svg = graph.render(RenderFormat::Svg, Some(&marks(&graph)));
    let edges: usize = graph
        .nodes()
        .ids()
        .map(|id| graph.dependencies(id).len())
        .sum();
    // One path more is the head of arrows.
    assert_eq!(svg.matches("<path d=\"M").count(), edges + 1);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<g>").count(), svg.matches("</g>").count());
}

#[test]
fn an_empty_graph_renders() {
    let graph = BuildGraph::lower(&manifest(""), &[], &host()).unwrap();
    for format in [
        RenderFormat::Dot,
        RenderFormat::Mermaid,
        RenderFormat::Svg,
        RenderFormat::Json,
    ] {
        assert!(!graph.render(format, None).is_empty());
    }
    assert_eq!(graph.render(RenderFormat::Text, None), "");
}

#[test]
fn names_cannot_break_out_of_their_place() {
    // Names are checked by the manifest; references of bases are longer and less plain.
    let text = "web from debian a<b>&\"c\\\nx";
    let manifest = manifest(text.lines().next().unwrap());
    let graph = BuildGraph::lower_all(&manifest, &host()).unwrap();
    let svg = graph.render(RenderFormat::Svg, None);
    assert!(
        svg.contains("a&lt;b&gt;&amp;&quot;c") && !svg.contains("a<b>"),
        "{svg}"
    );
    assert!(
        graph
            .render(RenderFormat::Dot, None)
            .contains("a<b>&\\\"c\\\\")
    );
    assert!(
        graph
            .render(RenderFormat::Mermaid, None)
            .contains("a#60;b#62;#38;#34;c")
    );
}
