//! Runs a build graph: scheduler, executors, cache; one stream of events.
