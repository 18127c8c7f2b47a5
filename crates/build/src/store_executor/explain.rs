//! Why a step has to run: its recorded inputs against those it has now.
//!
//! A record keeps the text that its key was made from, then, behind a NUL, the listings of the
//! project files it used, so that an explanation can name the file that changed.

use kiln_graph::{Difference, FileTree, first_difference};
use kiln_oci::DiffId;
use kiln_store::{Seen, StepKey, Store, StoreError};

use super::{NodeMaterials, Prepared};
use crate::event::MissReason;
use crate::executor::Task;

/// How many changed files a reason names.
const FILES_NAMED: usize = 5;

/// Returns what a record keeps of a node's inputs.
pub(crate) fn recorded_inputs(prepared: &Prepared) -> Vec<u8> {
    let mut bytes = prepared.inputs.text().into_bytes();
    if let NodeMaterials::Step(materials) = &prepared.materials {
        for files in &materials.files {
            let listing = files.tree.listing();
            bytes.push(0);
            bytes.extend_from_slice(&(listing.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&listing);
        }
    }
    bytes
}

/// Takes apart what [`recorded_inputs`] made.
fn parse(recorded: &[u8]) -> (String, Vec<FileTree>) {
    let text_end = recorded.iter().position(|&byte| byte == 0);
    let (text, mut rest) = recorded.split_at(text_end.unwrap_or(recorded.len()));
    let mut trees = Vec::new();
    while let Some((0, behind)) = rest.split_first().map(|(&first, behind)| (first, behind)) {
        let Some((size, behind)) = behind.split_first_chunk::<8>() else {
            break;
        };
        let size = usize::try_from(u64::from_le_bytes(*size)).unwrap_or(usize::MAX);
        let Some((listing, behind)) = behind.split_at_checked(size) else {
            break;
        };
        trees.extend(FileTree::from_listing(listing).ok());
        rest = behind;
    }
    (String::from_utf8_lossy(text).into_owned(), trees)
}

/// Returns why there is no result for `key`, and the layers that the step had last.
pub(crate) fn miss(
    store: &Store,
    before: Option<&Seen>,
    key: StepKey,
    task: &Task<'_>,
    prepared: &Prepared,
) -> Result<(MissReason, Option<Vec<DiffId>>), StoreError> {
    let Some(before) = before else {
        return Ok((MissReason::New, None));
    };
    let previous = store.steps().record(&before.key)?.map(|record| {
        if record.stack.is_empty() {
            vec![record.layer]
        } else {
            record.stack
        }
    });
    let recorded = store.steps().inputs(&before.key)?;
    if before.key == key {
        // Inputs are kept with a result only: without them, it never ended well.
        let reason = match recorded {
            Some(_) => MissReason::Removed,
            None => MissReason::New,
        };
        return Ok((reason, previous));
    }
    let Some(recorded) = recorded else {
        // It failed last time, or its record is gone: nothing to compare with.
        return Ok((MissReason::New, previous));
    };
    let (old_text, old_trees) = parse(&recorded);
    let (new_text, new_trees) = parse(&recorded_inputs(prepared));
    let Some(difference) = first_difference(&old_text, &new_text) else {
        return Ok((MissReason::Removed, previous));
    };
    let reason = MissReason::Changed {
        what: what_changed(&difference, task),
        files: changed_files(&difference, &old_trees, &new_trees),
    };
    Ok((reason, previous))
}

/// Returns the difference in words, with the name of the step where it is a layer that changed.
fn what_changed(difference: &Difference, task: &Task<'_>) -> String {
    let maker = difference
        .new_layer()
        .and_then(|layer| task.maker_of(layer));
    match (maker, &difference.old) {
        (Some(maker), Some(_)) => format!("the layer of `{maker}` changed"),
        (Some(maker), None) => format!("the layer of `{maker}` was added"),
        (None, _) => difference.to_string(),
    }
}

fn changed_files(difference: &Difference, old: &[FileTree], new: &[FileTree]) -> Vec<String> {
    if !matches!(difference.field.as_str(), "files" | "copy.files") {
        return Vec::new();
    }
    old.iter()
        .zip(new)
        .flat_map(|(old, new)| old.changes(new, FILES_NAMED))
        .take(FILES_NAMED)
        .map(|change| change.to_string())
        .collect()
}
