//! What refers to what in a manifest, also where the rest of a table is wrong.
//!
//! A manifest with mistakes has no model; its outline is enough to tell of references that lead in a circle
//! together with all other mistakes. Of accounts it has those whose step is right by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::span::Span;
use crate::value::Name;

/// The images of a manifest and the references between them.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The names of images with those of their steps.
    pub images: BTreeMap<Name, BTreeSet<Name>>,
    /// In the order in which they were looked at.
    pub references: Vec<OutlineReference>,
}

/// A reference from one part of the manifest to another; both are in [`Outline::images`].
#[derive(Clone, Debug)]
pub struct OutlineReference {
    /// What refers.
    pub by: OutlinePart,
    /// What it refers to.
    pub needed: OutlinePart,
    /// By which key.
    pub kind: OutlineKind,
    /// Where it stands.
    pub span: Span,
}

/// A part of a manifest that others refer to.
#[derive(Clone, Debug)]
pub enum OutlinePart {
    /// What an image starts from.
    Base(Name),
    /// A step: its image and its own name.
    Step(Name, Name),
    /// An image as a whole.
    Image(Name),
}

/// The key of a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutlineKind {
    /// `from` of an image.
    From,
    /// `needs` of a step.
    Needs,
    /// `from` in a `copy`.
    Copy,
    /// `user` or `owner` of a step, which names an account that another one adds.
    Account,
}
