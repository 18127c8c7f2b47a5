//! Runs one process in a root filesystem: namespaces, mounts, limits, seccomp.
