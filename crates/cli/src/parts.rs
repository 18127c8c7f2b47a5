//! The parts of an image: what its files say is in it.

use kiln_attest::{Distribution, Inventory, SbomFormat, Source, Subject, fits_file_name};
use kiln_image::{Image, ImageError, ImageTree};
use kiln_layer::{ResolveError, TreePath};
use kiln_oci::{Digest, Reference, rfc3339};
use kiln_store::Store;

use crate::errors::Outcome;
use crate::recipe::{self, LOCK_FILE_LIMIT_BYTES, Recalled};
use crate::settings::Settings;

/// The largest `/etc/os-release` that is read.
const OS_RELEASE_LIMIT_BYTES: u64 = 64 << 10;

/// The largest copyright file that is read.
const COPYRIGHT_LIMIT_BYTES: u64 = 4 << 20;

/// The form of a list of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sbom {
    /// SPDX 2.3
    Spdx,
    /// CycloneDX 1.6
    Cyclonedx,
}

impl From<Sbom> for SbomFormat {
    fn from(sbom: Sbom) -> Self {
        match sbom {
            Sbom::Spdx => Self::Spdx,
            Sbom::Cyclonedx => Self::CycloneDx,
        }
    }
}

/// Lists what is in an image whose layers are pinned, and what is known of how it was made.
///
/// # Errors
/// A layer is missing, or a file cannot be read.
pub(crate) fn list(store: &Store, image: &Image, recalled: &Recalled) -> Outcome<Inventory> {
    let tree = ImageTree::open(store, image)?;
    let mut inventory = Inventory::default();
    let os_release = TreePath::in_root(b"etc/os-release").ok();
    let os_release = os_release.map(|path| tree.read(&path, OS_RELEASE_LIMIT_BYTES));
    let os_release = os_release.transpose()?.flatten().unwrap_or_default();
    let distribution = Distribution::parse(&String::from_utf8_lossy(&os_release));
    inventory.add_distribution(&distribution);
    let text = |path: &TreePath| String::from_utf8_lossy(path.as_bytes()).into_owned();
    for path in tree.files(|path| fits_file_name(&text(path)).is_some()) {
        let name = text(&path);
        let Some(source) = fits_file_name(&name) else {
            continue;
        };
        let content = match (source, tree.read(&path, LOCK_FILE_LIMIT_BYTES)) {
            // That it is there is all that is wanted of it.
            (Source::Rpm, _) => tree.has(&path)?.then(Vec::new),
            (_, Err(ImageError::Tree(error)))
                if matches!(*error, ResolveError::TooLarge { .. }) =>
            {
                inventory.note(error.to_string());
                None
            }
            (_, read) => read?,
        };
        let Some(content) = content else { continue };
        let content = String::from_utf8_lossy(&content);
        if let Err(error) = inventory.read(source, &name, &content, &distribution) {
            inventory.note(error.to_string());
        }
    }
    for (package, path) in inventory.copyright_files() {
        // What cannot be read says nothing of a licence, which many packages do not.
        if let Ok(path) = TreePath::in_root(path.as_bytes())
            && let Ok(Some(text)) = tree.read(&path, COPYRIGHT_LIMIT_BYTES)
        {
            inventory.read_copyright(&package, &String::from_utf8_lossy(&text));
        }
    }
    let platform = image.config.platform.to_string();
    recipe::add_to(&mut inventory, recalled, &platform, &distribution);
    Ok(inventory)
}

/// Names an image in documents; `pushed` is where a registry has it.
pub(crate) fn subject(
    settings: &Settings,
    image: &Image,
    name: String,
    pushed: Option<(Digest, Reference)>,
) -> Subject {
    Subject {
        name,
        id: image.id(),
        pushed,
        architecture: image.config.platform.architecture.clone(),
        created: rfc3339(created(settings, image)),
    }
}

/// `SOURCE_DATE_EPOCH`, else when the image says it was made, else the beginning of time: never the clock.
fn created(settings: &Settings, image: &Image) -> u64 {
    settings.epoch.unwrap_or_else(|| {
        let created = image.config.created.as_deref().unwrap_or_default();
        let created = created.parse::<jiff::Timestamp>();
        created.map_or(0, |it| u64::try_from(it.as_second()).unwrap_or(0))
    })
}
