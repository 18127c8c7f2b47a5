//! Everything in the store that gc may remove, with its size and when it was last used.

use std::path::Path;

use serde::Serialize;

use super::mark;
use crate::caches::CacheInfo;
use crate::disk;
use crate::error::StoreError;
use crate::key::{StackKey, StepKey, TreeHash};
use crate::measure::Measure;
use crate::session::Pin;
use crate::store::Store;
use crate::timestamp::Timestamp;
use kiln_oci::{DiffId, Digest};

/// A part of the store, as its users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Area {
    /// Unpacked layers and what is known about their stacks.
    Layers,
    /// Manifests, configs, and the layers of pulled images as they came.
    Blobs,
    /// Records of what steps produced, and their output.
    Steps,
    /// Project files that steps saw.
    Sources,
    /// Packages and other downloads, finished or not.
    Downloads,
    /// Named caches.
    Caches,
    /// Small files kept for each project.
    Projects,
    /// Volumes; gc never removes them.
    Volumes,
    /// Containers with their writable layers and logs; gc never removes them.
    Containers,
}

/// One thing that is removed as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Pinned(Pin),
    Cache(CacheInfo),
    /// The beginning of a download, by its path.
    Partial(String),
    /// A file by its path.
    Other(Area, String),
}

impl Item {
    pub(crate) fn area(&self) -> Area {
        match self {
            Self::Pinned(Pin::Layer(_) | Pin::Stack(_)) => Area::Layers,
            Self::Pinned(Pin::Blob(_)) => Area::Blobs,
            Self::Pinned(Pin::Download(_)) | Self::Partial(_) => Area::Downloads,
            Self::Pinned(Pin::Source(_)) => Area::Sources,
            Self::Pinned(Pin::Step(_)) => Area::Steps,
            Self::Cache(_) => Area::Caches,
            Self::Other(area, _) => *area,
        }
    }
}

/// A thing, looked at.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) item: Item,
    pub(crate) bytes: u64,
    pub(crate) last_used: Timestamp,
    /// Whether an image or a running kiln needs it.
    pub(crate) reached: bool,
}

impl Store {
    /// Lists everything that can be removed, or that images keep from being removed: what is
    /// reached first, then the rest, most recently used first.
    pub(crate) fn inventory(&self) -> Result<Vec<Object>, StoreError> {
        let reached = mark::reached(self)?;
        let mut objects = Vec::new();
        for item in self.items()? {
            let Some(last_used) = self.item_last_used(&item)? else {
                continue;
            };
            objects.push(Object {
                reached: reached.contains(&item),
                item,
                bytes: 0,
                last_used,
            });
        }
        // What shares files with others is charged to the one that will be removed last.
        objects.sort_by_key(|object| (!object.reached, std::cmp::Reverse(object.last_used)));
        let mut measure = Measure::new();
        for object in &mut objects {
            for path in self.item_paths(&object.item) {
                object.bytes += measure.tree(Path::new(&path))?;
            }
        }
        Ok(objects)
    }

    fn items(&self) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut area = |folder: &str, pin: &dyn Fn(&str) -> Option<Pin>| {
            let names = disk::names(&self.at(folder))?;
            items.extend(names.iter().filter_map(|name| pin(name)).map(Item::Pinned));
            Ok::<(), StoreError>(())
        };
        let digest = |name: &str| Digest::from_hex(name).ok();
        area("layers", &|name| Some(Pin::Layer(DiffId(digest(name)?))))?;
        area("blobs/sha256", &|name| Some(Pin::Blob(digest(name)?)))?;
        area("downloads", &|name| Some(Pin::Download(digest(name)?)))?;
        area("sources", &|name| {
            Some(Pin::Source(TreeHash::from_hex(name)?))
        })?;
        area("stacks", &|name| {
            Some(Pin::Stack(StackKey::from_hex(name)?))
        })?;
        area("steps", &|name| Some(Pin::Step(StepKey::from_hex(name)?)))?;
        items.extend(self.caches().list()?.into_iter().map(Item::Cache));
        for folder in ["partial/blobs", "partial/downloads"] {
            for name in disk::names(&self.at(folder))? {
                items.push(Item::Partial(format!("{folder}/{name}")));
            }
        }
        for (area, folder) in [
            (Area::Steps, "logs"),
            (Area::Layers, "checks"),
            (Area::Layers, "exports"),
            (Area::Projects, "history"),
        ] {
            for name in disk::names(&self.at(folder))? {
                items.push(Item::Other(area, format!("{folder}/{name}")));
            }
        }
        for project in disk::names(&self.at("projects"))? {
            for name in disk::names(&self.at(&format!("projects/{project}")))? {
                let path = format!("projects/{project}/{name}");
                items.push(Item::Other(Area::Projects, path));
            }
        }
        Ok(items)
    }

    fn item_last_used(&self, item: &Item) -> Result<Option<Timestamp>, StoreError> {
        match item {
            Item::Pinned(pin) => match disk::last_used(&self.at(&pin.clock()))? {
                Some(used) => Ok(Some(used)),
                // A folder without its record is nobody's.
                None if disk::exists(&self.at(&pin.path()))? => {
                    Ok(Some(Timestamp::from_seconds(0)))
                }
                None => Ok(None),
            },
            Item::Cache(cache) => Ok(Some(cache.last_used)),
            Item::Partial(path) | Item::Other(_, path) => disk::last_used(&self.at(path)),
        }
    }

    fn item_paths(&self, item: &Item) -> Vec<std::path::PathBuf> {
        match item {
            Item::Pinned(Pin::Step(key)) => vec![
                self.at(&format!("steps/{}", key.hex())),
                self.at(&format!("inputs/{}", key.hex())),
            ],
            Item::Pinned(pin) => vec![self.at(&pin.path())],
            Item::Cache(cache) => {
                vec![self.at(&format!("caches/{}/{}", cache.project, cache.name))]
            }
            Item::Partial(path) | Item::Other(_, path) => vec![self.at(path)],
        }
    }
}
