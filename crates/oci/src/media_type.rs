//! The media types of the image specification and their Docker schema 2 ancestors.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How the bytes of a layer blob wrap its tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// The tar itself.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

/// What a blob is, as its descriptor says.
///
/// The text of a type kiln does not know is kept as it came, so that a document can be written
/// back unchanged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MediaType {
    /// An OCI image manifest.
    OciManifest,
    /// An OCI image index.
    OciIndex,
    /// An OCI image config.
    OciConfig,
    /// An OCI layer.
    OciLayer(Compression),
    /// An OCI layer that registries used not to hand on; read like any other.
    OciForeignLayer(Compression),
    /// The two bytes `{}`, for manifests that need no config.
    OciEmpty,
    /// A Docker schema 2 manifest.
    DockerManifest,
    /// A Docker schema 2 manifest list.
    DockerIndex,
    /// A Docker image config.
    DockerConfig,
    /// A Docker layer.
    DockerLayer(Compression),
    /// A Docker layer to be fetched from elsewhere.
    DockerForeignLayer(Compression),
    /// Any other type, as it came.
    Other(String),
}

/// What kind of thing a media type names, whichever family it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    /// The description of one image.
    Manifest,
    /// A list of manifests.
    Index,
    /// An image's configuration.
    Config,
    /// A layer, wrapped as told.
    Layer(Compression),
    /// Nothing an image consists of.
    Other,
}

use Compression::{Gzip, None as Plain, Zstd};

/// Every known type with its text. Both directions read this table.
const NAMES: &[(MediaType, &str)] = &[
    (
        MediaType::OciManifest,
        "application/vnd.oci.image.manifest.v1+json",
    ),
    (
        MediaType::OciIndex,
        "application/vnd.oci.image.index.v1+json",
    ),
    (
        MediaType::OciConfig,
        "application/vnd.oci.image.config.v1+json",
    ),
    (
        MediaType::OciLayer(Plain),
        "application/vnd.oci.image.layer.v1.tar",
    ),
    (
        MediaType::OciLayer(Gzip),
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ),
    (
        MediaType::OciLayer(Zstd),
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
    (
        MediaType::OciForeignLayer(Plain),
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
    ),
    (
        MediaType::OciForeignLayer(Gzip),
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ),
    (
        MediaType::OciForeignLayer(Zstd),
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ),
    (MediaType::OciEmpty, "application/vnd.oci.empty.v1+json"),
    (
        MediaType::DockerManifest,
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    (
        MediaType::DockerIndex,
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
    (
        MediaType::DockerConfig,
        "application/vnd.docker.container.image.v1+json",
    ),
    (
        MediaType::DockerLayer(Plain),
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
    (
        MediaType::DockerLayer(Gzip),
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    (
        MediaType::DockerLayer(Zstd),
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ),
    (
        MediaType::DockerForeignLayer(Plain),
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ),
    (
        MediaType::DockerForeignLayer(Gzip),
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ),
    (
        MediaType::DockerForeignLayer(Zstd),
        "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
    ),
];

impl MediaType {
    /// Reads a media type; parameters after `;`, as HTTP headers carry them, are dropped.
    pub fn parse(text: &str) -> Self {
        let essence = text.split(';').next().unwrap_or(text).trim();
        NAMES
            .iter()
            .find(|(_, name)| name.eq_ignore_ascii_case(essence))
            .map_or_else(
                || Self::Other(essence.to_owned()),
                |(media_type, _)| media_type.clone(),
            )
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        if let Self::Other(text) = self {
            return text;
        }
        NAMES
            .iter()
            .find(|(media_type, _)| media_type == self)
            .map_or("", |(_, name)| name)
    }

    /// Says what kind of thing this names.
    pub fn kind(&self) -> MediaKind {
        match self {
            Self::OciManifest | Self::DockerManifest => MediaKind::Manifest,
            Self::OciIndex | Self::DockerIndex => MediaKind::Index,
            Self::OciConfig | Self::DockerConfig => MediaKind::Config,
            Self::OciLayer(compression)
            | Self::OciForeignLayer(compression)
            | Self::DockerLayer(compression)
            | Self::DockerForeignLayer(compression) => MediaKind::Layer(*compression),
            Self::OciEmpty | Self::Other(_) => MediaKind::Other,
        }
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for MediaType {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::parse(text))
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Ok(Self::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_round_trips() {
        for (media_type, name) in NAMES {
            assert_eq!(&MediaType::parse(name), media_type);
            assert_eq!(media_type.as_str(), *name);
        }
    }

    #[test]
    fn unknown_types_are_kept_and_parameters_dropped() {
        let other = MediaType::parse("application/vnd.cncf.helm.config.v1+json");
        assert_eq!(other.as_str(), "application/vnd.cncf.helm.config.v1+json");
        assert_eq!(other.kind(), MediaKind::Other);
        assert_eq!(
            MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8"),
            MediaType::OciIndex
        );
    }
}
