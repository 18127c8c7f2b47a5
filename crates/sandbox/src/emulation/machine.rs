//! Kinds of processors, as the headers of programs tell them apart.

use std::fmt;

/// A kind of processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine(&'static Kind);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Kind {
    /// In Go's names, as images have it.
    architecture: &'static str,
    /// How qemu calls it.
    emulator: &'static str,
    /// `e_ident[EI_CLASS]`: 1 is 32-bit, 2 is 64-bit.
    class: u8,
    /// `e_ident[EI_DATA]`: 1 is little-endian, 2 is big-endian.
    data: u8,
    /// `e_machine`.
    machine: u16,
}

const fn kind(
    architecture: &'static str,
    emulator: &'static str,
    class: u8,
    data: u8,
    machine: u16,
) -> Kind {
    Kind {
        architecture,
        emulator,
        class,
        data,
        machine,
    }
}

/// From `elf.h`.
static KINDS: [Kind; 9] = [
    kind("386", "i386", 1, 1, 3),
    kind("amd64", "x86_64", 2, 1, 62),
    kind("arm", "arm", 1, 1, 40),
    kind("arm64", "aarch64", 2, 1, 183),
    kind("loong64", "loongarch64", 2, 1, 258),
    kind("mips64le", "mips64el", 2, 1, 8),
    kind("ppc64le", "ppc64le", 2, 1, 21),
    kind("riscv64", "riscv64", 2, 1, 243),
    kind("s390x", "s390x", 2, 2, 22),
];

impl Machine {
    /// Returns the machine for an architecture in Go's names; `None` for one that is not known here.
    #[must_use]
    pub fn of(architecture: &str) -> Option<Self> {
        let found = KINDS.iter().find(|kind| kind.architecture == architecture);
        found.map(Self)
    }

    /// Tells whether this machine's own processor runs its programs, in a sandbox.
    #[must_use]
    pub fn is_native(self) -> bool {
        let own = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        self.0.architecture == own
    }

    /// How qemu calls it.
    pub(super) fn emulator(self) -> &'static str {
        self.0.emulator
    }

    /// The first bytes of a program for it.
    pub(super) fn header(self) -> [u8; 20] {
        let Kind {
            class,
            data,
            machine,
            ..
        } = *self.0;
        let number = |value: u16| match data {
            2 => value.to_be_bytes(),
            _ => value.to_le_bytes(),
        };
        let mut header = [0; 20];
        header[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data, 1]);
        // `ET_EXEC`.
        header[16..18].copy_from_slice(&number(2));
        header[18..].copy_from_slice(&number(machine));
        header
    }

    /// Which bits of [`Machine::header`] count: not the operating system, nor whether the program can be moved.
    pub(super) fn mask(self) -> [u8; 20] {
        let mut mask = [0xff; 20];
        mask[7] = 0;
        mask[16 + usize::from(self.0.data == 2)] = 0xfe;
        mask
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.architecture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_this_program_is_that_of_this_machine() {
        let own = KINDS
            .iter()
            .map(Machine)
            .filter(|machine| machine.is_native());
        let own: Vec<Machine> = own.collect();
        let [own] = own.as_slice() else {
            panic!("{own:?}");
        };
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (header, mask) = (own.header(), own.mask());
        for at in 0..header.len() {
            assert_eq!(program[at] & mask[at], header[at] & mask[at], "byte {at}");
        }
    }
}
