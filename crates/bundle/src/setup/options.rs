//! Options of mounts as `mount(8)` has them, sorted by what they mean to the kernel.

use crate::error::BundleError;
use crate::spec::Mount;

/// `MOUNT_ATTR_*` of `linux/mount.h`.
pub(crate) mod attribute {
    pub(crate) const READ_ONLY: u64 = 0x1;
    pub(crate) const NO_SET_ID: u64 = 0x2;
    pub(crate) const NO_DEVICES: u64 = 0x4;
    pub(crate) const NO_EXECUTE: u64 = 0x8;
    /// All bits that say when times of access are noted; no bit is `relatime`.
    pub(crate) const ACCESS_TIMES: u64 = 0x70;
    pub(crate) const NO_ACCESS_TIMES: u64 = 0x10;
    pub(crate) const STRICT_ACCESS_TIMES: u64 = 0x20;
    pub(crate) const NO_DIRECTORY_TIMES: u64 = 0x80;
    pub(crate) const ID_MAP: u64 = 0x0010_0000;
    pub(crate) const NO_LINKS: u64 = 0x0020_0000;
}

/// `MS_*` of `linux/mount.h` that say how mounts propagate.
pub(crate) mod propagation {
    pub(crate) const UNBINDABLE: u64 = 1 << 17;
    pub(crate) const PRIVATE: u64 = 1 << 18;
    pub(crate) const SLAVE: u64 = 1 << 19;
    pub(crate) const SHARED: u64 = 1 << 20;
}

/// What a mount is to be like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A second mount of something, with what is mounted below?
    pub(crate) bind: Option<Depth>,
    /// Attributes to set and to clear of this mount.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// Attributes to set and to clear of this mount and those below.
    pub(crate) set_below: u64,
    pub(crate) clear_below: u64,
    /// How it propagates, and whether those below do the same; in order.
    pub(crate) propagation: Vec<(u64, Depth)>,
    /// Starts with a copy of what it covers.
    pub(crate) copies_up: bool,
    /// Owners are shown through a map, below too?
    pub(crate) id_map: Option<Depth>,
    /// For the file system itself.
    pub(crate) data: Vec<String>,
}

pub(crate) use kiln_sys::mount::Depth;

/// Option, attribute, whether it is cleared.
const ATTRIBUTES: [(&str, u64, bool); 20] = {
    use attribute::{
        ACCESS_TIMES, NO_ACCESS_TIMES, NO_DEVICES, NO_DIRECTORY_TIMES, NO_EXECUTE, NO_LINKS,
        NO_SET_ID, READ_ONLY, STRICT_ACCESS_TIMES,
    };
    [
        ("ro", READ_ONLY, false),
        ("rw", READ_ONLY, true),
        ("nosuid", NO_SET_ID, false),
        ("suid", NO_SET_ID, true),
        ("nodev", NO_DEVICES, false),
        ("dev", NO_DEVICES, true),
        ("noexec", NO_EXECUTE, false),
        ("exec", NO_EXECUTE, true),
        ("nosymfollow", NO_LINKS, false),
        ("symfollow", NO_LINKS, true),
        ("noatime", NO_ACCESS_TIMES, false),
        ("atime", ACCESS_TIMES, true),
        ("relatime", 0, false),
        ("norelatime", ACCESS_TIMES, true),
        ("strictatime", STRICT_ACCESS_TIMES, false),
        ("nostrictatime", ACCESS_TIMES, true),
        ("nodiratime", NO_DIRECTORY_TIMES, false),
        ("diratime", NO_DIRECTORY_TIMES, true),
        ("defaults", 0, true),
        ("loud", 0, true),
    ]
};

const PROPAGATION: [(&str, u64, Depth); 8] = [
    ("shared", propagation::SHARED, Depth::Single),
    ("rshared", propagation::SHARED, Depth::Recursive),
    ("slave", propagation::SLAVE, Depth::Single),
    ("rslave", propagation::SLAVE, Depth::Recursive),
    ("private", propagation::PRIVATE, Depth::Single),
    ("rprivate", propagation::PRIVATE, Depth::Recursive),
    ("unbindable", propagation::UNBINDABLE, Depth::Single),
    ("runbindable", propagation::UNBINDABLE, Depth::Recursive),
];

/// Every option that is understood beside those of file systems, for `features`.
pub(crate) fn known() -> Vec<String> {
    let mut all: Vec<String> = ["bind", "rbind", "tmpcopyup", "idmap", "ridmap"]
        .map(str::to_owned)
        .into();
    for (name, bits, _) in ATTRIBUTES {
        all.push(name.to_owned());
        if bits != 0 || name == "relatime" {
            all.push(format!("r{name}"));
        }
    }
    all.extend(PROPAGATION.map(|(name, _, _)| name.to_owned()));
    all.sort();
    all
}

impl Options {
    /// Sorts the options of a mount.
    pub(crate) fn parse(mount: &Mount) -> Result<Self, BundleError> {
        let mut options = Self::default();
        if mount.kind == "bind" {
            options.bind = Some(Depth::Single);
        }
        for word in &mount.options {
            options.add(word)?;
        }
        if options.bind.is_none() && (mount.kind.is_empty() || mount.kind == "none") {
            let place = mount.destination.display();
            let problem = format!("mounts: the one at `{place}` has no type and is no bind mount");
            return Err(BundleError::Invalid { problem });
        }
        if !mount.uid_mappings.is_empty() && options.id_map.is_none() {
            options.id_map = Some(Depth::Single);
        }
        if options.copies_up && mount.kind != "tmpfs" {
            return Err(BundleError::invalid(
                "mounts: only a tmpfs can have the option `tmpcopyup`",
            ));
        }
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Result<(), BundleError> {
        let attribute = |word: &str| {
            let found = ATTRIBUTES.iter().find(|(name, _, _)| *name == word);
            found.map(|(_, bits, clears)| (*bits, *clears))
        };
        let group = |bits: u64, name: &str| {
            // One of several that exclude each other: the others go.
            if bits & attribute::ACCESS_TIMES != 0 || name.ends_with("relatime") {
                attribute::ACCESS_TIMES
            } else {
                bits
            }
        };
        if let Some((_, kind, depth)) = PROPAGATION.iter().find(|(name, _, _)| *name == word) {
            self.propagation.push((*kind, *depth));
            return Ok(());
        }
        match word {
            "bind" => self.bind = self.bind.or(Some(Depth::Single)),
            "rbind" => self.bind = Some(Depth::Recursive),
            "tmpcopyup" => self.copies_up = true,
            "idmap" => self.id_map = Some(Depth::Single),
            "ridmap" => self.id_map = Some(Depth::Recursive),
            "remount" => {
                return Err(BundleError::invalid(
                    "mounts: `remount` is not supported; give the mount its options when it is made",
                ));
            }
            "" => {}
            _ => {
                let below = word.strip_prefix('r').and_then(attribute);
                match (attribute(word), below) {
                    (Some((bits, clears)), _) => {
                        let all = group(bits, word);
                        self.clear =
                            self.clear & !all | if clears || all != bits { all } else { 0 };
                        self.set = self.set & !all | if clears { 0 } else { bits };
                    }
                    (None, Some((bits, clears))) => {
                        let all = group(bits, word);
                        self.clear_below =
                            self.clear_below & !all | if clears || all != bits { all } else { 0 };
                        self.set_below = self.set_below & !all | if clears { 0 } else { bits };
                    }
                    (None, None) => self.data.push(word.to_owned()),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: &str, options: &[&str]) -> Options {
        let mount = Mount {
            kind: kind.to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        };
        Options::parse(&mount).unwrap()
    }

    #[test]
    fn options_are_sorted() {
        let options = parse(
            "tmpfs",
            &[
                "nosuid",
                "ro",
                "rw",
                "mode=755",
                "noatime",
                "rslave",
                "tmpcopyup",
            ],
        );
        assert_eq!(
            options.set,
            attribute::NO_SET_ID | attribute::NO_ACCESS_TIMES
        );
        assert_eq!(
            options.clear,
            attribute::READ_ONLY | attribute::ACCESS_TIMES
        );
        assert_eq!(options.data, ["mode=755"]);
        assert_eq!(
            options.propagation,
            [(propagation::SLAVE, Depth::Recursive)]
        );
        assert!(options.copies_up && options.bind.is_none());
        let options = parse("", &["rbind", "rro", "rnosuid", "relatime"]);
        assert_eq!(options.bind, Some(Depth::Recursive));
        assert_eq!(
            options.set_below,
            attribute::READ_ONLY | attribute::NO_SET_ID
        );
        assert_eq!((options.set, options.clear), (0, attribute::ACCESS_TIMES));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |kind: &str, option: &str| {
            let options = vec![option.to_owned()];
            let mount = Mount {
                kind: kind.to_owned(),
                options,
                ..Mount::default()
            };
            assert!(Options::parse(&mount).is_err());
        };
        refused("", "ro");
        refused("proc", "tmpcopyup");
        refused("bind", "remount");
    }
}
