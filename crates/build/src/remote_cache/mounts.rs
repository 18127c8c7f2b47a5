//! Cache mounts that travel: folders of `[cache.NAME]` with `export = true`.
//!
//! ```text
//! tag   mount-<project>.<name>
//! manifest
//!   artifactType  application/vnd.kiln.mount.v1
//!   config        {}
//!   layers        one: the folder as a tar, zstd
//! ```
//! The last writer wins, and nothing depends on what is in one: a folder that cannot be fetched is empty,
//! as it is on a new machine.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use kiln_client::Document;
use kiln_layer::{
    CopyOverrides, Decoder, Draft, DraftOptions, Encoder, EndMark, LowerStack, TreePath,
    UnpackLimits, UnpackOptions, unpack,
};
use kiln_manifest::value::Name;
use kiln_oci::{Compression, Descriptor, ImageManifest, MediaType, Reference};
use kiln_store::{CacheUse, Scratch, Sharing, StoreError, Wait};
use kiln_transfer::StoreSource;

use super::entry::EMPTY_CONFIG;
use super::{RemoteCache, name};
use crate::problem::chain;
use crate::store_executor::unpack_settings;

/// Type of the manifest: changing what it holds makes another type.
const ARTIFACT_TYPE: &str = "application/vnd.kiln.mount.v1";

/// Why a folder did not travel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Transfer(#[from] kiln_transfer::TransferError),
    #[error(transparent)]
    Client(#[from] kiln_client::Error),
    #[error("cannot pack it: {0}")]
    Pack(#[from] kiln_layer::DraftError),
    #[error("cannot unpack it: {0}")]
    Unpack(#[from] kiln_layer::UnpackError),
    #[error("cannot read it: {0}")]
    Read(#[from] kiln_layer::FileError),
    #[error("cannot read or write it: {0}")]
    Io(#[from] io::Error),
    #[error("what the cache has under its name is not a folder of kiln")]
    Foreign,
    #[error("it takes {size_bytes} bytes, more than its `max` of {max_bytes}")]
    TooLarge { size_bytes: u64, max_bytes: u64 },
    #[error("the names of project and cache are too long together for a tag")]
    Name,
}

impl MountError {
    fn is_of_registry(&self) -> bool {
        match self {
            Self::Client(error) => super::is_of_client(error),
            Self::Transfer(error) => super::is_of_registry(error),
            Self::Store(_)
            | Self::Pack(_)
            | Self::Unpack(_)
            | Self::Read(_)
            | Self::Io(_)
            | Self::Foreign
            | Self::TooLarge { .. }
            | Self::Name => false,
        }
    }
}

impl RemoteCache<'_> {
    /// Tells whether the folder of the cache `mount` travels.
    fn is_exported(&self, mount: &Name) -> bool {
        let caches = &self.workspace.manifest.caches;
        caches.get(mount).is_some_and(|cache| cache.export)
    }

    /// Notes that a step that runs uses the cache `mount`, and fetches its folder if it is empty and
    /// nobody uses it. What goes wrong is told by `warn`; the folder is empty then.
    pub(crate) fn use_mount(&self, mount: &Name, warn: &dyn Fn(String)) {
        if !self.is_exported(mount) {
            return;
        }
        // Held, so that another step does not begin with half of it.
        let mut used = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.insert(mount.clone()) {
            return;
        }
        for source in &self.sources {
            if source.is_out.load(Ordering::Relaxed) {
                continue;
            }
            match self.fetch_mount(mount, &source.repository) {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) if self.workspace.cancel.is_cancelled() => return,
                Err(error) => {
                    if error.is_of_registry() {
                        source.is_out.store(true, Ordering::Relaxed);
                    }
                    let cache = name(&source.repository);
                    warn(format!(
                        "cache mount `{mount}` is not taken from `{cache}`: {}",
                        chain(&error)
                    ));
                }
            }
        }
    }

    /// Fetches a folder; tells whether it is there now, or was.
    fn fetch_mount(&self, mount: &Name, repository: &Reference) -> Result<bool, MountError> {
        let Some(folder) = self.open_mount(mount)? else {
            return Ok(true);
        };
        if std::fs::read_dir(folder.path())?.next().is_some() {
            return Ok(true);
        }
        let remote = &self.workspace.remote;
        let reference = self.mount_reference(mount, repository)?;
        let found = self.registry.find_manifest(&reference, &remote.cancel)?;
        let Some(found) = found else {
            return Ok(false);
        };
        let manifest = ImageManifest::parse(&found.bytes).map_err(|_other| MountError::Foreign)?;
        let is_ours = manifest.artifact_type.as_deref() == Some(ARTIFACT_TYPE);
        let [blob] = &manifest.layers[..] else {
            return Err(MountError::Foreign);
        };
        if !is_ours {
            return Err(MountError::Foreign);
        }
        let mut settings = unpack_settings(self.workspace);
        if let Some(max_bytes) = self.max_bytes(mount) {
            check_size(blob.size_bytes, max_bytes)?;
            settings.limits = UnpackLimits {
                tar_bytes: settings.limits.tar_bytes.min(max_bytes),
                ..settings.limits
            };
        }
        self.transfer().pull_blob(&reference, blob, &|_| {})?;
        let blobs = self.workspace.store().blobs();
        let tar = Decoder::new(blobs.open(&blob.digest, blob.size_bytes)?)?;
        let options = UnpackOptions {
            limits: settings.limits,
            ownership: settings.ownership,
            devices: settings.devices,
            end_mark: EndMark::Required,
            epoch: None,
            // Steps write to these files.
            pool: None,
        };
        unpack(tar, File::open(folder.path())?.as_fd(), &options)?;
        Ok(true)
    }

    /// Writes the folders that steps of this build used to the cache `repository`. What goes wrong is
    /// told by `warn`.
    pub(crate) fn write_mounts(&self, repository: &Reference, warn: &mut dyn FnMut(String)) {
        let used = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        let used = used.clone();
        for mount in used {
            match self.write_mount(&mount, repository) {
                Ok(()) => {}
                Err(_) if self.workspace.cancel.is_cancelled() => return,
                Err(error) => {
                    let cache = name(repository);
                    warn(format!(
                        "cache mount `{mount}` is not given to `{cache}`: {}",
                        chain(&error)
                    ));
                    if error.is_of_registry() {
                        return;
                    }
                }
            }
        }
    }

    fn write_mount(&self, mount: &Name, repository: &Reference) -> Result<(), MountError> {
        let Some(folder) = self.open_mount(mount)? else {
            return Err(StoreError::InUse {
                what: "cache",
                name: mount.to_string(),
            }
            .into());
        };
        if std::fs::read_dir(folder.path())?.next().is_none() {
            return Ok(());
        }
        let session = &self.workspace.session;
        let blob = self.pack(&folder, self.max_bytes(mount))?;
        let blobs = self.workspace.store().blobs();
        let config = blobs.put_document(session, MediaType::OciEmpty, EMPTY_CONFIG)?;
        let mut manifest = ImageManifest::new(config, vec![blob]);
        manifest.artifact_type = Some(ARTIFACT_TYPE.to_owned());
        let manifest = Document::of(MediaType::OciManifest, manifest.to_bytes());
        let reference = self.mount_reference(mount, repository)?;
        let remote = &self.workspace.remote;
        let source = StoreSource::new(session, repository);
        self.registry
            .push_artifact(&reference, &manifest, &source, &remote.cancel)?;
        Ok(())
    }

    /// Makes a blob of a folder: the same tree gives the same bytes.
    fn pack(&self, folder: &CacheUse, max_bytes: Option<u64>) -> Result<Descriptor, MountError> {
        let session = &self.workspace.session;
        let scratch = Scratch::new(session, "mount")?;
        let copy = scratch.path().join("copy");
        std::fs::create_dir(&copy)?;
        let copy = File::open(copy)?;
        let nothing = LowerStack::new(&[] as &[OwnedFd])?;
        let source = LowerStack::new(&[File::open(folder.path())?])?;
        let options = DraftOptions {
            // What tools believe is newer than what depends on the times as they are.
            epoch: i64::MAX,
            ownership: self.ownership(),
            pool: None,
        };
        let mut draft = Draft::new(copy.as_fd(), &nothing, options)?;
        let all = TreePath::root();
        draft.copy_tree(&source, &all, &all, CopyOverrides::default())?;
        let writer = session.store().blobs().writer(session)?;
        let buffered = io::BufWriter::with_capacity(128 << 10, writer);
        let mut encoder = Encoder::new(Compression::Zstd, buffered);
        let committed = draft.finish(Some(&mut encoder))?;
        if let Some(max_bytes) = max_bytes {
            check_size(committed.tar_size_bytes, max_bytes)?;
        }
        let buffered = encoder.finish()?;
        let writer = buffered
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let (digest, size_bytes) = writer.finish()?;
        let media_type = MediaType::OciLayer(Compression::Zstd);
        Ok(Descriptor::new(media_type, digest, size_bytes))
    }

    /// Opens the folder for this process alone; `None` if somebody uses it.
    fn open_mount(&self, mount: &Name) -> Result<Option<CacheUse>, StoreError> {
        let workspace = self.workspace;
        let opened = workspace.store().caches().open(
            &workspace.session,
            &workspace.id,
            &kiln_store::Name::new(mount.as_str())?,
            Sharing::Exclusive,
            Wait::Never,
        );
        match opened {
            Ok(folder) => Ok(Some(folder)),
            Err(StoreError::InUse { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn max_bytes(&self, mount: &Name) -> Option<u64> {
        let cache = self.workspace.manifest.caches.get(mount);
        cache.and_then(|cache| cache.max_bytes)
    }

    fn mount_reference(
        &self,
        mount: &Name,
        repository: &Reference,
    ) -> Result<Reference, MountError> {
        let project = &self.workspace.manifest.project.name.value;
        // No name has a full stop.
        let tag = format!("mount-{project}.{mount}");
        let (registry, repository) = (repository.registry(), repository.repository());
        Reference::new(registry, repository, Some(&tag), None).map_err(|_long| MountError::Name)
    }
}

fn check_size(size_bytes: u64, max_bytes: u64) -> Result<(), MountError> {
    if size_bytes > max_bytes {
        return Err(MountError::TooLarge {
            size_bytes,
            max_bytes,
        });
    }
    Ok(())
}
