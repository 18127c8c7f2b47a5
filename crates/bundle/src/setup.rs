//! What the first process of a container does before it becomes the container's program.

pub(crate) mod console;
pub(crate) mod devices;
pub(crate) mod groups;
pub(crate) mod id_map;
pub(crate) mod masks;
pub(crate) mod mounts;
pub(crate) mod options;
pub(crate) mod procfs;
pub(crate) mod program;
pub(crate) mod rights;
pub(crate) mod root;
pub(crate) mod target;
