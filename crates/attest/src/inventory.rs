//! Everything known to be in an image, put together from several sources.
//!
//! What is the same package under the same package URL is one component, wherever it was found. What a
//! source could not tell is a note, which ends up in the document: a list that is incomplete says so.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::{Digest, ImageId};

use crate::component::Component;
use crate::{cyclonedx, spdx_document};

/// The format of a list of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SbomFormat {
    /// SPDX 2.3, JSON.
    Spdx,
    /// CycloneDX 1.6, JSON.
    CycloneDx,
}

/// Which image a document is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What it is called: a reference without digest.
    pub name: String,
    /// The digest of its config, the same in the store and in every registry.
    pub id: ImageId,
    /// The digest and repository under which a registry has it; `None` if it was not pushed.
    pub pushed: Option<(Digest, kiln_oci::Reference)>,
    /// What it runs on, as images call it: `amd64`.
    pub architecture: String,
    /// When it was made, `YYYY-MM-DDThh:mm:ssZ`.
    pub created: String,
}

/// A source that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{path}` cannot be read: {reason}")]
#[must_use]
pub struct ReadError {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Everything known to be in an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    components: BTreeMap<String, Component>,
    notes: BTreeSet<String>,
    /// Texts of licences that SPDX does not list, by the `LicenseRef-` that components say.
    licences: BTreeMap<String, String>,
}

impl Inventory {
    /// Adds a component, or what is new about one that is there.
    pub fn add(&mut self, component: Component) {
        match self.components.entry(component.identity()) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(component);
            }
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                entry.get_mut().absorb(component);
            }
        }
    }

    /// Adds a remark about what is missing.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.insert(note.into());
    }

    pub(crate) fn add_licences(&mut self, texts: BTreeMap<String, String>) {
        self.licences.extend(texts);
    }

    /// The texts of licences that SPDX does not list, by their `LicenseRef-`.
    pub(crate) fn licences(&self) -> impl Iterator<Item = (&str, &str)> {
        let texts = self.licences.iter();
        texts.map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The components, sorted by what tells them apart.
    pub fn components(&self) -> impl Iterator<Item = &Component> {
        self.components.values()
    }

    pub(crate) fn components_mut(&mut self) -> impl Iterator<Item = &mut Component> {
        self.components.values_mut()
    }

    /// The remarks, sorted.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(String::as_str)
    }

    /// Puts the list into a format. `version` is that of kiln.
    pub fn document(
        &self,
        format: SbomFormat,
        subject: &Subject,
        version: &str,
    ) -> serde_json::Value {
        match format {
            SbomFormat::Spdx => spdx_document::document(self, subject, version),
            SbomFormat::CycloneDx => cyclonedx::document(self, subject, version),
        }
    }

    /// Writes the list as canonical JSON; equal lists are equal bytes.
    pub fn write(&self, format: SbomFormat, subject: &Subject, version: &str) -> Vec<u8> {
        let document = self.document(format, subject, version);
        kiln_oci::canonical::to_vec(&document).expect("a JSON value is JSON")
    }
}

impl SbomFormat {
    /// The media type of the document.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Spdx => "application/spdx+json",
            Self::CycloneDx => "application/vnd.cyclonedx+json",
        }
    }

    /// How in-toto statements call it.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::Spdx => "https://spdx.dev/Document",
            Self::CycloneDx => "https://cyclonedx.org/bom",
        }
    }
}

impl Subject {
    /// The package URL of the image where a registry has it.
    pub(crate) fn purl(&self) -> Option<crate::Purl> {
        let (digest, reference) = self.pushed.as_ref()?;
        let repository = reference.repository();
        let name = repository.rsplit('/').next().unwrap_or(repository);
        let place = format!("{}/{repository}", reference.registry());
        Some(
            crate::Purl::new("oci", &name.to_ascii_lowercase())
                .at(&digest.to_string())
                .with("arch", &self.architecture)
                .with("repository_url", &place),
        )
    }

    /// The digest that names the image in documents: the registry's, else that of its config.
    pub(crate) fn digest(&self) -> Digest {
        self.pushed
            .as_ref()
            .map_or(self.id.0, |(digest, _)| *digest)
    }
}
