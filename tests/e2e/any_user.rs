//! Tests that mean the same for root and for any ordinary user.

mod command_line;
