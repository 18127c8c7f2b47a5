//! Tests of the crate from outside, in one program so that it is linked once.

#![cfg(test)]

#[path = "all/generated.rs"]
mod generated;
#[path = "all/json_schema.rs"]
mod json_schema;
#[path = "all/manifests.rs"]
mod manifests;
#[path = "all/model.rs"]
mod model;
#[path = "all/properties.rs"]
mod properties;
#[path = "all/schema.rs"]
mod schema;
