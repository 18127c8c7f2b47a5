//! Trees, overlays and listings for the tests of this crate.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "shared by several test programs, each of which uses some of it"
)]

pub mod tar;

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_layer::{Committed, LowerStack, Node, TreeIndex, TreePath};

/// 1980-01-01T00:00:00Z, the epoch kiln uses where no other is set.
pub const EPOCH: i64 = 315_532_800;

pub fn open(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

pub fn path(text: &str) -> TreePath {
    TreePath::parse(text.as_bytes()).unwrap()
}

pub fn stack(layers: &[PathBuf]) -> LowerStack {
    let layers: Vec<OwnedFd> = layers.iter().map(|it| open(it)).collect();
    LowerStack::new(&layers).unwrap()
}

/// Runs a shell script and returns what it prints.
pub fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    output
        .stdout
        .utf8_chunks()
        .fold(String::new(), |text, chunk| {
            text + chunk.valid() + &chunk.invalid().escape_ascii().to_string()
        })
}

/// A folder with numbered layers, gone with everything in it at the end of the test.
pub struct Space {
    folder: tempfile::TempDir,
}

impl Space {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Makes an empty folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Makes a folder and runs `script` in it.
    pub fn tree(&self, name: &str, script: &str) -> PathBuf {
        let path = self.folder(name);
        shell(&format!("{XATTR}\ncd {}; {script}", path.display()));
        path
    }

    /// Runs `script` in an overlay of the layers, in a mount namespace of its own; returns the upper
    /// directory and what the script printed.
    pub fn step(&self, name: &str, lower: &[PathBuf], script: &str) -> (PathBuf, String) {
        let upper = self.folder(&format!("{name}.upper"));
        let work = self.folder(&format!("{name}.work"));
        let merged = self.folder(&format!("{name}.merged"));
        let none = self.folder("none");
        let mut lower: Vec<String> = lower
            .iter()
            .rev()
            .map(|it| it.display().to_string())
            .collect();
        if lower.is_empty() {
            lower.push(none.display().to_string());
        }
        let mount = format!(
            "mount -t overlay overlay -o userxattr,lowerdir={},upperdir={},workdir={} {merged}",
            lower.join(":"),
            upper.display(),
            work.display(),
            merged = merged.display(),
        );
        fs::write(
            self.path().join("script"),
            format!("{mount}\ncd {}\n{XATTR}\n{script}", merged.display()),
        )
        .unwrap();
        let script = self.path().join("script");
        let printed = shell(&format!("unshare --mount sh -eu {}", script.display()));
        (upper, printed)
    }
}

/// Shell functions for extended attributes, which have no tool in a minimal system.
pub const XATTR: &str = r#"
setx() { python3 -c 'import os, sys; os.setxattr(sys.argv[1], sys.argv[2], bytes.fromhex(sys.argv[3]), follow_symlinks=False)' "$@"; }
listx() { python3 -c '
import os
for folder, folders, files in os.walk("."):
    for name in sorted(folders + files):
        path = os.path.join(folder, name)
        for it in sorted(os.listxattr(path, follow_symlinks=False)):
            print(path, it, os.getxattr(path, it, follow_symlinks=False).hex())'; }
"#;

/// Prints a tree as a container would see it: all but times and inode numbers.
pub const SHOW: &str = r#"
find . -mindepth 1 -printf '%y %#m %U:%G %P %l ' \( -type f -exec sh -c 'md5sum < "$1" | tr -d "\n"' sh {} \; -o -true \) -printf '\n' | sort -k4"#;

/// Shows an index in short lines: kind, mode, path and what belongs to the kind.
pub fn listing(index: &TreeIndex) -> Vec<String> {
    let line = |it: &kiln_layer::Entry| {
        let mode = format!("{:o}", it.metadata.mode);
        let (kind, more) = match &it.node {
            Node::File { size_bytes, .. } => ("file", format!(" {mode} {size_bytes}")),
            Node::Directory {
                implied: true,
                opaque,
            } => (
                "implied",
                if *opaque {
                    " opaque".into()
                } else {
                    String::new()
                },
            ),
            Node::Directory { opaque: true, .. } => ("opaque", format!(" {mode}")),
            Node::Directory { .. } => ("directory", format!(" {mode}")),
            Node::Symlink { target } => {
                ("link", format!(" -> {}", String::from_utf8_lossy(target)))
            }
            Node::Fifo => ("fifo", format!(" {mode}")),
            Node::CharDevice { major, minor } => ("char", format!(" {mode} {major}:{minor}")),
            Node::BlockDevice { major, minor } => ("block", format!(" {mode} {major}:{minor}")),
            Node::Hardlink { to } => ("hard", format!(" = {to}")),
            Node::Whiteout => ("gone", String::new()),
        };
        format!("{kind} {}{more}", it.path)
    };
    index.entries().iter().map(line).collect()
}

/// Commits with the default epoch and returns the tar as well.
pub fn commit(upper: &Path, lower: &LowerStack) -> (Committed, Vec<u8>) {
    let mut tar = Vec::new();
    let options = kiln_layer::CommitOptions {
        epoch: EPOCH,
        sink: Some(&mut tar),
        ..Default::default()
    };
    let committed = kiln_layer::commit(open(upper).as_fd(), lower, options).unwrap();
    assert_eq!(committed.tar_size_bytes, tar.len() as u64);
    assert_eq!(committed.diff_id.0, kiln_oci::Digest::of(&tar));
    let mut again = Vec::new();
    kiln_layer::write_tar(open(upper).as_fd(), &committed.index, &mut again).unwrap();
    assert!(again == tar, "the tar written again differs");
    (committed, tar)
}
