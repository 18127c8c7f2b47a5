//! What a verb can be pointed at, and the answer to a name that the file does not have.

use std::fmt;
use std::sync::Arc;

use kiln_manifest::BuildManifest;
use kiln_manifest::model::{ProducedBy, ServiceImage};
use kiln_manifest::value::Name;
use miette::NamedSource;

use crate::cycle::Cycle;
use crate::file_graph::{ImageName, Vertex, produced};

/// What is to be built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuildTarget {
    /// An image of the file, whole.
    Image(Name),
    /// One step of an image, with what it sees and reads.
    Step {
        /// The image it belongs to.
        image: Name,
        /// The step.
        step: Name,
    },
    /// The image that a service runs, or the base that it runs as it is.
    Service(Name),
}

/// Why the file has no graph.
#[derive(Debug, Clone, thiserror::Error, miette::Diagnostic)]
#[must_use]
pub enum GraphError {
    /// References lead in a circle.
    #[error("`{file}` has references that lead in a circle")]
    #[diagnostic(code(graph::cycles))]
    Cycles {
        /// Name of the file.
        file: String,
        /// Its text.
        #[source_code]
        source_code: Arc<NamedSource<String>>,
        /// Each circle, with a label at each of its references.
        #[related]
        cycles: Vec<Cycle>,
    },
    /// A target names nothing in the file.
    #[error("`{target}` is neither an image, a service nor a step of `{file}`")]
    #[diagnostic(code(graph::unknown_target))]
    UnknownTarget {
        /// The target as given.
        target: String,
        /// Name of the file.
        file: String,
        /// What there is instead.
        #[help]
        help: String,
    },
}

impl BuildTarget {
    /// Reads `name` (a service, else an image) or `image.step`.
    ///
    /// # Errors
    /// [`GraphError::UnknownTarget`] if the file has no such thing.
    pub fn parse(manifest: &BuildManifest, text: &str) -> Result<Self, GraphError> {
        let found = match text.split_once('.') {
            None => {
                let service = manifest.services.get_key_value(text);
                let service = service.map(|(name, _)| Self::Service(name.clone()));
                let image = || {
                    manifest
                        .images
                        .get_key_value(text)
                        .map(|(name, _)| name.clone())
                };
                service.or_else(|| image().map(Self::Image))
            }
            Some((image, step)) => {
                manifest
                    .images
                    .get_key_value(image)
                    .and_then(|(name, image)| {
                        let (step, _) = image.steps.get_key_value(step)?;
                        Some(Self::Step {
                            image: name.clone(),
                            step: step.clone(),
                        })
                    })
            }
        };
        found.ok_or_else(|| unknown_target(manifest, text))
    }
}

impl fmt::Display for BuildTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) | Self::Service(name) => name.fmt(f),
            Self::Step { image, step } => write!(f, "{image}.{step}"),
        }
    }
}

pub(crate) fn unknown_target(manifest: &BuildManifest, text: &str) -> GraphError {
    let images = manifest.images.keys().map(Name::to_string);
    let services = manifest.services.keys().map(Name::to_string);
    let steps = manifest.images.values().flat_map(|image| {
        image
            .steps
            .keys()
            .map(move |step| format!("{}.{step}", image.name.value))
    });
    let mut known: Vec<String> = images.chain(services).collect();
    known.sort();
    known.dedup();
    // Who knows only the step has forgotten its image.
    let of_images: Vec<String> = steps
        .clone()
        .filter(|step| step.split_once('.').is_some_and(|(_, step)| step == text))
        .map(|step| format!("`{step}`"))
        .collect();
    let distance = |name: &String| strsim::damerau_levenshtein(name, text);
    let near = known.iter().cloned().chain(steps).min_by_key(distance);
    let help = match near
        .filter(|_| of_images.is_empty())
        .filter(|name| distance(name) <= 2)
    {
        Some(near) => format!("did you mean `{near}`?"),
        None if !of_images.is_empty() => format!("did you mean {}?", of_images.join(" or ")),
        None if known.is_empty() => "add an `[image.NAME]` table".to_owned(),
        None => format!("the file has `{}`", known.join("`, `")),
    };
    GraphError::UnknownTarget {
        target: text.to_owned(),
        file: manifest.source.name().to_owned(),
        help,
    }
}

/// Returns the vertex that `target` names; `None` if the file has none.
pub(crate) fn target_vertex(manifest: &BuildManifest, target: &BuildTarget) -> Option<Vertex> {
    let image = |name: &Name| manifest.images.get(name);
    match target {
        BuildTarget::Image(name) => image(name).map(|_| produced(&ProducedBy::Image(name.clone()))),
        BuildTarget::Step { image: of, step } => image(of)?
            .steps
            .get(step)
            .map(|_| Vertex::Step(of.clone(), step.clone())),
        BuildTarget::Service(name) => Some(match &manifest.services.get(name)?.image {
            ServiceImage::Image(image) => Vertex::Image(ImageName::Image(image.value.clone())),
            ServiceImage::From(_) => Vertex::Image(ImageName::Service(name.clone())),
        }),
    }
}
