//! Tests that mean the same for root and for any ordinary user.

mod bad_input;
mod build;
mod bundles;
mod command_line;
mod container_files;
mod containers;
mod crashes;
mod enter;
mod guarantees;
mod hello;
mod insight;
mod interrupted;
mod life;
mod logins;
mod outputs;
mod peers;
mod registries;
mod registry_cache;
mod registry_server;
mod run;
mod same_bytes;
mod sources;
mod supply;
mod terminal;
mod transfers;
mod volumes;
