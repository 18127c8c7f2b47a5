//! The language of Graphviz.

use super::{Drawing, Tone, edge_word, short_name, work_words};

pub(super) fn render(drawing: &Drawing<'_>) -> String {
    let graph = drawing.graph;
    let mut text = String::from(
        "digraph kiln {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fillcolor=white, \
         fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n",
    );
    for (image, nodes) in drawing.images() {
        let label = drawing.title(&image);
        let cluster = format!("cluster_{}", drawing.graph.image_title(&image));
        text += &format!("  subgraph {} {{\n", quoted(&cluster));
        text += &format!(
            "    label={};\n    style=\"rounded,filled\";\n    fillcolor=\"#f6f6f6\";\n",
            quoted(&label)
        );
        for id in nodes {
            let node = &graph.nodes()[id];
            let mut label = format!("{}\n{}", short_name(node), work_words(node));
            let mut colour = "";
            if let Some(mark) = drawing.mark(id) {
                label.push_str(&format!("\n{}", mark.word));
                colour = match mark.tone {
                    Tone::Plain => "",
                    Tone::Good => ", fillcolor=\"#d9f0d9\"",
                    Tone::Active => ", fillcolor=\"#fdeec7\"",
                    Tone::Bad => ", fillcolor=\"#f8d4d4\"",
                };
            }
            text += &format!(
                "    {} [label={}{colour}];\n",
                quoted(node.name.as_str()),
                quoted(&label)
            );
        }
        text.push_str("  }\n");
    }
    for (id, node) in graph.nodes().iter() {
        for edge in graph.dependencies(id) {
            let from = quoted(graph.nodes()[edge.node].name.as_str());
            let style = match edge_word(edge.kind) {
                Some(word) => format!(" [style=dashed, label={}]", quoted(word)),
                None => String::new(),
            };
            text += &format!("  {from} -> {}{style};\n", quoted(node.name.as_str()));
        }
    }
    text.push_str("}\n");
    text
}

fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}
