//! The database of dpkg.

use super::Distribution;
use crate::fields::paragraphs;
use crate::{Component, Kind, Purl, Role};

/// Reads packages whose files are there, whatever else dpkg still wants to do with them.
///
/// The database knows no licences and no checksums of packages.
pub(super) fn read(text: &str, distribution: &Distribution) -> Result<Vec<Component>, String> {
    let mut found = Vec::new();
    for paragraph in paragraphs(text) {
        // An image whose packages have files of their own in `status.d` has no states.
        let state = paragraph
            .get("Status")
            .and_then(|status| status.split(' ').nth(2));
        if matches!(state, Some("not-installed" | "config-files")) {
            continue;
        }
        let (Some(name), Some(version)) = (paragraph.get("Package"), paragraph.get("Version"))
        else {
            return Err("an entry has no `Package:` or no `Version:`".to_owned());
        };
        let mut component = Component::new(Kind::Package, Role::Installed, name, version);
        component.purl = Some(purl(
            name,
            version,
            paragraph.get("Architecture").unwrap_or_default(),
            distribution,
        ));
        found.push(component);
    }
    Ok(found)
}

/// Names a package of Debian or one of its relatives.
pub(super) fn purl(
    name: &str,
    version: &str,
    architecture: &str,
    distribution: &Distribution,
) -> Purl {
    Purl::new("deb", &name.to_ascii_lowercase())
        .within(distribution.id_or("debian"))
        .at(version)
        .with("arch", architecture)
        .with("distro", &distribution.tag())
}
