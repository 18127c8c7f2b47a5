//! The names of a manifest, broken tables included, and looking them up.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::Checker;
use crate::decode::Map;
use crate::model::{Arg, ProducedBy};
use crate::outline::{OutlineKind, OutlinePart, OutlineReference};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::suggest;
use crate::value::{Name, SourceName};
use crate::written;

/// Names with the places of their declarations.
pub(crate) type Declared = BTreeMap<Name, Span>;

/// Every name a manifest declares.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) images: Declared,
    /// By image.
    pub(crate) steps: BTreeMap<Name, Declared>,
    pub(crate) services: Declared,
    pub(crate) volumes: Declared,
    pub(crate) networks: Declared,
    pub(crate) secrets: Declared,
    pub(crate) caches: Declared,
    used: BTreeSet<(Kind, Name)>,
}

/// Kinds of things that are declared to be used elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Image,
    Volume,
    Network,
    Secret,
    Cache,
}

impl Kind {
    /// The word for it, which is also its table's key.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Secret => "secret",
            Self::Cache => "cache",
        }
    }
}

impl Names {
    pub(crate) fn of(written: &written::Manifest) -> Self {
        let mut steps = BTreeMap::new();
        for (image, item) in written.image.iter().flat_map(|images| &images.entries) {
            let declared = item.value.as_ref().map(|image| declared(&image.step));
            // What is in a broken image is not known; an absent entry says so.
            if let Some(declared) = declared {
                steps.insert(image.clone(), declared);
            }
        }
        Self {
            images: declared(&written.image),
            steps,
            services: declared(&written.service),
            volumes: declared(&written.volume),
            networks: declared(&written.network),
            secrets: declared(&written.secret),
            caches: declared(&written.cache),
            used: BTreeSet::new(),
        }
    }

    /// The images with their steps. An image of which nothing is known has none.
    pub(crate) fn outline(&self) -> BTreeMap<Name, BTreeSet<Name>> {
        let steps = |image: &Name| self.steps.get(image).into_iter().flat_map(Declared::keys);
        let images = self.images.keys();
        images
            .map(|image| (image.clone(), steps(image).cloned().collect()))
            .collect()
    }

    fn kind(&self, kind: Kind) -> &Declared {
        match kind {
            Kind::Image => &self.images,
            Kind::Volume => &self.volumes,
            Kind::Network => &self.networks,
            Kind::Secret => &self.secrets,
            Kind::Cache => &self.caches,
        }
    }
}

fn declared<T>(map: &Option<Map<Name, T>>) -> Declared {
    let entries = map.iter().flat_map(|map| &map.entries);
    entries
        .map(|(name, item)| (name.clone(), item.key))
        .collect()
}

impl Checker<'_> {
    /// Looks a name up and reports it if there is no such thing.
    pub(crate) fn resolve(&mut self, kind: Kind, name: &Spanned<Name>) -> Option<()> {
        if self.names.kind(kind).contains_key(&name.value) {
            self.names.used.insert((kind, name.value.clone()));
            return Some(());
        }
        let known = self.names.kind(kind).keys().map(Name::as_str);
        let word = kind.word();
        let help = suggest::help(name.as_str(), known, || {
            format!("declare it: add `[{word}.{}]`", name.value)
        });
        self.unknown(word, name.as_str(), name.span, help);
        None
    }

    /// Looks up what a `copy` copies from.
    pub(crate) fn produced_by(
        &mut self,
        here: (&Name, &Name),
        source: &Spanned<SourceName>,
    ) -> Option<Spanned<ProducedBy>> {
        let (own_image, own_step) = here;
        let found = match &source.value {
            SourceName::Dotted(image, step) => {
                self.resolve(Kind::Image, &Spanned::new(image.clone(), source.span))?;
                let steps = self.names.steps.get(image)?;
                if !steps.contains_key(step) {
                    let known: Vec<String> =
                        steps.keys().map(|step| format!("{image}.{step}")).collect();
                    let written = format!("{image}.{step}");
                    let help = suggest::help(&written, known.iter().map(String::as_str), || {
                        format!("add `[image.{image}.step.{step}]`")
                    });
                    let name = format!("{image}.{step}");
                    self.unknown("step", &name, source.span, help);
                    return None;
                }
                ProducedBy::Step {
                    image: image.clone(),
                    step: step.clone(),
                }
            }
            SourceName::Plain(name) => self.plain_source(own_image, name, source.span)?,
        };
        let (kind, name) = match &found {
            ProducedBy::Image(image) if image == own_image => ("image", image),
            ProducedBy::Step { image, step } if (image, step) == here => ("step", own_step),
            ProducedBy::Image(_) | ProducedBy::Step { .. } => {
                self.references.push(OutlineReference {
                    by: OutlinePart::Step(own_image.clone(), own_step.clone()),
                    needed: match &found {
                        ProducedBy::Image(image) => OutlinePart::Image(image.clone()),
                        ProducedBy::Step { image, step } => {
                            OutlinePart::Step(image.clone(), step.clone())
                        }
                    },
                    kind: OutlineKind::Copy,
                    span: source.span,
                });
                return Some(Spanned::new(found, source.span));
            }
        };
        self.problems.push(Problem::SelfReference {
            kind,
            name: name.to_string(),
            verb: "copies from",
            at: source.span.into(),
            help: "name the step or image that has what is to be copied".to_owned(),
        });
        None
    }

    fn plain_source(&mut self, own_image: &Name, name: &Name, span: Span) -> Option<ProducedBy> {
        let step_at = self
            .names
            .steps
            .get(own_image)
            .and_then(|steps| steps.get(name));
        match (step_at, self.names.images.get(name)) {
            (Some(step_at), Some(image_at)) => {
                self.problems.push(Problem::AmbiguousName {
                    name: name.to_string(),
                    image: own_image.to_string(),
                    at: span.into(),
                    step_at: (*step_at).into(),
                    image_at: (*image_at).into(),
                });
                None
            }
            (Some(_), None) => Some(ProducedBy::Step {
                image: own_image.clone(),
                step: name.clone(),
            }),
            (None, Some(_)) => Some(ProducedBy::Image(name.clone())),
            (None, None) => {
                let steps = self.names.steps.get(own_image);
                let steps = steps.into_iter().flat_map(|steps| steps.keys());
                let all = steps.chain(self.names.images.keys()).map(Name::as_str);
                let help = suggest::help(name.as_str(), all, || {
                    "name a step as `image.step`, or an image".to_owned()
                });
                self.unknown("step or image", name.as_str(), span, help);
                None
            }
        }
    }

    pub(crate) fn unknown(&mut self, kind: &'static str, name: &str, at: Span, help: String) {
        self.problems.push(Problem::UnknownName {
            kind,
            name: name.to_owned(),
            at: at.into(),
            help,
        });
    }

    /// Warns about declarations that nothing refers to.
    pub(crate) fn warn_unused(&mut self) {
        for kind in [Kind::Volume, Kind::Network, Kind::Secret, Kind::Cache] {
            for (name, span) in self.names.kind(kind) {
                if !self.names.used.contains(&(kind, name.clone())) {
                    self.problems.push(Problem::Unused {
                        kind: kind.word(),
                        name: name.to_string(),
                        at: (*span).into(),
                    });
                }
            }
        }
    }
}

/// Warns about variables that the text does not use.
pub(crate) fn warn_unused_args(
    args: &BTreeMap<Name, Arg>,
    source: &str,
    problems: &mut Vec<Problem>,
) {
    for (name, arg) in args {
        if !source.contains(&format!("${{arg.{name}}}")) {
            problems.push(Problem::Unused {
                kind: "arg",
                name: name.to_string(),
                at: arg.span.into(),
            });
        }
    }
}
