//! Everything that decides what a node produces, and nothing else.
//!
//! Knows nothing of caches or disks: a [`Resolver`] says what the file alone cannot (digests of files,
//! pins of the lock, layers already made). [`StepInputs::describe`] names each covered field once, and
//! both the key and its explanation come from that walk.
//!
//! | input | in the key | why |
//! | --- | --- | --- |
//! | format versions of inputs and layers | yes | the same inputs would give other bytes |
//! | platform | yes | other programs |
//! | the target of an image for the host | where it is used | as part of whatever uses it |
//! | epoch | yes | times in the layer are clamped to it |
//! | layers the step sees, by content, in order | yes | by content, so that an equal layer of a re-run step stops the re-runs |
//! | action, and its argument list or fields | yes | |
//! | environment, as the process sees it | yes | the base config's variables included |
//! | user (whose its `files` are), workdir, network yes or no, ssh agent yes or no | yes | |
//! | `files`: names, contents, executable bits, link targets | yes | as one digest of the listing |
//! | pins of the lock: packages, sha256 of a URL, git commit | yes | |
//! | contents that a `copy` reads from other steps | yes | by their layers |
//! | caches: names and paths | yes | an absent folder is a difference; another cache has other content |
//! | secrets: names and where they are seen | yes | the command can tell |
//! | values of secrets | no | they must not leave a trace; change something else to re-run |
//! | contents of caches | no | a cache may be emptied at any time, so no result may depend on it |
//! | names of steps and images, order of tables, patterns of `files` | no | they change no byte |
//! | URLs whose content is pinned, mirrors | no | the pin decides; only a file name taken from a URL counts |
//! | limits, timeout, jobs | no | they can make a step fail, not change its result |
//! | times, owners and other mode bits of project files | no | they do not travel with a checkout |

use std::collections::BTreeMap;

use kiln_manifest::model::{Fetch, FileSet, Git, ProducedBy, Step};
use kiln_oci::{DiffId, Digest, Platform};

mod action;
mod base;
mod run;

use self::action::ActionInputs;
pub use self::action::url_file_name;
pub use self::base::{BaseInputs, PackagePin};
use crate::sink::{CacheKey, Hasher, Sink, Text};
use crate::tree::TreeDigest;

/// Version of the description itself. Changing it, or what [`StepInputs::describe`] says of an unchanged
/// manifest, makes every cached step run again.
pub const FORMAT_VERSION: u32 = 1;

/// What the manifest alone does not say about a step. Implemented by the builder, which has the disk,
/// the lock and the layers made so far; each method is called only for what the step uses.
pub trait Resolver {
    /// What goes wrong while finding out.
    type Error;

    /// Returns the project files that `files` selects, by the digest of their listing.
    ///
    /// # Errors
    /// When a pattern matches nothing, or a file cannot be read.
    fn files(&mut self, files: &FileSet) -> Result<TreeDigest, Self::Error>;

    /// Returns the layers of the tree that `from` names, lowest first.
    ///
    /// # Errors
    /// When they are not known.
    fn produced(&mut self, from: &ProducedBy) -> Result<Vec<DiffId>, Self::Error>;

    /// Returns the pins of everything that installing `packages` installs.
    ///
    /// # Errors
    /// When the lock has none and they cannot be resolved.
    fn packages(&mut self, packages: &[String]) -> Result<Vec<PackagePin>, Self::Error>;

    /// Returns the digest of what `fetch` downloads: from the manifest, else from the lock.
    ///
    /// # Errors
    /// When there is none and it cannot be resolved.
    fn download(&mut self, fetch: &Fetch) -> Result<Digest, Self::Error>;

    /// Returns the commit that `git` checks out, in hex digits.
    ///
    /// # Errors
    /// When the lock has none and it cannot be resolved.
    fn commit(&mut self, git: &Git) -> Result<String, Self::Error>;

    /// Returns the environment a process of the step starts from: the base config's, with defaults.
    ///
    /// # Errors
    /// When the base's config is not known.
    fn environment(&mut self) -> Result<BTreeMap<String, String>, Self::Error>;
}

/// What is the same for every node of one build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInputs {
    /// Times in layers are clamped to this, in seconds since 1970.
    pub epoch_seconds: i64,
    /// Version of the layer format, from the crate that writes layers.
    pub layer_format: u32,
}

/// Everything that decides what a node produces. A field not listed here does not cause a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInputs {
    build: BuildInputs,
    platform: Platform,
    layers: Vec<DiffId>,
    action: ActionInputs,
}

impl StepInputs {
    /// Resolves the inputs of `step`, which runs on `platform` and sees `layers`, lowest first.
    ///
    /// # Errors
    /// The first error of `resolver`.
    pub fn of_step<R: Resolver>(
        build: &BuildInputs,
        platform: &Platform,
        layers: Vec<DiffId>,
        step: &Step,
        resolver: &mut R,
    ) -> Result<Self, R::Error> {
        // `layers` is what the edges amount to; the names themselves decide nothing.
        let Step {
            name: _,
            span: _,
            needs: _,
            account_steps: _,
            action,
            // What it uses of the target is in its action.
            uses_target: _,
        } = step;
        let action = ActionInputs::of(&action.value, resolver)?;
        Ok(Self {
            build: build.clone(),
            platform: platform.clone(),
            layers,
            action,
        })
    }

    /// Returns the inputs of a base for `platform`.
    pub fn of_base(build: &BuildInputs, platform: &Platform, base: BaseInputs) -> Self {
        Self {
            build: build.clone(),
            platform: platform.clone(),
            layers: Vec::new(),
            action: ActionInputs::Base(base),
        }
    }

    /// Returns the key of these inputs.
    pub fn key(&self) -> CacheKey {
        let mut hasher = Hasher::new();
        self.describe(&mut hasher);
        hasher.finish()
    }

    /// Returns the text that a record keeps, for [`crate::first_difference`].
    pub fn text(&self) -> String {
        let mut text = Text::new();
        self.describe(&mut text);
        text.finish()
    }

    /// Names every covered field once.
    pub fn describe(&self, sink: &mut impl Sink) {
        // No `..` here or below: a new field does not compile until it is covered.
        let Self {
            build:
                BuildInputs {
                    epoch_seconds,
                    layer_format,
                },
            platform,
            layers,
            action,
        } = self;
        sink.field("format", number(FORMAT_VERSION).as_bytes());
        sink.field("layer-format", number(*layer_format).as_bytes());
        describe_platform(platform, sink);
        sink.field("epoch", epoch_seconds.to_string().as_bytes());
        action.describe(sink);
        for (at, layer) in layers.iter().enumerate() {
            sink.item("layer", number(at).as_bytes(), layer.to_string().as_bytes());
        }
    }
}

fn describe_platform(platform: &Platform, sink: &mut impl Sink) {
    let Platform {
        os,
        architecture,
        variant,
        os_version,
        os_features,
    } = platform;
    let parts: Vec<&str> = [os, architecture]
        .into_iter()
        .chain(variant)
        .map(String::as_str)
        .collect();
    sink.field("platform", parts.join("/").as_bytes());
    if let Some(version) = os_version {
        sink.field("os-version", version.as_bytes());
    }
    for feature in os_features {
        sink.field("os-feature", feature.as_bytes());
    }
}

fn yes_or_no(value: bool) -> &'static [u8] {
    if value { b"yes" } else { b"no" }
}

fn number(value: impl std::fmt::Display) -> String {
    value.to_string()
}

/// Returns what a field of the text is called in a message.
pub(crate) fn field_title(field: &str) -> &str {
    match field {
        "format" => "the format of cache records",
        "layer-format" => "the format of layers",
        "epoch" => "the time that files are clamped to",
        "argv" => "argument",
        "env" => "environment variable",
        "ssh" => "access to the ssh agent",
        "network" => "access to the network",
        "files" => "the project files of the step",
        "copy.files" => "the project files of copy entry",
        "copy.path" => "the path of copy entry",
        "copy.layer" => "a layer read by copy entry",
        "copy.to" => "the destination of copy entry",
        "package" => "package",
        "pin" => "locked package",
        "sha256" => "the locked sha256",
        "fetch.name" => "the file name in the url",
        "commit" => "the locked commit",
        "write" => "the text of",
        "remove" => "a removed path",
        "mkdir" => "a folder",
        "link" => "the target of link",
        "mode" => "the mode of",
        "owner" => "the owner of",
        "rootfs" => "the root file system's archive",
        "manifest" => "the base image",
        "layer" => "the layer at position",
        other => other,
    }
}

#[cfg(test)]
mod tests;
