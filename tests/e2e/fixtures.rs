//! Things that tests start from, made when they run: a root file system of one
//! program, a registry on the loopback device.

mod bundle;
mod containers;
pub(crate) mod http;
pub(crate) mod machine;
pub(crate) mod own_registry;
mod project;
mod proxy;
mod registry;
mod rootfs;
pub(crate) mod tar;
mod web;

pub(crate) use bundle::Bundle;
pub(crate) use containers::{ContainerSpace, wait_until};
pub(crate) use project::{busybox_project, rewrite_busybox_project, toolchain_project};
pub(crate) use proxy::{Fault, Proxy, Way};
pub(crate) use registry::Registry;
pub(crate) use rootfs::{write_busybox_rootfs, write_foreign_rootfs};
pub(crate) use web::{Page, Web};
