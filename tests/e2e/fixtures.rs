//! Things that tests start from, made when they run: a root file system of one
//! program, a registry on the loopback device.

mod balancer;
mod bundle;
mod containers;
mod faults;
pub(crate) mod http;
pub(crate) mod machine;
mod object_store;
pub(crate) mod own_registry;
mod project;
mod proxy;
mod registry;
mod rootfs;
mod steps;
pub(crate) mod tar;
mod web;

pub(crate) use balancer::Balancer;
pub(crate) use bundle::Bundle;
pub(crate) use containers::{ContainerSpace, wait_until};
pub(crate) use faults::Faults;
pub(crate) use object_store::ObjectStore;
pub(crate) use project::{busybox_project, rewrite_busybox_project, toolchain_project};
pub(crate) use proxy::{Fault, Proxy, Way};
pub(crate) use registry::Registry;
pub(crate) use rootfs::{write_busybox_rootfs, write_foreign_rootfs};
pub(crate) use steps::Steps;
pub(crate) use web::{Page, Web};
