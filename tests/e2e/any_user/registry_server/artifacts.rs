//! What is no image, by the client that others use for it.

use std::fs;
use std::process::Command;

use super::programs::guarded;
use crate::space::{TestSpace, host};

#[test]
fn oras_pushes_files_and_has_them_back() {
    let space = TestSpace::new();
    let (registry, token) = guarded(&space);
    let folder = space.project();
    fs::write(folder.join("text"), "hello\n").expect("a file");
    fs::write(folder.join("bytes"), vec![7; 3 << 20]).expect("a file");
    fs::write(folder.join("token"), token).expect("a file");
    host(
        Command::new("python3")
            .args(["-c", include_str!("oras.py"), &registry.host(), "me"])
            .stdin(fs::File::open(folder.join("token")).expect("a file"))
            .current_dir(&folder)
            // By `cargo xtask test`.
            .env("PYTHONPATH", "/opt/kiln-tests/oras-0.2.43")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HOME", space.path()),
    );
    for file in ["text", "bytes"] {
        let read = |path| fs::read(path).expect("a file");
        assert!(read(folder.join(file)) == read(folder.join("back").join(file)));
    }
    registry.admin(&space, &["check"]).assert_code(0);
}
