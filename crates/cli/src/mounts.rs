//! Mounts as they are typed.

use std::path::Path;

use kiln_manifest::value;
use kiln_runtime::{PlannedMount, PlannedSource};
use kiln_store::Name;

use crate::container::wrong;
use crate::errors::Outcome;
use crate::measures::size;
use crate::names;

/// `NAME:/path[:ro]` for a volume, `./path:/path[:ro]` or `/path:/path[:ro]` for something of this machine; `/path` for
/// a new volume, whose name is added to `made_up`.
pub(crate) fn volume(
    text: &str,
    folder: &Path,
    made_up: &mut Vec<Name>,
) -> Outcome<(String, PlannedMount)> {
    let help =
        "write NAME:/path for a volume, ./path:/path for a folder, and :ro behind it for read-only";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts.as_slice() {
        [target] if target.starts_with('/') => {
            let source = PlannedSource::Volume(new_volume(made_up)?);
            let read_only = false;
            return Ok(((*target).to_owned(), PlannedMount { source, read_only }));
        }
        [source, target] | [source, target, "rw"] => (*source, *target, false),
        [source, target, "ro"] => (*source, *target, true),
        _ => return Err(wrong(format!("`{text}` is not a mount"), help)),
    };
    if !target.starts_with('/') {
        return Err(wrong(
            format!("the mount `{text}` does not end in an absolute path"),
            help,
        ));
    }
    let is_path = source.starts_with('/') || source.starts_with('.');
    let source = if is_path {
        PlannedSource::Host(folder.join(source))
    } else {
        if let Err(error) = value::Name::parse(source) {
            return Err(wrong(format!("the volume `{source}` {error}"), help));
        }
        PlannedSource::Volume(Name::new(source)?)
    };
    Ok((target.to_owned(), PlannedMount { source, read_only }))
}

fn new_volume(made_up: &mut Vec<Name>) -> Outcome<Name> {
    let name = names::of_volume()?;
    made_up.push(name.clone());
    Ok(name)
}

/// `/path`, `/path:64MB` or, as docker has it, `/path:size=64MB`.
pub(crate) fn tmpfs(text: &str) -> Outcome<(String, PlannedMount)> {
    let help = "write /path or /path:64MB";
    let (target, size_bytes) = match text.split_once(':') {
        Some((target, bytes)) => match size(bytes.strip_prefix("size=").unwrap_or(bytes)) {
            Ok(bytes) => (target, Some(bytes)),
            Err(error) => return Err(wrong(format!("the size in `{text}`: {error}"), help)),
        },
        None => (text, None),
    };
    if !target.starts_with('/') {
        return Err(wrong(format!("`{text}` is not an absolute path"), help));
    }
    let source = PlannedSource::Tmpfs { size_bytes };
    Ok((
        target.to_owned(),
        PlannedMount {
            source,
            read_only: false,
        },
    ))
}

/// Docker's long form: `type=bind,source=./data,target=/data,readonly`. A volume without a name is as in [`volume`].
pub(crate) fn described(
    text: &str,
    folder: &Path,
    made_up: &mut Vec<Name>,
) -> Outcome<(String, PlannedMount)> {
    let help = "write type=volume,source=NAME,target=/path, type=bind,source=PATH,target=/path, or type=tmpfs,target=/path,\
                tmpfs-size=64MB; and readonly";
    let refuse = |what: String| wrong(format!("the mount `{text}` {what}"), help);
    let (mut kind, mut source, mut target, mut bytes) = ("volume", None, None, None);
    let mut read_only = false;
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (key, value) {
            ("type", value @ ("bind" | "volume" | "tmpfs")) => kind = value,
            ("source" | "src", value) => source = Some(value),
            ("target" | "dst" | "destination", value) => target = Some(value),
            ("readonly" | "ro", "" | "true" | "1") => read_only = true,
            ("readonly" | "ro", "false" | "0") => read_only = false,
            ("tmpfs-size", value) => {
                bytes = Some(
                    size(value).map_err(|error| refuse(format!("has a wrong size: {error}")))?,
                );
            }
            _ => return Err(refuse(format!("says `{part}`, which is not understood"))),
        }
    }
    let target = target.filter(|target| target.starts_with('/'));
    let target =
        target.ok_or_else(|| refuse("has no target that is an absolute path".to_owned()))?;
    if bytes.is_some() && kind != "tmpfs" {
        return Err(refuse("has a size and is no tmpfs".to_owned()));
    }
    let named = || source.filter(|source| !source.is_empty());
    let source = match kind {
        "bind" => {
            let source = named().ok_or_else(|| refuse("has no source".to_owned()))?;
            PlannedSource::Host(folder.join(source))
        }
        "tmpfs" => match source {
            None => PlannedSource::Tmpfs { size_bytes: bytes },
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
    Ok((target.to_owned(), PlannedMount { source, read_only }))
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
        for text in ["data", "data:relative", "a:/b:c", "Not A Name:/x"] {
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
            PlannedSource::Tmpfs {
                size_bytes: Some(1024)
            }
        );
        for text in [
            "",
            "type=bind,target=/b",
            "type=bind,source=a",
            "type=npipe,source=a,target=/b",
            "type=tmpfs,source=a,target=/b",
            "source=a,target=b",
            "source=a,target=/b,tmpfs-size=1",
            "source=a,target=/b,bind-propagation=shared",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        assert!(read("type=volume,target=/b").is_some());
        assert_eq!(made_up.len(), 1);
    }
}
