//! Tests that only root can make: other users, full disks.

mod disk;
mod users;
