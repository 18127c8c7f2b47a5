//! Where nodes go in a picture: columns by distance from the start, lanes by image.
//!
//! ```text
//!            column 0   column 1   column 2
//! lane tool  base    →  packages → compile ─┐
//! lane app   base    →  user                │
//!                     ↘                 binary
//! ```
//!
//! A node keeps the row of what it waits for where that is free, so that chains are straight lines. An edge
//! over several columns keeps its row free on the way, so that it does not run behind other nodes of its lane.

use std::collections::BTreeSet;

use super::Drawing;
use crate::slot::ImageKey;
use crate::step_map::{StepId, StepMap};

/// Columns and rows for everything.
pub(super) struct Layout {
    pub(super) cells: StepMap<Cell>,
    pub(super) lanes: Vec<Lane>,
    pub(super) columns: usize,
}

/// Where a node is; rows are counted from the top of the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) column: usize,
    pub(super) row: usize,
    pub(super) lane: usize,
}

/// The rows of an image.
pub(super) struct Lane {
    pub(super) image: ImageKey,
    pub(super) first_row: usize,
    pub(super) rows: usize,
}

impl Layout {
    pub(super) fn new(drawing: &Drawing<'_>) -> Self {
        let graph = drawing.graph;
        let mut columns: StepMap<usize> = graph.nodes().map(|_, _| 0);
        for id in graph.nodes().ids() {
            let after = graph
                .dependencies(id)
                .iter()
                .map(|edge| columns[edge.node] + 1);
            columns[id] = after.max().unwrap_or(0);
        }
        let mut cells: StepMap<Cell> = graph.nodes().map(|_, _| Cell::default());
        let mut lanes: Vec<Lane> = Vec::new();
        let mut first_row = 0;
        for (lane, (image, nodes)) in drawing.images().into_iter().enumerate() {
            let rows = lay_out_lane(drawing, &nodes, &columns, &mut cells);
            for &id in &nodes {
                cells[id].lane = lane;
                cells[id].row += first_row;
            }
            lanes.push(Lane {
                image,
                first_row,
                rows,
            });
            first_row += rows;
        }
        let columns = columns.into_iter().max().map_or(0, |last| last + 1);
        Self {
            cells,
            lanes,
            columns,
        }
    }
}

/// Gives the nodes of one image columns and rows from 0, and returns the number of rows.
fn lay_out_lane(
    drawing: &Drawing<'_>,
    nodes: &[StepId],
    columns: &StepMap<usize>,
    cells: &mut StepMap<Cell>,
) -> usize {
    let graph = drawing.graph;
    let members: BTreeSet<StepId> = nodes.iter().copied().collect();
    let mut taken: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut by_column: Vec<StepId> = nodes.to_vec();
    by_column.sort_by_key(|id| (columns[*id], *id));
    let mut rows = 0;
    for id in by_column {
        let column = columns[id];
        let before: Vec<StepId> = graph
            .dependencies(id)
            .iter()
            .map(|edge| edge.node)
            .filter(|node| members.contains(node))
            .collect();
        let wanted = before
            .iter()
            .map(|node| cells[*node].row)
            .min()
            .unwrap_or(0);
        let row = (wanted..)
            .find(|row| !taken.contains(&(column, *row)))
            .expect("rows have no end");
        taken.insert((column, row));
        cells[id] = Cell {
            column,
            row,
            lane: 0,
        };
        rows = rows.max(row + 1);
        // Keeps the way of long edges free.
        let last = graph
            .dependents(id)
            .iter()
            .filter(|edge| members.contains(&edge.node))
            .map(|edge| columns[edge.node])
            .max();
        if let Some(last) = last {
            taken.extend((column + 1..last).map(|between| (between, row)));
        }
    }
    rows
}
