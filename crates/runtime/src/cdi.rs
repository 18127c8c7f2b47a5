//! Devices by name, as the Container Device Interface describes them: <https://github.com/cncf-tags/container-device-interface>.
//!
//! ```text
//! vendor.com/class=name     kind and name of a device
//! /etc/cdi/*.json, *.yaml   what a container needs for the devices of a kind: nodes, mounts, variables, programs
//! ```
//! Programs (hooks) run as kiln's user while the container is made. A container that needs some is run from a bundle:
//! see [`OtherRuntime`](crate::OtherRuntime).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::plan::{HookStage, PlannedHook, PlannedMount, PlannedSource};

/// Where descriptions are looked for, the ones that win last.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Longest description that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// A device's name, such as `nvidia.com/gpu=0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    kind: String,
    name: String,
}

impl DeviceName {
    /// Reads a name; `None` for what is none, such as a path.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once('=')?;
        let (vendor, class) = kind.split_once('/')?;
        let word = |text: &str, more: &[u8]| {
            text.bytes()
                .next()
                .is_some_and(|byte| byte.is_ascii_alphanumeric())
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let good = word(vendor, b"_-.") && word(class, b"_-.") && word(name, b"_-.:");
        good.then(|| Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// What a container is given for its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceEdits {
    /// Variables.
    pub env: BTreeMap<String, String>,
    /// Nodes and mounts, by their place in the container.
    pub mounts: BTreeMap<String, PlannedMount>,
    /// Groups that the container's user is in, too.
    pub groups: Vec<u32>,
    /// Programs that are run while it is made.
    pub hooks: Vec<PlannedHook>,
}

/// A device that cannot be had.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum DeviceError {
    /// Nobody describes it.
    #[error("no description of `{name}` is in {folders}")]
    Missing {
        /// Its name.
        name: String,
        /// Where was looked.
        folders: String,
        /// Names of the same kind that there are.
        known: Vec<String>,
    },
    /// A description that cannot be read.
    #[error("`{path}`: {reason}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    kind: String,
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    hook_name: HookStage,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
}

/// Finds what a container needs for `devices`, in the descriptions of `folders`.
///
/// # Errors
/// [`DeviceError`].
pub fn find(folders: &[&Path], devices: &[DeviceName]) -> Result<DeviceEdits, DeviceError> {
    let descriptions = read_all(folders)?;
    let mut edits = DeviceEdits::default();
    let mut common = BTreeSet::new();
    for device in devices {
        // The last folder wins.
        let found = descriptions
            .iter()
            .enumerate()
            .rev()
            .find_map(|(index, it)| {
                let own = it.devices.iter().find(|it| it.name == device.name)?;
                (it.kind == device.kind).then_some((index, it, own))
            });
        let Some((index, description, own)) = found else {
            let same = descriptions.iter().filter(|it| it.kind == device.kind);
            let known = same.flat_map(|it| &it.devices);
            return Err(DeviceError::Missing {
                name: format!("{}={}", device.kind, device.name),
                known: known
                    .map(|it| format!("{}={}", device.kind, it.name))
                    .collect(),
                folders: names_of(folders),
            });
        };
        if common.insert(index) {
            edits.add(&description.container_edits);
        }
        edits.add(&own.container_edits);
    }
    Ok(edits)
}

impl DeviceEdits {
    fn add(&mut self, edits: &Edits) {
        let pairs = edits.env.iter().filter_map(|pair| pair.split_once('='));
        self.env
            .extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for Node { path, host_path } in &edits.device_nodes {
            let source = host_path.clone().unwrap_or_else(|| path.clone());
            let mount = PlannedMount {
                source: PlannedSource::Device(source),
                read_only: false,
                stays_empty: false,
            };
            self.mounts.insert(path.display().to_string(), mount);
        }
        for mount in &edits.mounts {
            let planned = PlannedMount {
                source: PlannedSource::Host(mount.host_path.clone()),
                read_only: mount.options.iter().any(|option| option == "ro"),
                stays_empty: false,
            };
            let target = mount.container_path.display().to_string();
            self.mounts.insert(target, planned);
        }
        self.groups.extend(&edits.additional_gids);
        self.hooks
            .extend(edits.hooks.iter().map(|hook| PlannedHook {
                stage: hook.hook_name,
                path: hook.path.clone(),
                args: hook.args.clone(),
                env: hook.env.clone(),
                timeout_seconds: hook.timeout,
            }));
    }
}

fn names_of(folders: &[&Path]) -> String {
    let names = folders.iter().map(|folder| folder.display().to_string());
    names.collect::<Vec<_>>().join(" or ")
}

/// How a description is written, by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Yaml,
}

impl Form {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "json" => Some(Self::Json),
            "yaml" | "yml" => Some(Self::Yaml),
            _ => None,
        }
    }
}

fn read_all(folders: &[&Path]) -> Result<Vec<Description>, DeviceError> {
    let mut descriptions = Vec::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            if let Some(form) = Form::of(&path) {
                descriptions.push(read(&path, form)?);
            }
        }
    }
    Ok(descriptions)
}

fn read(path: &Path, form: Form) -> Result<Description, DeviceError> {
    use std::io::Read;
    let broken = |reason: String| DeviceError::Broken {
        path: path.to_owned(),
        reason,
    };
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .map_err(|error| broken(error.to_string()))?;
    parse(&bytes, form).map_err(broken)
}

/// Reads a description; says what is wrong with it if it is none.
fn parse(bytes: &[u8], form: Form) -> Result<Description, String> {
    match form {
        Form::Json => serde_json::from_slice(bytes).map_err(|error| error.to_string()),
        Form::Yaml => serde_saphyr::from_slice(bytes).map_err(|error| error.to_string()),
    }
}

#[cfg(any(test, feature = "fuzz"))]
/// Reads a description in both forms; what it gives has places that are paths.
pub(crate) fn examine(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop(DeviceName::parse(text));
    }
    for form in [Form::Json, Form::Yaml] {
        let Ok(description) = parse(bytes, form) else {
            continue;
        };
        let mut edits = DeviceEdits::default();
        for device in &description.devices {
            edits.add(&device.container_edits);
        }
        edits.add(&description.container_edits);
        assert!(edits.env.keys().all(|name| !name.contains('=')));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIPTION: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
        "devices": [
            { "name": "0", "containerEdits": { "deviceNodes": [{ "path": "/dev/gpu0", "hostPath": "/dev/null" }] } },
            { "name": "all", "containerEdits": { "hooks": [{ "hookName": "createContainer", "path": "/x" }] } }
        ],
        "containerEdits": {
            "env": ["GPU=1", "nonsense"],
            "mounts": [{ "hostPath": "/lib/gpu.so", "containerPath": "/usr/lib/gpu.so", "options": ["ro", "bind"] }]
        }
    }"#;

    fn name(text: &str) -> DeviceName {
        DeviceName::parse(text).unwrap()
    }

    #[test]
    fn names_are_told_from_paths() {
        for text in ["vendor.com/gpu=0", "a/b=all", "a.b/c-d=x:1"] {
            assert!(DeviceName::parse(text).is_some(), "{text}");
        }
        for text in [
            "/dev/fuse",
            "/dev/a=b",
            "vendor.com=0",
            "v/c=",
            "v/c=-x",
            "v/c=a/b",
        ] {
            assert_eq!(DeviceName::parse(text), None, "{text}");
        }
    }

    const IN_YAML: &str = r#"
cdiVersion: 0.6.0
kind: vendor.com/gpu
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/gpu0
          hostPath: /dev/null
          major: 1
          permissions: rw
  - name: all
    containerEdits: { hooks: [{ hookName: createContainer, path: /x, args: [x, --ldconfig], timeout: 3 }] }
containerEdits: # of all of them
  additionalGids: [44]
  env:
    - GPU=1
    - nonsense
  mounts:
    - hostPath: /lib/gpu.so
      containerPath: /usr/lib/gpu.so
      options: [ro, bind]
"#;

    #[test]
    fn descriptions_may_be_in_yaml() {
        let folder = tempfile::tempdir().unwrap();
        let devices = [name("vendor.com/gpu=0"), name("vendor.com/gpu=all")];
        std::fs::write(folder.path().join("gpu.json"), DESCRIPTION).unwrap();
        let mut in_json = find(&[folder.path()], &devices).unwrap();
        std::fs::remove_file(folder.path().join("gpu.json")).unwrap();
        for file in ["gpu.yaml", "gpu.yml"] {
            std::fs::write(folder.path().join(file), IN_YAML).unwrap();
            let in_yaml = find(&[folder.path()], &devices).unwrap();
            assert_eq!(
                (in_yaml.groups.as_slice(), in_yaml.hooks[0].args.len()),
                (&[44][..], 2)
            );
            in_json.groups = vec![44];
            in_json.hooks.clone_from(&in_yaml.hooks);
            assert_eq!(in_yaml, in_json);
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
        // Each is eight times the one before: what grows so is refused, and not read.
        let bomb: String = (0..30).fold("a0: &a0 x\n".to_owned(), |text, number| {
            let part = format!("*a{number}, ").repeat(8);
            format!("{text}a{}: &a{} [{part}]\n", number + 1, number + 1)
        });
        for broken in [
            "kind: [",
            "kind: vendor.com/gpu\ndevices: 3\n",
            "\u{0}",
            "- &a [*a]",
            &bomb,
        ] {
            std::fs::write(folder.path().join("broken.yaml"), broken).unwrap();
            let error = find(&[folder.path()], &devices).unwrap_err();
            assert!(matches!(error, DeviceError::Broken { .. }), "{error}");
        }
    }

    #[test]
    fn a_device_brings_what_all_of_its_kind_need() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("gpu.json"), DESCRIPTION).unwrap();
        let edits = find(&[folder.path()], &[name("vendor.com/gpu=0")]).unwrap();
        assert_eq!(
            edits.env,
            BTreeMap::from([("GPU".to_owned(), "1".to_owned())])
        );
        let device = PlannedSource::Device(PathBuf::from("/dev/null"));
        assert_eq!(edits.mounts["/dev/gpu0"].source, device);
        assert!(edits.mounts["/usr/lib/gpu.so"].read_only && edits.hooks.is_empty());
        let both = [name("vendor.com/gpu=0"), name("vendor.com/gpu=all")];
        let hooks = find(&[folder.path()], &both).unwrap().hooks;
        assert_eq!(
            (hooks[0].stage, hooks[0].path.as_path()),
            (HookStage::CreateContainer, Path::new("/x"))
        );
        let error = find(&[folder.path()], &[name("vendor.com/gpu=7")]).unwrap_err();
        let DeviceError::Missing { known, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(known, ["vendor.com/gpu=0", "vendor.com/gpu=all"]);
        std::fs::write(folder.path().join("broken.json"), "{").unwrap();
        let error = find(&[folder.path()], &[name("vendor.com/gpu=0")]).unwrap_err();
        assert!(matches!(error, DeviceError::Broken { .. }), "{error}");
    }
}
