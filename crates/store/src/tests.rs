//! Tests of the store as a whole.

mod crash;
mod gc;
mod model;
mod processes;
