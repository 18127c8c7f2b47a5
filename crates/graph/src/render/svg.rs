//! A picture in SVG, without any other tool.

use std::fmt::Write;

use super::layout::{Cell, Layout};
use super::{Drawing, Tone, edge_word, short_name, work_words};
use crate::step_map::{StepId, StepMap};

const BOX_HEIGHT: usize = 44;
const ROW_GAP: usize = 16;
const COLUMN_GAP: usize = 64;
const LANE_HEADER: usize = 26;
const LANE_PADDING: usize = 12;
const LANE_GAP: usize = 14;
const MARGIN: usize = 14;
/// Width of a character of the font below, about.
const CHARACTER_WIDTH: usize = 8;
const SHOWN_CHARACTERS: usize = 34;

/// Pixel positions of everything.
struct Picture<'a> {
    drawing: &'a Drawing<'a>,
    layout: Layout,
    column_left: Vec<usize>,
    column_width: Vec<usize>,
    lane_top: Vec<usize>,
}

pub(super) fn render(drawing: &Drawing<'_>) -> String {
    let layout = Layout::new(drawing);
    let mut column_width = vec![90; layout.columns];
    for (id, node) in drawing.graph.nodes().iter() {
        let mark = drawing
            .mark(id)
            .map_or(0, |mark| mark.word.chars().count() + 2);
        let first = short_name(node).chars().count() + mark;
        let longest = first.max(shown(&work_words(node)).chars().count());
        let width = &mut column_width[layout.cells[id].column];
        *width = (*width).max(longest * CHARACTER_WIDTH + 20);
    }
    let mut column_left = Vec::new();
    let mut left = MARGIN + LANE_PADDING;
    for width in &column_width {
        column_left.push(left);
        left += width + COLUMN_GAP;
    }
    let mut lane_top = Vec::new();
    let mut top = MARGIN;
    for lane in &layout.lanes {
        lane_top.push(top);
        top += lane_height(lane.rows) + LANE_GAP;
    }
    let titles = layout
        .lanes
        .iter()
        .map(|lane| drawing.title(&lane.image).chars().count());
    let title_width = titles.max().unwrap_or(0) * CHARACTER_WIDTH + 2 * (MARGIN + LANE_PADDING);
    let nodes_width = left.saturating_sub(COLUMN_GAP) + LANE_PADDING + MARGIN;
    let picture = Picture {
        drawing,
        layout,
        column_left,
        column_width,
        lane_top,
    };
    picture.draw(nodes_width.max(title_width), top + MARGIN)
}

fn lane_height(rows: usize) -> usize {
    match rows {
        0 => LANE_HEADER + LANE_PADDING / 2,
        rows => LANE_HEADER + rows * (BOX_HEIGHT + ROW_GAP) - ROW_GAP + 2 * LANE_PADDING,
    }
}

impl Picture<'_> {
    fn draw(&self, width: usize, height: usize) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"ui-monospace, Menlo, Consolas, monospace\" \
             font-size=\"13\">\n\
             <defs><marker id=\"end\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" \
             markerHeight=\"7\" orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" fill=\"#667\"/></marker></defs>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
        );
        for (lane, top) in self.layout.lanes.iter().zip(&self.lane_top) {
            let (lane_width, lane_height) = (width - 2 * MARGIN, lane_height(lane.rows));
            put(
                &mut svg,
                format_args!(
                    "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{lane_width}\" height=\"{lane_height}\" rx=\"8\" fill=\"#f4f5f7\"/>\n\
                 <text x=\"{}\" y=\"{}\" font-weight=\"bold\" fill=\"#334\">{}</text>\n",
                    MARGIN + LANE_PADDING,
                    top + LANE_HEADER - 6,
                    escaped(&self.drawing.title(&lane.image)),
                ),
            );
        }
        // Lines first: boxes lie over them.
        for id in self.drawing.graph.nodes().ids() {
            self.draw_edges(id, &mut svg);
        }
        for id in self.drawing.graph.nodes().ids() {
            self.draw_node(id, &mut svg);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Returns the top left corner of a node's box.
    fn corner(&self, cell: Cell) -> (usize, usize) {
        let row = cell.row - self.layout.lanes[cell.lane].first_row;
        let top = self.lane_top[cell.lane] + LANE_HEADER + LANE_PADDING;
        (
            self.column_left[cell.column],
            top + row * (BOX_HEIGHT + ROW_GAP),
        )
    }

    fn draw_node(&self, id: StepId, svg: &mut String) {
        let node = &self.drawing.graph.nodes()[id];
        let cell = self.layout.cells[id];
        let (left, top) = self.corner(cell);
        let width = self.column_width[cell.column];
        let mark = self.drawing.mark(id);
        let (fill, line) = match mark.map(|mark| mark.tone) {
            None | Some(Tone::Plain) => ("#ffffff", "#99a"),
            Some(Tone::Good) => ("#e3f4e3", "#5a9a5a"),
            Some(Tone::Active) => ("#fdf1d2", "#c69a2d"),
            Some(Tone::Bad) => ("#fbe0e0", "#c25555"),
        };
        put(
            svg,
            format_args!(
                "<g><title>{}</title><rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"{fill}\" stroke=\"{line}\"/>\n\
             <text x=\"{}\" y=\"{}\" fill=\"#112\">{}</text>\n\
             <text x=\"{}\" y=\"{}\" fill=\"#667\" font-size=\"12\">{}</text>\n",
                escaped(&format!("{}: {}", node.name, work_words(node))),
                left + 10,
                top + 18,
                escaped(short_name(node)),
                left + 10,
                top + 35,
                escaped(&shown(&work_words(node))),
            ),
        );
        if let Some(mark) = mark {
            put(
                svg,
                format_args!(
                    "<text x=\"{}\" y=\"{}\" fill=\"{line}\" text-anchor=\"end\" font-size=\"12\">{}</text>\n",
                    left + width - 10,
                    top + 18,
                    escaped(&mark.word),
                ),
            );
        }
        svg.push_str("</g>\n");
    }

    fn draw_edges(&self, id: StepId, svg: &mut String) {
        let cells: &StepMap<Cell> = &self.layout.cells;
        for edge in self.drawing.graph.dependencies(id) {
            let (from, to) = (cells[edge.node], cells[id]);
            let (from_left, from_top) = self.corner(from);
            let (to_left, to_top) = self.corner(to);
            let (x, y) = (
                from_left + self.column_width[from.column],
                from_top + BOX_HEIGHT / 2,
            );
            let end_y = to_top + BOX_HEIGHT / 2;
            // Straight through the columns that were kept free, then over to the row of the end.
            let turn = match from.lane == to.lane && to.column > from.column + 1 {
                true => self.column_left[to.column - 1] + self.column_width[to.column - 1],
                false => x,
            };
            let bend = (to_left - turn) / 2;
            let dashes = match edge_word(edge.kind) {
                Some(_) => " stroke-dasharray=\"5 4\"",
                None => "",
            };
            put(
                svg,
                format_args!(
                    "<path d=\"M{x},{y} H{turn} C{},{y} {},{end_y} {to_left},{end_y}\" fill=\"none\" stroke=\"#667\"{dashes} marker-end=\"url(#end)\"><title>{}</title></path>\n",
                    turn + bend,
                    to_left - bend,
                    edge.kind.word(),
                ),
            );
        }
    }
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a String takes everything");
}

fn shown(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARACTERS {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN_CHARACTERS - 1).collect();
    format!("{start}…")
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Not allowed in XML at all.
            other if other.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
