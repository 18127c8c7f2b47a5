//! An image in the project as a base: an OCI layout folder, or an archive of one or of docker's.

use std::path::PathBuf;

use kiln_image::{Archive, ArchiveImage, Image, ImageError};
use kiln_manifest::model::OciBase;
use kiln_oci::{Digest, Reference};
use kiln_store::StoreError;

use super::super::layers::Made;
use super::{made, unpack_settings};
use crate::executor::{Failure, Task};
use crate::problem::{Problem, chain};
use crate::workspace::Workspace;

/// Returns the image that is meant, by the digest of its manifest or, in docker's archives, which
/// have none, of its config.
pub(crate) fn manifest(
    workspace: &Workspace,
    task: &Task<'_>,
    oci: &OciBase,
) -> Result<Digest, Failure> {
    let archive = open(workspace, oci)?;
    let image = choose(workspace, oci, &archive)?;
    let chosen = archive.manifest(image, task.platform());
    if let Some(descriptor) = chosen.map_err(|error| failure(workspace, oci, &error))? {
        return Ok(descriptor.digest);
    }
    let id = archive.image_id(image, task.platform());
    Ok(id.map_err(|error| failure(workspace, oci, &error))?.0)
}

/// Brings the image into the store.
pub(crate) fn load(workspace: &Workspace, task: &Task<'_>, oci: &OciBase) -> Result<Made, Failure> {
    let archive = open(workspace, oci)?;
    let image = choose(workspace, oci, &archive)?;
    let image: Image = archive
        .import(
            &workspace.session,
            image,
            task.platform(),
            &unpack_settings(workspace),
        )
        .map_err(|error| failure(workspace, oci, &error))?;
    check_platform(workspace, task, oci, &image)?;
    Ok(made(&image))
}

/// Says that an image that stands alone is of another kind of machine than what is built for.
fn check_platform(
    workspace: &Workspace,
    task: &Task<'_>,
    oci: &OciBase,
    image: &Image,
) -> Result<(), Failure> {
    let (wanted, found) = (task.platform(), &image.config.platform);
    if wanted.accepts(found) {
        return Ok(());
    }
    let message = format!("the image is for {found}, and {wanted} is built for");
    let help = format!("name an image for {wanted}, or write `platforms = [\"{found}\"]`");
    let problem = Problem::new(workspace, oci.path.span, message);
    Err(problem.label("this image").help(help).user())
}

fn open(workspace: &Workspace, oci: &OciBase) -> Result<Archive, Failure> {
    let path: PathBuf = workspace.project.path().join(oci.path.value.as_str());
    Archive::open(&workspace.session, &path).map_err(|error| failure(workspace, oci, &error))
}

fn choose<'a>(
    workspace: &Workspace,
    oci: &OciBase,
    archive: &'a Archive,
) -> Result<&'a ArchiveImage, Failure> {
    let has_tag = |image: &&ArchiveImage, tag: &str| {
        let is_it = |reference: &Reference| reference.tag() == Some(tag);
        image.references.iter().any(is_it)
    };
    let images = archive.images();
    let found = match (&oci.tag, images) {
        (Some(tag), _) => images.iter().find(|image| has_tag(image, &tag.value)),
        (None, [only]) => Some(only),
        (None, _) => images.iter().find(|image| has_tag(image, "latest")),
    };
    found.ok_or_else(|| {
        let names: Vec<String> = images
            .iter()
            .flat_map(|image| &image.references)
            .map(|reference| format!("`{reference}`"))
            .collect();
        let there = if names.is_empty() {
            format!("{} images without names", images.len())
        } else {
            names.join(", ")
        };
        let at = oci.tag.as_ref().map_or(oci.path.span, |tag| tag.span);
        Problem::new(
            workspace,
            at,
            "the layout does not say which image is meant".to_owned(),
        )
        .label(format!("it has {there}"))
        .help("name one: `from = { oci = { path = \"…\", tag = \"…\" } }`")
        .user()
    })
}

fn failure(workspace: &Workspace, oci: &OciBase, error: &ImageError) -> Failure {
    let problem = |message| Problem::new(workspace, oci.path.span, message);
    let ImageError::Store(of_store) = error else {
        return problem(chain(error)).user();
    };
    if let StoreError::Missing { what, name } = of_store {
        let path = oci.path.value.as_str();
        return problem(format!("`{path}` has no {what} `{name}`")).user();
    }
    // What is checked on its way in is the project's, and so are its mistakes.
    let is_users = matches!(
        of_store,
        StoreError::Verify { .. } | StoreError::TooLarge { .. }
    );
    let problem = problem(chain(error));
    if is_users {
        problem.user()
    } else {
        problem.environment()
    }
}
