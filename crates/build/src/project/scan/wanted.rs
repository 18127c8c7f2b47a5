//! Which files of its project a build wants.

use kiln_graph::{BaseWork, BuildGraph, Work};
use kiln_manifest::Spanned;
use kiln_manifest::model::{Action, CopySource, FileSet};
use kiln_manifest::value::ProjectPath;

/// What a build wants of its project.
#[derive(Clone, Debug, Default)]
pub struct WantedFiles<'a> {
    /// Sets of files, by patterns.
    pub sets: Vec<&'a FileSet>,
    /// Single files.
    pub files: Vec<&'a Spanned<ProjectPath>>,
    /// Files or folders that are read by whoever wants them.
    pub places: Vec<&'a Spanned<ProjectPath>>,
}

impl<'a> WantedFiles<'a> {
    /// Returns what the nodes of `graph` want: `files` of `run`, project files of `copy`, `rootfs` bases.
    pub fn of_graph(graph: &'a BuildGraph) -> Self {
        let mut wanted = Self::default();
        for (_, node) in graph.nodes().iter() {
            match &node.work {
                Work::Base(BaseWork::Rootfs(path)) => wanted.files.push(path),
                Work::Base(BaseWork::Oci(oci)) => wanted.places.push(&oci.path),
                Work::Base(BaseWork::Registry(_) | BaseWork::Debian(_)) => {}
                Work::Step(step) => {
                    match &step.action.value {
                        Action::Run(run) => wanted.sets.extend(run.files.as_ref()),
                        Action::Copy(copies) => wanted.sets.extend(copies.iter().filter_map(
                            |copy| match &copy.source {
                                CopySource::Files(files) => Some(files),
                                CopySource::Produced { .. } => None,
                            },
                        )),
                        Action::Packages(_)
                        | Action::Fetch(_)
                        | Action::Git(_)
                        | Action::Write(_)
                        | Action::Remove(_)
                        | Action::Mkdir(_)
                        | Action::Link(_)
                        | Action::Account(_) => {}
                    }
                }
            }
        }
        wanted
    }
}
