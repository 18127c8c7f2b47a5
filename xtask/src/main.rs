//! Development commands: `cargo xtask <name>`.
//!
//! The continuous integration calls these and nothing else, so a command that
//! passes here passes there. Needs nothing but cargo; a tool that is missing
//! is installed where that is possible and named where it is not, never
//! skipped in silence.
#![forbid(unsafe_code)]

mod arch;
mod bench;
mod generate;
mod process;
mod test;
mod vm;

use std::process::{Command, ExitCode};

use process::{Failure, Outcome, cargo, say};

const USAGE: &str = "\
usage: cargo xtask <command>

  ready              fmt, arch, gen --check and lint: run before each commit
  fmt [--check]      format the sources
  arch               check crate arrows, unsafe code, file sizes, host names
  gen [--check]      write the generated documents (schema, references)
  lint               clippy and rustdoc, warnings denied
  test [filter]      every test: as root where possible, then as ordinary users
  test --list        name the tests, run none
  vm                 the same on kernel 6.1 with cgroups of version 2, in a virtual machine
  bench [filter]     measure beside peers, with hyperfine
  bench --trial [filter]
                     see whether that works, with the debug build and less of everything
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let asks_for_help = |word: &str| matches!(word, "help" | "--help" | "-h");
    let outcome = match words.as_slice() {
        words if words.is_empty() || words.iter().any(|word| asks_for_help(word)) => {
            say(USAGE);
            return ExitCode::SUCCESS;
        }
        ["ready"] => ready(),
        ["fmt"] => format(false),
        ["fmt", "--check"] => format(true),
        ["arch"] => arch::check(),
        ["gen"] => generate::run(generate::Mode::Write),
        ["gen", "--check"] => generate::run(generate::Mode::Check),
        ["lint"] => lint(),
        ["test", rest @ ..] => test::run(rest),
        ["vm"] => vm::run(),
        ["bench", filters @ ..] => bench::measure(filters),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            say(&format!("xtask: {message}"));
            ExitCode::FAILURE
        }
    }
}

/// Everything that is cheap enough to run before each commit.
fn ready() -> Outcome {
    format(true)?;
    arch::check()?;
    generate::run(generate::Mode::Check)?;
    lint()
}

fn format(check: bool) -> Outcome {
    let mut command = cargo(["fmt", "--all"]);
    // It is no part of a crate: a build script compiles it.
    let mut init = Command::new("rustfmt");
    init.args(["--edition", "2024"])
        .arg(process::workspace().join("crates/sys/init/init.rs"));
    for command in [&mut command, &mut init] {
        if check {
            command.arg("--check");
        }
        process::run(command)?;
    }
    Ok(())
}

fn lint() -> Outcome {
    process::run(&mut cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ]))?;
    process::run(
        cargo([
            "doc",
            "--workspace",
            "--no-deps",
            "--locked",
            "--document-private-items",
        ])
        .env("RUSTDOCFLAGS", "--deny warnings"),
    )
}
