//! Mounts as they are typed.

use std::path::Path;

use kiln_manifest::value;
use kiln_runtime::{PlannedMount, PlannedSource, PlannedTmpfs};
use kiln_store::Name;

use crate::container::wrong;
use crate::errors::Outcome;
use crate::measures::size;
use crate::names;

/// `NAME:/path[:ro,nocopy]` for a volume, `./path:/path[:ro]` or `/path:/path[:ro]` for something of this machine; `/path`
/// for a new volume, whose name is added to `made_up`.
pub(crate) fn volume(
    text: &str,
    folder: &Path,
    made_up: &mut Vec<Name>,
) -> Outcome<(String, PlannedMount)> {
    let help = "write NAME:/path for a volume, ./path:/path for a folder, and :ro behind it for read-only; :nocopy leaves \
                a new volume empty";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] if target.starts_with('/') => {
            let mount = PlannedMount {
                source: PlannedSource::Volume(new_volume(made_up)?),
                read_only: false,
                stays_empty: false,
            };
            return Ok(((*target).to_owned(), mount));
        }
        [source, target] => (*source, *target, "rw"),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(wrong(format!("`{text}` is not a mount"), help)),
    };
    let (mut read_only, mut stays_empty) = (false, false);
    for option in options.split(',') {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            "nocopy" => stays_empty = true,
            "z" | "Z" => {
                let help = "leave it out: files keep the SELinux labels that they have";
                return Err(wrong(
                    format!("in `{text}`, `{option}` is no option of a mount"),
                    help,
                ));
            }
            _ => return Err(wrong(format!("`{text}` is not a mount"), help)),
        }
    }
    if !target.starts_with('/') {
        return Err(wrong(
            format!("the mount `{text}` does not end in an absolute path"),
            help,
        ));
    }
    let is_path = source.starts_with('/') || source.starts_with('.');
    if is_path && stays_empty {
        return Err(wrong(format!("in `{text}`, {NOT_FILLED}"), help));
    }
    let source = if is_path {
        PlannedSource::Host(folder.join(source))
    } else {
        if let Err(error) = value::Name::parse(source) {
            return Err(wrong(format!("the volume `{source}` {error}"), help));
        }
        PlannedSource::Volume(Name::new(source)?)
    };
    let mount = PlannedMount {
        source,
        read_only,
        stays_empty,
    };
    Ok((target.to_owned(), mount))
}

/// What is wrong with leaving something else than a volume empty.
const NOT_FILLED: &str = "only a volume would be filled from the image";

fn new_volume(made_up: &mut Vec<Name>) -> Outcome<Name> {
    let name = names::of_volume()?;
    made_up.push(name.clone());
    Ok(name)
}

/// `/path`, `/path:64MB` or, as docker has it, `/path:size=64m,mode=700,uid=1000,exec`.
pub(crate) fn tmpfs(text: &str) -> Outcome<(String, PlannedMount)> {
    let help = "write /path, /path:64MB or /path:size=64MB,mode=1777,uid=0,gid=0; and ro or exec";
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if !target.starts_with('/') {
        return Err(wrong(format!("`{text}` is not an absolute path"), help));
    }
    let mut memory = MEMORY;
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let refuse =
            |what: String| wrong(format!("the option `{option}` of `{text}` {what}"), help);
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let number = || {
            value
                .parse()
                .map_err(|_error| refuse("is not a number".to_owned()))
        };
        match (key, value) {
            ("ro", "") => read_only = true,
            ("rw", "") => read_only = false,
            ("exec", "") => memory.no_execute = false,
            ("noexec", "") => memory.no_execute = true,
            // It is never otherwise.
            ("nosuid" | "nodev", "") => {}
            ("mode", value) => {
                memory.mode = Some(mode(value).ok_or_else(|| refuse(NO_MODE.to_owned()))?);
            }
            ("uid", _) => memory.uid = number()?,
            ("gid", _) => memory.gid = number()?,
            ("size", bytes) | (bytes, "") => {
                let bytes = size(bytes).map_err(|error| refuse(format!("is no size: {error}")))?;
                memory.size_bytes = Some(bytes);
            }
            _ => return Err(refuse("is not understood".to_owned())),
        }
    }
    let mount = PlannedMount {
        source: PlannedSource::Tmpfs(memory),
        read_only,
        stays_empty: false,
    };
    Ok((target.to_owned(), mount))
}

/// As docker has it unless something else is said.
const MEMORY: PlannedTmpfs = PlannedTmpfs {
    size_bytes: None,
    mode: None,
    uid: 0,
    gid: 0,
    no_execute: true,
};

const NO_MODE: &str = "is not a mode such as 1777";

/// Permissions in octal digits.
fn mode(text: &str) -> Option<u32> {
    let is_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal)?;
    (mode <= 0o7777).then_some(mode)
}

/// Docker's long form: `type=bind,source=./data,target=/data,readonly`. A volume without a name is as in [`volume`].
pub(crate) fn described(
    text: &str,
    folder: &Path,
    made_up: &mut Vec<Name>,
) -> Outcome<(String, PlannedMount)> {
    let help = "write type=volume,source=NAME,target=/path, type=bind,source=PATH,target=/path, or type=tmpfs,target=/path,\
                tmpfs-size=64MB,tmpfs-mode=1777; and readonly";
    let refuse = |what: String| wrong(format!("the mount `{text}` {what}"), help);
    let (mut kind, mut source, mut target) = ("volume", None, None);
    let (mut memory, mut read_only, mut stays_empty) = (MEMORY, false, false);
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (key, value) {
            ("type", value @ ("bind" | "volume" | "tmpfs")) => kind = value,
            ("source" | "src", value) => source = Some(value),
            ("target" | "dst" | "destination", value) => target = Some(value),
            ("readonly" | "ro", "" | "true" | "1") => read_only = true,
            ("readonly" | "ro", "false" | "0") => read_only = false,
            ("volume-nocopy", "" | "true" | "1") => stays_empty = true,
            ("volume-nocopy", "false" | "0") => stays_empty = false,
            ("tmpfs-size", value) => {
                let bytes =
                    size(value).map_err(|error| refuse(format!("has a wrong size: {error}")))?;
                memory.size_bytes = Some(bytes);
            }
            ("tmpfs-mode", value) => {
                let mode = mode(value);
                let wrong = || refuse(format!("says `{part}`, which {NO_MODE}"));
                memory.mode = Some(mode.ok_or_else(wrong)?);
            }
            _ => return Err(refuse(format!("says `{part}`, which is not understood"))),
        }
    }
    let target = target.filter(|target| target.starts_with('/'));
    let target =
        target.ok_or_else(|| refuse("has no target that is an absolute path".to_owned()))?;
    if memory != MEMORY && kind != "tmpfs" {
        return Err(refuse("has a size or mode and is no tmpfs".to_owned()));
    }
    if stays_empty && kind != "volume" {
        return Err(refuse(format!("is left empty, but {NOT_FILLED}")));
    }
    let named = || source.filter(|source| !source.is_empty());
    let source = match kind {
        "bind" => {
            let source = named().ok_or_else(|| refuse("has no source".to_owned()))?;
            PlannedSource::Host(folder.join(source))
        }
        "tmpfs" => match source {
            None => PlannedSource::Tmpfs(memory),
            Some(_) => return Err(refuse("has a source and is a tmpfs".to_owned())),
        },
        _ => PlannedSource::Volume(match named() {
            None => new_volume(made_up)?,
            Some(source) => {
                if let Err(error) = value::Name::parse(source) {
                    return Err(refuse(format!(
                        "names the volume `{source}`, which {error}"
                    )));
                }
                Name::new(source)?
            }
        }),
    };
    let mount = PlannedMount {
        source,
        read_only,
        stays_empty,
    };
    Ok((target.to_owned(), mount))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn mounts_tell_volumes_from_folders() {
        let mut made_up = Vec::new();
        let mut read = |text| volume(text, Path::new("/here"), &mut made_up);
        let (target, mount) = read("data:/var/lib/data:ro").expect("a volume");
        assert_eq!(target, "/var/lib/data");
        assert!(mount.read_only && matches!(mount.source, PlannedSource::Volume(_)));
        let (_, mount) = read("./src:/srv").expect("a folder");
        assert_eq!(
            mount.source,
            PlannedSource::Host(PathBuf::from("/here/./src"))
        );
        let (_, mount) = read("data:/d:nocopy,ro").expect("a volume");
        assert!(mount.stays_empty && mount.read_only);
        for text in [
            "data",
            "data:relative",
            "a:/b:c",
            "a:/b:",
            "a:/b:ro,",
            "./a:/b:nocopy",
            "Not A Name:/x",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let (target, mount) = read("/data").expect("a new volume");
        let [name] = made_up.as_slice() else {
            panic!("{made_up:?}")
        };
        let source = PlannedSource::Volume(name.clone());
        assert_eq!((target.as_str(), mount.source), ("/data", source));
    }

    #[test]
    fn memory_is_described_as_docker_does() {
        let read = |text: &str| {
            let (target, mount) = tmpfs(text).ok()?;
            assert_eq!(target, "/t");
            let PlannedSource::Tmpfs(memory) = mount.source else {
                return None;
            };
            Some((memory, mount.read_only))
        };
        assert_eq!(read("/t"), Some((MEMORY, false)));
        let sized = PlannedTmpfs {
            size_bytes: Some(64 << 10),
            ..MEMORY
        };
        for text in [
            "/t:64KiB",
            "/t:size=64k",
            "/t:rw,noexec,nosuid,nodev,size=65536",
        ] {
            assert_eq!(read(text), Some((sized, false)), "{text}");
        }
        let owned = PlannedTmpfs {
            mode: Some(0o700),
            uid: 1000,
            gid: 5,
            no_execute: false,
            ..MEMORY
        };
        let text = "/t:mode=700,uid=1000,gid=5,exec,ro";
        assert_eq!(read(text), Some((owned, true)));
        for text in [
            "t",
            "/t:x",
            "/t:size=",
            "/t:mode=9",
            "/t:uid=me",
            "/t:suid",
            "/t:ro=1",
            "/t:size=5%",
        ] {
            assert!(tmpfs(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_long_form_says_the_same() {
        let mut made_up = Vec::new();
        let mut read = |text: &str| described(text, Path::new("/here"), &mut made_up).ok();
        let (target, mount) = read("type=bind,src=./a,dst=/b,readonly").expect("a folder");
        assert_eq!((target.as_str(), mount.read_only), ("/b", true));
        assert_eq!(
            mount.source,
            PlannedSource::Host(PathBuf::from("/here/./a"))
        );
        let (_, mount) = read("source=data,target=/d").expect("a volume");
        assert!(matches!(mount.source, PlannedSource::Volume(_)) && !mount.read_only);
        let (_, mount) = read("type=tmpfs,target=/t,tmpfs-size=1024").expect("memory");
        assert_eq!(
            mount.source,
            PlannedSource::Tmpfs(PlannedTmpfs {
                size_bytes: Some(1024),
                ..MEMORY
            })
        );
        for text in [
            "",
            "type=bind,target=/b",
            "type=bind,source=a",
            "type=npipe,source=a,target=/b",
            "type=tmpfs,source=a,target=/b",
            "source=a,target=b",
            "source=a,target=/b,tmpfs-size=1",
            "source=a,target=/b,tmpfs-mode=700",
            "type=tmpfs,target=/b,tmpfs-mode=8",
            "type=bind,source=a,target=/b,volume-nocopy",
            "source=a,target=/b,bind-propagation=shared",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let (_, mount) = read("type=volume,target=/b,volume-nocopy").expect("a volume");
        assert!(mount.stays_empty);
        assert_eq!(made_up.len(), 1);
    }
}
