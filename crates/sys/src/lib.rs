//! System calls that need `unsafe`, or a discipline no other wrapper enforces.
//!
//! This is the only crate of kiln with `unsafe`. It knows the kernel and nothing of images, layers or
//! containers. Most functions return a bare [`Errno`]: the caller knows which path or mount it was working on
//! and puts that into its own error.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`aside`] | closing a file whose closing takes long |
//! | [`confined`] | opening and making files below a directory, whatever links are planted there |
//! | [`device_filter`] | which devices a cgroup of version 2 may use |
//! | [`xattr`] | extended attributes by file descriptor, links included |
//! | [`memory`] | how the allocator gives memory back |
//! | [`mount`] | mounts as descriptors |
//! | [`namespace`] | moving this process itself into namespaces |
//! | [`network`] | network namespaces, and work done inside of them |
//! | [`own`] | what a process changes about itself before it becomes another program |
//! | [`plan`] | what a new process does before it executes its program, as data |
//! | [`process`] | starting a process with a plan, and following it by its pidfd |
//! | [`sealed`] | running from a copy of one's own program that nobody can write |
//! | [`seccomp`] | assembling system call filters |
//! | [`signal`] | signals as bytes to read |

#![expect(unsafe_code, reason = "this crate exists to keep it in one place")]

pub mod aside;
pub mod confined;
pub mod device_filter;
pub mod init;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod network;
pub mod own;
pub mod plan;
pub mod process;
mod raw;
pub mod sealed;
pub mod seccomp;
pub mod signal;
pub mod xattr;

/// The error of a bare system call.
pub use rustix::io::Errno;
