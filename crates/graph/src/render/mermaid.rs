//! The language of Mermaid.

use super::{Drawing, Tone, edge_word, short_name, work_words};

pub(super) fn render(drawing: &Drawing<'_>) -> String {
    let graph = drawing.graph;
    let mut text = String::from("flowchart LR\n");
    for (at, (image, nodes)) in drawing.images().into_iter().enumerate() {
        let label = drawing.title(&image);
        text += &format!("  subgraph image{at}[{}]\n", quoted(&label));
        for id in nodes {
            let node = &graph.nodes()[id];
            let mut label = format!(
                "{}<br/>{}",
                escaped(short_name(node)),
                escaped(&work_words(node))
            );
            let mut class = "";
            if let Some(mark) = drawing.mark(id) {
                label.push_str(&format!("<br/>{}", escaped(&mark.word)));
                class = match mark.tone {
                    Tone::Plain => "",
                    Tone::Good => ":::good",
                    Tone::Active => ":::active",
                    Tone::Bad => ":::bad",
                };
            }
            text += &format!("    n{}[\"{label}\"]{class}\n", id.index());
        }
        text.push_str("  end\n");
    }
    for id in graph.nodes().ids() {
        for edge in graph.dependencies(id) {
            let (from, to) = (edge.node.index(), id.index());
            text += &match edge_word(edge.kind) {
                Some(word) => format!("  n{from} -. {word} .-> n{to}\n"),
                None => format!("  n{from} --> n{to}\n"),
            };
        }
    }
    if drawing.marks.is_some() {
        text.push_str("  classDef good fill:#d9f0d9\n  classDef active fill:#fdeec7\n  classDef bad fill:#f8d4d4\n");
    }
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

/// Writes characters that Mermaid gives a meaning as entities.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '"' | '<' | '>' | '&' | '#' | '`' | '\\' => {
                out.push_str(&format!("#{};", u32::from(character)));
            }
            other => out.push(other),
        }
    }
    out
}
