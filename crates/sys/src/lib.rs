//! System calls that need `unsafe`, or a discipline no other wrapper enforces.
//!
//! This is the only crate of kiln with `unsafe`. It knows the kernel and nothing of images, layers or
//! containers. Most functions return a bare [`Errno`]: the caller knows which path or mount it was working on
//! and puts that into its own error.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`confined`] | opening and making files below a directory, whatever links are planted there |
//! | [`xattr`] | extended attributes by file descriptor, links included |

pub mod confined;
pub mod xattr;

/// The error of a bare system call.
pub use rustix::io::Errno;
