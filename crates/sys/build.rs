//! Compiles `init/init.rs`, the first process of containers that have an init.

#![expect(
    clippy::disallowed_methods,
    reason = "cargo speaks to build scripts by variables"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const SOURCE: &str = "init/init.rs";

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    let output = PathBuf::from(variable("OUT_DIR")).join("init");
    let processor = variable("CARGO_CFG_TARGET_ARCH");
    if !matches!(processor.as_str(), "x86_64" | "aarch64") {
        // None for others: whoever asks for one is told.
        return ended(std::fs::write(&output, b"").is_ok(), &output);
    }
    let mut compiler = Command::new(variable("RUSTC"));
    compiler
        .args(["--edition", "2024", "--crate-name", "init"])
        .args(["--crate-type", "bin"])
        .args(["--target", &variable("TARGET")])
        .args(["-C", "panic=abort", "-C", "opt-level=s"])
        .args(["-C", "relocation-model=static", "-C", "strip=symbols"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .args([
            "-C",
            "link-arg=-static",
            "-C",
            "link-arg=-Wl,--build-id=none,-z,noexecstack",
        ])
        .arg("-o")
        .arg(&output)
        .arg(SOURCE);
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        let linker = Path::new(&linker).display();
        compiler.args(["-C", &format!("linker={linker}")]);
    }
    ended(
        compiler.status().is_ok_and(|status| status.success()),
        &output,
    )
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn ended(is_made: bool, output: &Path) -> ExitCode {
    if is_made {
        return ExitCode::SUCCESS;
    }
    println!("cargo::error=cannot make {}", output.display());
    ExitCode::FAILURE
}
