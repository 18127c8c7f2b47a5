//! Nodes are indices: [`StepId`] into a [`StepMap`], so that nothing borrows the graph.

use std::fmt;
use std::ops::{Index, IndexMut};

/// The index of one node of a [`crate::BuildGraph`]: a step, or a base that needs work.
///
/// Only meaningful together with the graph it comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub(crate) u32);

impl StepId {
    /// Returns the position of the node in every [`StepMap`] of its graph.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the id of the node at `index`.
    ///
    /// # Panics
    /// If `index` does not fit 32 bits: a graph never has that many nodes.
    pub fn from_index(index: usize) -> Self {
        Self(u32::try_from(index).expect("a graph has fewer than 2^32 nodes"))
    }
}

impl fmt::Debug for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// One value for each node of a graph: a `Vec` that only a [`StepId`] can index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepMap<T>(Vec<T>);

impl<T> StepMap<T> {
    /// Returns a map without nodes.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns a map with `len` values made by `make`.
    pub fn filled(len: usize, mut make: impl FnMut(StepId) -> T) -> Self {
        Self(
            (0..len)
                .map(|index| make(StepId::from_index(index)))
                .collect(),
        )
    }

    /// Appends a value and returns the id it got.
    pub fn push(&mut self, value: T) -> StepId {
        let id = StepId::from_index(self.0.len());
        self.0.push(value);
        id
    }

    /// Returns the number of nodes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Tells whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns every id, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = StepId> + ExactSizeIterator + use<T> {
        (0..self.0.len()).map(StepId::from_index)
    }

    /// Returns every value with its id, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (StepId, &T)> + ExactSizeIterator {
        let with_id = |(index, value)| (StepId::from_index(index), value);
        self.0.iter().enumerate().map(with_id)
    }

    /// Returns the value of `id`, or `None` if `id` is of a larger graph.
    pub fn get(&self, id: StepId) -> Option<&T> {
        self.0.get(id.index())
    }

    /// Makes a map of the same size with what `change` makes of each value.
    pub fn map<U>(&self, mut change: impl FnMut(StepId, &T) -> U) -> StepMap<U> {
        StepMap(self.iter().map(|(id, value)| change(id, value)).collect())
    }
}

impl<T> Index<StepId> for StepMap<T> {
    type Output = T;

    fn index(&self, id: StepId) -> &T {
        &self.0[id.index()]
    }
}

impl<T> IndexMut<StepId> for StepMap<T> {
    fn index_mut(&mut self, id: StepId) -> &mut T {
        &mut self.0[id.index()]
    }
}

impl<T> FromIterator<T> for StepMap<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl<T> IntoIterator for StepMap<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
