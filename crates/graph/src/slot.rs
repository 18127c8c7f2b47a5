//! What images are built for: the platforms asked for, and what follows for the images behind them.

use std::fmt;

use kiln_manifest::BuildManifest;
use kiln_manifest::model::Platforms;
use kiln_oci::Platform;

use crate::file_graph::ImageName;

/// What a node or an image is built for.
///
/// The two differ for an image with `platforms = ["host"]` only: it runs on the machine that builds and
/// makes something for another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// What its programs run on, and what its config says.
    pub platform: Platform,
    /// What `${target.…}` stands for.
    pub target: Platform,
}

impl Slot {
    /// Returns the slot of an ordinary image for `platform`.
    pub fn of(platform: &Platform) -> Self {
        Self {
            platform: platform.clone(),
            target: platform.clone(),
        }
    }

    /// Returns whether the target is another machine than the one that its programs run on.
    pub fn is_cross(&self) -> bool {
        self.platform != self.target
    }
}

/// An image, built for something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageKey {
    /// Which image.
    pub image: ImageName,
    /// What for.
    pub slot: Slot,
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.image, self.slot.target)
    }
}

/// What targets are built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformRequest {
    /// The machine that builds.
    pub host: Platform,
    /// Which platforms.
    pub choice: PlatformChoice,
}

/// Which platforms are built for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformChoice {
    /// Those that the manifest names for each image, else the host.
    Declared,
    /// These, whatever the manifest says, for the names of targets to stand for.
    Exactly(Vec<Platform>),
    /// This one, to run it or to look at it: the names of images stay those of what the manifest says.
    Once(Platform),
}

impl PlatformRequest {
    /// Returns the wish for what the manifest says.
    pub fn declared(host: Platform) -> Self {
        Self {
            host,
            choice: PlatformChoice::Declared,
        }
    }

    /// Returns what a target is built for.
    pub(crate) fn platforms(&self, manifest: &BuildManifest, image: &ImageName) -> Vec<Platform> {
        match &self.choice {
            PlatformChoice::Declared => self.declared_of(manifest, image),
            PlatformChoice::Exactly(platforms) => platforms.clone(),
            PlatformChoice::Once(platform) => vec![platform.clone()],
        }
    }

    /// Returns what the name of an image stands for. `is_target` says whether it was asked for.
    pub(crate) fn named(
        &self,
        manifest: &BuildManifest,
        image: &ImageName,
        is_target: bool,
    ) -> Vec<Platform> {
        match &self.choice {
            // The name of an image for the host stands for what it makes for the host.
            PlatformChoice::Exactly(platforms)
                if is_target && *platforms_of(manifest, image) != Platforms::Host =>
            {
                platforms.clone()
            }
            PlatformChoice::Declared | PlatformChoice::Exactly(_) | PlatformChoice::Once(_) => {
                self.declared_of(manifest, image)
            }
        }
    }

    fn declared_of(&self, manifest: &BuildManifest, image: &ImageName) -> Vec<Platform> {
        match platforms_of(manifest, image) {
            Platforms::Unsaid | Platforms::Host => vec![self.host.clone()],
            listed @ Platforms::Listed(_) => listed.listed().cloned().collect(),
        }
    }

    /// Returns the slot of `image` where what uses it, or the request, has the slot `user`.
    pub(crate) fn slot(&self, manifest: &BuildManifest, image: &ImageName, user: &Slot) -> Slot {
        match platforms_of(manifest, image) {
            Platforms::Host => Slot {
                platform: self.host.clone(),
                target: user.target.clone(),
            },
            Platforms::Unsaid | Platforms::Listed(_) => Slot::of(&user.platform),
        }
    }
}

/// Returns what the manifest says of an image.
pub(crate) fn platforms_of<'a>(manifest: &'a BuildManifest, image: &ImageName) -> &'a Platforms {
    match image {
        ImageName::Image(name) => &manifest.images[name].platforms,
        ImageName::Service(_) => &Platforms::Unsaid,
    }
}

#[cfg(test)]
mod tests;
