//! kiln on Debian's own kernel, in a virtual machine that has nothing but cgroups of version 2.
//!
//! The kernel is the oldest one that kiln promises to work on. kiln itself builds the machine from
//! `tests/vm/kiln.toml`, and the script `tests/vm/checks` tries kiln in it. Software emulation is enough.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::process::{Failure, Outcome, cargo, run as run_shown, say, workspace};
use crate::test::{accounts, packages};

/// Debian package and the program it brings.
const NEEDED: &[(&str, &str)] = &[
    ("e2fsprogs", "mke2fs"),
    ("qemu-system-x86", "qemu-system-x86_64"),
];

/// A machine that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Builds the machine, starts it, and shows what it says.
///
/// # Errors
/// A check failed in it, or it did not come to its end.
pub(crate) fn run() -> Outcome {
    if !accounts::is_root()? {
        return Err(Failure::new(
            "only root can give the machine's files their owners; start this as root",
        ));
    }
    packages::ensure(NEEDED)?;
    run_shown(&mut cargo(["build", "--locked", "--package", "kiln-cli"]))?;
    let folder = workspace().join("target/vm");
    fs::create_dir_all(&folder).map_err(|error| Failure::io(&folder, &error))?;
    let root = build_root(&folder)?;
    let disk = make_disk(&folder, &root)?;
    let machine = Machine::start(&root, &disk)?;
    let outcome = watch(machine);
    fs::remove_file(&disk).map_err(|error| Failure::io(&disk, &error))?;
    outcome
}

/// The machine's files, as a folder.
fn build_root(folder: &Path) -> Outcome<PathBuf> {
    let (project, root) = (folder.join("project"), folder.join("root"));
    for old in [&project, &root] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(|error| Failure::io(old, &error))?;
        }
    }
    run_shown(
        Command::new("cp")
            .arg("-r")
            .arg(workspace().join("tests/vm"))
            .arg(&project),
    )?;
    let kiln = workspace().join("target/debug/kiln");
    run_shown(
        Command::new("strip")
            .arg("-o")
            .arg(project.join("kiln"))
            .arg(&kiln),
    )?;
    run_shown(
        Command::new(&kiln)
            .arg("build")
            .arg("-C")
            .arg(&project)
            .arg("-o")
            .arg(format!("type=dir,dest={}", root.display()))
            .env("KILN_HOME", folder.join("store")),
    )?;
    Ok(root)
}

fn make_disk(folder: &Path, root: &Path) -> Outcome<PathBuf> {
    let disk = folder.join("disk");
    if disk.exists() {
        fs::remove_file(&disk).map_err(|error| Failure::io(&disk, &error))?;
    }
    run_shown(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-d"])
            .arg(root)
            .arg(&disk)
            .arg("3G"),
    )?;
    Ok(disk)
}

/// A running machine; it is gone when this is.
struct Machine(Child);

impl Machine {
    fn start(root: &Path, disk: &Path) -> Outcome<Self> {
        let boot = root.join("boot");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "2G"])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .args([
                "-append",
                "root=/dev/vda rw console=ttyS0 quiet panic=-1 no_timer_check",
            ])
            .arg("-kernel")
            .arg(file_called(&boot, "vmlinuz-")?)
            .arg("-initrd")
            .arg(file_called(&boot, "initrd.img-")?)
            .arg("-drive")
            .arg(format!(
                "file={},if=virtio,format=raw,cache=unsafe",
                disk.display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|error| Failure::io("qemu-system-x86_64", &error))?;
        Ok(Self(child))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Shows what the machine says until it says that it is done.
fn watch(mut machine: Machine) -> Outcome {
    let output = machine.0.stdout.take().expect("it was asked for");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    loop {
        let patience = end.saturating_duration_since(Instant::now());
        let Ok(line) = lines.recv_timeout(patience) else {
            return Err(Failure::new(
                "the machine ended or hangs before its checks were done",
            ));
        };
        say(&line);
        if let Some(rest) = line.strip_prefix("DONE") {
            return if rest.is_empty() {
                Ok(())
            } else {
                Err(Failure(format!("in the machine{rest}")))
            };
        }
    }
}

/// The only file of a folder whose name begins like this.
fn file_called(folder: &Path, beginning: &str) -> Outcome<PathBuf> {
    let entries = fs::read_dir(folder).map_err(|error| Failure::io(folder, &error))?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(beginning)
        })
        .ok_or_else(|| Failure(format!("no `{beginning}…` in `{}`", folder.display())))
}
