//! Tests that mean the same for root and for any ordinary user.

mod bad_input;
mod command_line;
