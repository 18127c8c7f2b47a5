//! Debian archives: signed indexes, dependency closure, root filesystems from packages.
