//! Bases: what an image starts from.
//!
//! One file for each kind. A base that is an image hands on its manifest too, so that its layers
//! keep the blobs and digests they came with.

mod debian;
mod layout;
mod registry;
mod rootfs;

use kiln_graph::{BaseInputs, BaseWork};
use kiln_image::{Image, ImageError, UnpackSettings, parse_config, parse_manifest};
use kiln_layer::{Devices, UnpackLimits};
use kiln_oci::{Descriptor, Digest, MediaType};
use kiln_sandbox::Privileges;

use super::layers::{Made, ownership};
use super::packages::PackagePlan;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::chain;
use crate::project::ProjectFiles;
use crate::workspace::Workspace;

/// What was found out about a base, for when it is made.
#[derive(Debug)]
pub(crate) enum BaseMaterials {
    /// The manifest of an image.
    Image(Digest),
    /// What is installed.
    Debian(Box<PackagePlan>),
    /// Nothing more than the key says.
    Rootfs,
}

/// Finds out what decides the result of `base`.
pub(crate) fn describe(
    workspace: &Workspace,
    files: &ProjectFiles,
    task: &Task<'_>,
    base: &BaseWork,
) -> Result<(BaseInputs, BaseMaterials), Failure> {
    match base {
        BaseWork::Registry(reference) => {
            let manifest = registry::manifest(workspace, task, reference)?;
            Ok((
                BaseInputs::Image { manifest },
                BaseMaterials::Image(manifest),
            ))
        }
        BaseWork::Oci(oci) => {
            files.place(&oci.path.value)?;
            let manifest = layout::manifest(workspace, task, oci)?;
            Ok((
                BaseInputs::Image { manifest },
                BaseMaterials::Image(manifest),
            ))
        }
        BaseWork::Debian(debian) => debian::describe(workspace, task, debian),
        BaseWork::Rootfs(path) => {
            let content = files.file(&path.value)?;
            Ok((BaseInputs::Rootfs { content }, BaseMaterials::Rootfs))
        }
    }
}

/// Makes a base.
pub(crate) fn make(
    workspace: &Workspace,
    task: &Task<'_>,
    base: &BaseWork,
    materials: BaseMaterials,
    log: &mut Option<kiln_store::Name>,
) -> Result<Made, Failure> {
    match (base, materials) {
        (BaseWork::Registry(reference), BaseMaterials::Image(manifest)) => {
            registry::pull(workspace, task, reference, manifest)
        }
        (BaseWork::Oci(oci), BaseMaterials::Image(_)) => layout::load(workspace, task, oci),
        (BaseWork::Debian(_), BaseMaterials::Debian(plan)) => {
            debian::make(workspace, task, &plan, log)
        }
        (BaseWork::Rootfs(path), BaseMaterials::Rootfs) => rootfs::make(workspace, task, path),
        (
            BaseWork::Registry(_) | BaseWork::Oci(_) | BaseWork::Debian(_) | BaseWork::Rootfs(_),
            _,
        ) => unreachable!("a base is described as what it is"),
    }
}

/// Reads the image with this manifest, which is in the store.
pub(crate) fn load_image(workspace: &Workspace, manifest: Digest) -> Result<Image, Failure> {
    let failed = |error: ImageError| Failure::new(FailureKind::Environment, chain(&error));
    let blobs = workspace.store().blobs();
    let size_bytes = blobs.size_bytes(&manifest)?.unwrap_or_default();
    let descriptor = |media_type| Descriptor::new(media_type, manifest, size_bytes);
    // The type is told by the document itself.
    let bytes = blobs.read(&descriptor(MediaType::OciManifest))?;
    let parsed = parse_manifest(&descriptor(MediaType::OciManifest), &bytes).map_err(failed)?;
    let config_bytes = blobs.read(&parsed.config)?;
    let config = parse_config(&parsed.config, &config_bytes).map_err(failed)?;
    let media_type = parsed.media_type.clone().unwrap_or(MediaType::OciManifest);
    Image::new(descriptor(media_type), parsed, config).map_err(failed)
}

/// The image's documents and layers as what a node made.
pub(crate) fn made(image: &Image) -> Made {
    Made {
        layers: image.diff_ids().to_vec(),
        blobs: vec![image.descriptor.digest, image.manifest.config.digest],
    }
}

/// Returns what this user may unpack.
pub(crate) fn unpack_settings(workspace: &Workspace) -> UnpackSettings {
    UnpackSettings {
        limits: UnpackLimits::default(),
        ownership: ownership(workspace),
        devices: match workspace.privileges() {
            Privileges::Root => Devices::Make,
            Privileges::Mapped { .. } | Privileges::Single { .. } => Devices::Skip,
        },
    }
}
