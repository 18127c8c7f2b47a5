//! One entry of `binfmt_misc`, as the kernel shows it and as it is told of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags, openat};

use super::machine::Machine;

/// The most bytes of an entry; the kernel shows at most a page.
const LIMIT_BYTES: u64 = 64 << 10;

/// What the kernel starts for certain programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handler {
    /// Its name.
    pub(super) name: String,
    /// What is started.
    pub(super) interpreter: PathBuf,
    /// Whether the kernel holds it open, so that it is found in any root file system.
    pub(super) is_fixed: bool,
    offset: usize,
    magic: Vec<u8>,
    mask: Vec<u8>,
}

/// Reads the enabled handlers of `folder`; those that go by file names are left out.
pub(super) fn read_all(folder: &OwnedFd) -> Vec<Handler> {
    if read(folder, "status").is_none_or(|status| status.trim_ascii_end() != b"enabled") {
        return Vec::new();
    }
    // The descriptor of a new file system only stands for a place.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listing = openat(folder.as_fd(), ".", flags, Mode::empty());
    let Ok(entries) = listing.and_then(Dir::read_from) else {
        return Vec::new();
    };
    let names = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some(entry.file_name().to_str().ok()?.to_owned()));
    names
        .filter(|name| !matches!(name.as_str(), "." | ".." | "register" | "status"))
        .filter_map(|name| Handler::parse(&name, &read(folder, &name)?))
        .collect()
}

fn read(folder: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(folder.as_fd(), name, flags, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    File::from(file)
        .take(LIMIT_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

impl Handler {
    /// Reads an entry as the kernel shows it; `None` for one that is not enabled, or goes by file names.
    fn parse(name: &str, text: &[u8]) -> Option<Self> {
        let mut lines = text.split(|&byte| byte == b'\n');
        if lines.next() != Some(b"enabled") {
            return None;
        }
        let mut handler = Self {
            name: name.to_owned(),
            interpreter: PathBuf::new(),
            is_fixed: false,
            offset: 0,
            magic: Vec::new(),
            mask: Vec::new(),
        };
        for line in lines {
            let mut words = line.splitn(2, |&byte| byte == b' ');
            let (word, rest) = (words.next()?, words.next().unwrap_or_default());
            match word {
                b"interpreter" => handler.interpreter = OsString::from_vec(rest.to_vec()).into(),
                b"flags:" => handler.is_fixed = rest.contains(&b'F'),
                b"offset" => handler.offset = std::str::from_utf8(rest).ok()?.parse().ok()?,
                b"magic" => handler.magic = from_hex(rest)?,
                b"mask" => handler.mask = from_hex(rest)?,
                _ => {}
            }
        }
        if handler.magic.is_empty() {
            return None;
        }
        if handler.mask.is_empty() {
            handler.mask = vec![0xff; handler.magic.len()];
        }
        Some(handler)
    }

    /// Tells whether it takes programs of `machine`. What of its magic is behind the first bytes of a program is
    /// taken for zero.
    pub(super) fn suits(&self, machine: Machine) -> bool {
        let header = machine.header();
        // A handler that looks at nothing of the header takes other things.
        let looks_at_header = self.offset == 0 && self.magic.len() >= header.len();
        looks_at_header
            && self
                .magic
                .iter()
                .zip(&self.mask)
                .enumerate()
                .all(|(at, (magic, mask))| {
                    let byte = header.get(at).copied().unwrap_or_default();
                    byte & mask == magic & mask
                })
    }
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|it| u8::try_from(it).ok())
    };
    let pairs = text.trim_ascii().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// Returns the words by which the kernel is told of `emulator` for programs of `machine`.
///
/// `F` holds the emulator open, `P` keeps the program's own name, `O` hands over programs that cannot be
/// read. Not `C`: set-user-id programs would run an emulator whose environment is somebody else's.
pub(super) fn registration(machine: Machine, emulator: &Path) -> Vec<u8> {
    let escaped =
        |bytes: [u8; 20]| -> String { bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect() };
    let (magic, mask) = (escaped(machine.header()), escaped(machine.mask()));
    let name = machine.emulator();
    let mut text = format!(":kiln-{name}:M::{magic}:{mask}:").into_bytes();
    text.extend_from_slice(emulator.as_os_str().as_bytes());
    text.extend_from_slice(b":POF");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.1 shows what Debian's qemu-user-static registers.
    const ARM64: &[u8] =
        b"enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POF\noffset 0\n\
magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn machine(architecture: &str) -> Machine {
        Machine::of(architecture).unwrap()
    }

    #[test]
    fn a_handler_suits_the_programs_it_is_for() {
        let handler = Handler::parse("qemu-aarch64", ARM64).unwrap();
        assert!(handler.is_fixed);
        assert!(handler.suits(machine("arm64")));
        for other in ["amd64", "arm", "riscv64", "s390x"] {
            assert!(!handler.suits(machine(other)), "{other}");
        }
        let text = String::from_utf8(ARM64.to_vec()).unwrap();
        let not_fixed = text.replace("POF", "PO");
        assert!(!Handler::parse("a", not_fixed.as_bytes()).unwrap().is_fixed);
        let disabled = text.replace("enabled", "disabled");
        assert_eq!(Handler::parse("a", disabled.as_bytes()), None);
        let by_name = b"enabled\ninterpreter /usr/bin/wine\nflags: \nextension .exe\n";
        assert_eq!(Handler::parse("wine", by_name), None);
        let short = b"enabled\ninterpreter /usr/bin/cli\nflags: F\noffset 0\nmagic 7f45\n";
        assert!(
            !Handler::parse("short", short)
                .unwrap()
                .suits(machine("arm64"))
        );
    }

    #[test]
    fn what_the_kernel_is_told_is_what_it_shows() {
        let told = registration(machine("arm64"), Path::new("/usr/bin/qemu-aarch64-static"));
        let told = String::from_utf8(told).unwrap();
        assert!(
            told.starts_with(":kiln-aarch64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00"),
            "{told}"
        );
        assert!(
            told.ends_with(":/usr/bin/qemu-aarch64-static:POF"),
            "{told}"
        );
        let hex = |escaped: &str| escaped.replace("\\x", "");
        let parts: Vec<&str> = told.split(':').collect();
        let shown = format!(
            "enabled\ninterpreter {}\nflags: {}\noffset 0\nmagic {}\nmask {}\n",
            parts[6],
            parts[7],
            hex(parts[4]),
            hex(parts[5])
        );
        let handler = Handler::parse("kiln-aarch64", shown.as_bytes()).unwrap();
        assert!(handler.suits(machine("arm64")) && handler.is_fixed);
    }

    #[test]
    fn big_endian_headers_are_written_their_way() {
        let told = registration(machine("s390x"), Path::new("/q"));
        let told = String::from_utf8(told).unwrap();
        assert!(told.contains("\\x00\\x02\\x00\\x16:"), "{told}");
        assert!(told.contains("\\xff\\xfe\\xff\\xff:/q"), "{told}");
    }
}
