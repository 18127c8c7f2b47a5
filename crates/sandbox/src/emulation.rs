//! Programs of other processors: whether the kernel can run them here, and seeing to it that it can.
//!
//! The kernel looks at the header of a program and starts an emulator for it, if somebody has told it of one:
//! `binfmt_misc`. A handler with the flag `F` holds its emulator open, so that root file systems need not have it.
//!
//! ```text
//! the processor's own            nothing to do
//! a handler of the machine       used, if it is enabled and has the flag F
//! a user namespace of our own    a binfmt_misc of our own, with emulators of the user's PATH (Linux 6.7)
//! otherwise                      an error
//! ```
//! A `binfmt_misc` of our own ends with the process, and nobody else sees it. It hides the machine's, so that
//! everything needed is registered in it. Who is root changes nothing for the whole machine.

mod handler;
mod machine;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_sys::Errno;
use kiln_sys::mount::{self, MountAttributes};
use rustix::fs::{Mode, OFlags, openat};

use self::handler::Handler;
pub use self::machine::Machine;
use crate::host::{Host, NamespaceOf};
use crate::privileges::Privileges;

/// Where the machine's handlers usually are.
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// `PT_INTERP`: the program header of a program that needs a loader.
const INTERPRETER_HEADER: u32 = 3;

/// Why programs of another processor cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum EmulationError {
    /// No handler suits, and this process may not bring its own.
    #[error("the kernel has no handler for programs of {machine} (binfmt_misc)")]
    NoHandler {
        /// For what.
        machine: Machine,
    },
    /// There is a handler that root file systems would have to have the emulator for.
    #[error(
        "the kernel's handler `{handler}` for programs of {machine} lacks the flag `F`, so that its emulator is looked for in the image"
    )]
    NotFixed {
        /// For what.
        machine: Machine,
        /// Its name.
        handler: String,
    },
    /// No handler suits, and there is no emulator to bring.
    #[error(
        "the kernel has no handler for programs of {machine} (binfmt_misc), and there is no static `{program}` in PATH"
    )]
    NoEmulator {
        /// For what.
        machine: Machine,
        /// The emulator that was looked for.
        program: String,
    },
    /// The kernel does not let this user bring emulators.
    #[error("{action}: {errno}{}", if *errno == Errno::PERM { "; Linux 6.7 and newer let ordinary users do that" } else { "" })]
    Kernel {
        /// What was tried.
        action: String,
        /// What it said.
        errno: Errno,
    },
}

/// What was found out and set up so far.
#[derive(Debug, Default)]
pub(crate) struct Emulation {
    ready: BTreeSet<Machine>,
    /// The own `binfmt_misc`. Its handlers are there as long as it is open.
    own: Option<OwnedFd>,
}

impl Host {
    /// Sees to it that sandboxes can run programs of all of `machines`; `folders` are where emulators may be.
    ///
    /// Cheap when it was done before. Name all machines at once where they are known.
    ///
    /// # Errors
    /// [`EmulationError`] about the first one that is not possible.
    pub fn emulate(
        &self,
        machines: &BTreeSet<Machine>,
        folders: &[PathBuf],
    ) -> Result<(), EmulationError> {
        let mut emulation = self
            .emulation
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let needed: Vec<Machine> = machines
            .iter()
            .copied()
            .filter(|machine| !machine.is_native() && !emulation.ready.contains(machine))
            .collect();
        if needed.is_empty() {
            return Ok(());
        }
        let handlers = self.handlers_of_the_machine();
        let usable = |machine: &Machine| handlers.iter().find(|handler| handler.suits(*machine));
        // A `binfmt_misc` of our own hides the machine's; another process may have made one here.
        let is_hidden = emulation.own.is_some() || self.namespace_of == NamespaceOf::Kilns;
        let lacking: Vec<Machine> = needed
            .iter()
            .copied()
            .filter(|machine| is_hidden || usable(machine).is_none_or(|handler| !handler.is_fixed))
            .collect();
        if let Some(&first) = lacking.first() {
            if self.namespace_of == NamespaceOf::Others {
                return Err(match usable(&first) {
                    Some(handler) => EmulationError::NotFixed {
                        machine: first,
                        handler: handler.name.clone(),
                    },
                    None => EmulationError::NoHandler { machine: first },
                });
            }
            let mut emulators = Vec::new();
            for &machine in &needed {
                let known = usable(&machine).map(|handler| handler.interpreter.as_path());
                emulators.push((machine, find_emulator(machine, known, folders)?));
            }
            for machine in &emulation.ready {
                let known = usable(machine).map(|handler| handler.interpreter.as_path());
                if emulation.own.is_none() {
                    emulators.push((*machine, find_emulator(*machine, known, folders)?));
                }
            }
            let own = match emulation.own.take() {
                Some(own) => own,
                None => open_own()?,
            };
            for (machine, emulator) in emulators {
                register(&own, machine, &emulator)?;
            }
            emulation.own = Some(own);
        }
        emulation.ready.extend(needed);
        Ok(())
    }

    /// Leaves the emulators that this process has brought to the programs that it starts from now on: they last as
    /// long as one of them keeps the descriptor that it inherits.
    ///
    /// # Errors
    /// [`EmulationError::Kernel`].
    pub fn hand_on_emulators(&self) -> Result<(), EmulationError> {
        let emulation = self.emulation.lock();
        let mut emulation = emulation.unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(own) = emulation.own.take() else {
            return Ok(());
        };
        let inherited = rustix::io::fcntl_setfd(&own, rustix::io::FdFlags::empty());
        inherited.map_err(|errno| EmulationError::Kernel {
            action: "handing on the emulators of this user".to_owned(),
            errno,
        })?;
        // Closed with the process.
        std::mem::forget(own);
        Ok(())
    }

    /// Reads the handlers that programs of this process meet without further ado.
    fn handlers_of_the_machine(&self) -> Vec<Handler> {
        let folder = match &self.privileges {
            // The file system is the machine's, mounted or not.
            Privileges::Root => new_instance().ok(),
            Privileges::Mapped { .. } | Privileges::Single { .. } => None,
        };
        let folder = folder.or_else(|| {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
            rustix::fs::open(HANDLERS, flags, Mode::empty()).ok()
        });
        folder.map_or_else(Vec::new, |folder| handler::read_all(&folder))
    }
}

fn new_instance() -> Result<OwnedFd, Errno> {
    let attributes = MountAttributes {
        no_set_id: true,
        no_devices: true,
        no_execute: true,
        ..MountAttributes::default()
    };
    mount::new_filesystem(c"binfmt_misc", &[], attributes)
}

fn open_own() -> Result<OwnedFd, EmulationError> {
    new_instance().map_err(|errno| EmulationError::Kernel {
        action: "making a binfmt_misc of this user's own".to_owned(),
        errno,
    })
}

/// Tells the kernel of an emulator.
fn register(own: &OwnedFd, machine: Machine, emulator: &Path) -> Result<(), EmulationError> {
    let fail = |errno| EmulationError::Kernel {
        action: format!(
            "registering `{}` for programs of {machine}",
            emulator.display()
        ),
        errno,
    };
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(own, "register", flags, Mode::empty()).map_err(fail)?;
    let text = handler::registration(machine, emulator);
    match rustix::io::write(&file, &text) {
        // By another process in the same user namespace, which has this file system, too.
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(fail(errno)),
    }
}

/// Finds an emulator that runs without anything of the file system it finds itself in.
fn find_emulator(
    machine: Machine,
    known: Option<&Path>,
    folders: &[PathBuf],
) -> Result<PathBuf, EmulationError> {
    let program = format!("qemu-{}", machine.emulator());
    let names = [format!("{program}-static"), program.clone()];
    let in_path = names
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let candidates = known.map(Path::to_owned).into_iter().chain(in_path);
    candidates
        .filter(|path| path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&b':'))
        .find(|path| is_static_program(path))
        .ok_or_else(|| EmulationError::NoEmulator {
            machine,
            program: format!("{program}-static"),
        })
}

/// Tells whether `path` is a program of this machine that needs no loader.
fn is_static_program(path: &Path) -> bool {
    let is_program = std::fs::metadata(path)
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if !is_program {
        return false;
    }
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start));
    read.is_ok() && needs_no_loader(&start)
}

/// Looks through the program headers at the beginning of a 64-bit program.
fn needs_no_loader(start: &[u8]) -> bool {
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = start.get(at..at + size)?;
        let mut all = [0; 8];
        all[..size].copy_from_slice(bytes);
        Some(u64::from_le_bytes(all))
    };
    let is_own = start.starts_with(b"\x7fELF\x02\x01");
    let (Some(table), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    let kind = |index: u64| {
        let at = usize::try_from(table + index * size).ok()?;
        number(at, 4)
    };
    is_own
        && (0..count).all(|index| kind(index).is_some_and(|it| it != u64::from(INTERPRETER_HEADER)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_with_a_loader_are_told_from_others() {
        let program = |kinds: &[u32]| {
            let mut bytes = vec![0; 64];
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[32] = 64;
            bytes[54] = 56;
            bytes[56] = u8::try_from(kinds.len()).unwrap();
            for kind in kinds {
                bytes.extend(kind.to_le_bytes());
                bytes.extend([0; 52]);
            }
            bytes
        };
        assert!(needs_no_loader(&program(&[1, 1, 6])));
        assert!(!needs_no_loader(&program(&[6, 3, 1])));
        let cut = program(&[1, 1, 6]);
        assert!(!needs_no_loader(&cut[..100]));
        assert!(!needs_no_loader(b"#!/bin/sh\n"));
    }

    #[test]
    fn an_emulator_is_looked_for_under_both_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let arm64 = Machine::of("arm64").unwrap();
        let folders = [folder.path().to_owned()];
        let missing = find_emulator(arm64, None, &folders)
            .unwrap_err()
            .to_string();
        assert!(missing.contains("`qemu-aarch64-static`"), "{missing}");
        // Any program without a loader will do here.
        let mut program = vec![0; 64];
        program[..6].copy_from_slice(b"\x7fELF\x02\x01");
        for name in ["qemu-aarch64", "qemu-aarch64-static"] {
            let path = folder.path().join(name);
            std::fs::write(&path, &program).unwrap();
            assert_ne!(
                find_emulator(arm64, None, &folders).ok(),
                Some(path.clone())
            );
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert_eq!(find_emulator(arm64, None, &folders).unwrap(), path);
        }
    }
}
