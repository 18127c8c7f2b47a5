//! The inputs of a base, as resolved.

use kiln_manifest::model::DebianBase;
use kiln_oci::Digest;

use crate::sink::Sink;
use crate::tree::ContentDigest;

/// One package of the lock, as far as it decides what is installed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackagePin {
    /// Name of the binary package.
    pub name: String,
    /// Debian version.
    pub version: String,
    /// Debian architecture.
    pub architecture: String,
    /// SHA-256 of the archive file.
    pub sha256: Digest,
}

/// The inputs of a base that needs work, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseInputs {
    /// An image of a registry or of an image layout, by the digest of its manifest.
    Image {
        /// Digest of the manifest for the platform.
        manifest: Digest,
    },
    /// A root file system from Debian packages.
    Debian {
        /// Suite as written.
        suite: String,
        /// Packages asked for beside the required ones, as written.
        packages: Vec<String>,
        /// Archive areas.
        components: Vec<String>,
        /// Everything that is installed.
        pins: Vec<PackagePin>,
    },
    /// A tar of the project.
    Rootfs {
        /// Digest of the file, compressed as it is.
        content: ContentDigest,
    },
}

impl BaseInputs {
    /// Returns the inputs of a Debian base with its pins from the lock.
    pub fn debian(base: &DebianBase, mut pins: Vec<PackagePin>) -> Self {
        // The archive's address does not count: the pins decide what is installed.
        let DebianBase {
            suite,
            packages,
            components,
            mirror: _,
            snapshot: _,
        } = base;
        pins.sort();
        let mut packages: Vec<String> = packages.iter().map(|name| name.value.clone()).collect();
        packages.sort();
        Self::Debian {
            suite: suite.value.clone(),
            packages,
            components: components.iter().map(|name| name.value.clone()).collect(),
            pins,
        }
    }
}

impl BaseInputs {
    pub(super) fn describe(&self, sink: &mut impl Sink) {
        match self {
            Self::Image { manifest } => {
                sink.field("action", b"base image");
                sink.field("manifest", manifest.to_string().as_bytes());
            }
            Self::Debian {
                suite,
                packages,
                components,
                pins,
            } => {
                sink.field("action", b"base debian");
                sink.field("suite", suite.as_bytes());
                for component in components {
                    sink.field("component", component.as_bytes());
                }
                for name in packages {
                    sink.item("package", name.as_bytes(), b"asked for");
                }
                describe_pins(pins, sink);
            }
            Self::Rootfs { content } => {
                sink.field("action", b"base rootfs");
                sink.field("rootfs", content.hex().as_bytes());
            }
        }
    }
}

pub(super) fn describe_pins(pins: &[PackagePin], sink: &mut impl Sink) {
    for PackagePin {
        name,
        version,
        architecture,
        sha256,
    } in pins
    {
        let item = format!("{name}:{architecture}");
        sink.item(
            "pin",
            item.as_bytes(),
            format!("{version} {sha256}").as_bytes(),
        );
    }
}
