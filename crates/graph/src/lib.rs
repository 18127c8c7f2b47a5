//! The build graph: steps, edges, cycles, cache keys and their explanations.
