//! Containers from images: mounts, users, terminals, exit codes.
