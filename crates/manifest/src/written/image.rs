//! `[image.*]`.

use std::borrow::Cow;

use kiln_oci::Reference;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::{Decode, Decoder, List, Map, OneKey, OrString, Required, table};
use crate::model::Port;
use crate::span::{Span, Spanned};
use crate::tree::{Node, Value};
use crate::value::{
    ArchiveWord, ContainerPath, EnvName, LabelName, Name, PackageName, PlatformWord, ProjectPath,
    Signal, SnapshotTime, Text, Url, UserSpec,
};
use crate::written::{Step, Texts};

table! {
    /// An image: what it starts from, the steps that add to it, and its configuration.
    Image as "an image" {
        /// What the image starts from.
        from: Required<From>,
        /// Steps, by name. The image is its base with the layers of all of them.
        step: Option<Map<Name, Step>>,
        /// The image's configuration.
        config: Option<Config>,
        /// References the image is also stored under, beside `localhost/PROJECT/IMAGE:latest`.
        tags: Option<List<Spanned<Reference>>>,
        /// What it is built for, such as `["linux/amd64", "linux/arm64"]`; several make an image
        /// index. An image that starts from or copies from another one gets that one for its own platform,
        /// whatever that one's list says. `["host"]` is always the machine that builds: a toolchain,
        /// whose target is that of the image that copies from it. Default: the machine that builds.
        /// In `from`, steps and `config`, the target is `${target.platform}` (such as `linux/arm64`),
        /// `${target.arch}` (`arm64`), `${target.variant}` (`v7`, or nothing) and `${target.machine}`
        /// (`aarch64`, as `uname -m` has it).
        platforms: Option<List<Spanned<PlatformWord>>>,
    }
}

/// `from`: `"scratch"` or a table.
#[derive(Clone, Debug)]
pub(crate) struct From {
    pub(crate) span: Span,
    pub(crate) base: WrittenBase,
}

#[derive(Clone, Debug)]
pub(crate) enum WrittenBase {
    Scratch,
    Table(Box<Base>),
}

table! {
    /// What an image starts from: exactly one of these keys.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
    Base as "`from`" {
        /// An image of a registry, such as `docker.io/library/debian:12-slim`. Its digest
        /// is pinned in `kiln.lock`.
        registry: Option<Spanned<Reference>>,
        /// Another image of this file: its layers and its configuration.
        image: Option<Spanned<Name>>,
        /// Debian packages: a suite, or a table. Their versions are pinned in `kiln.lock`.
        debian: Option<OrString<Debian>>,
        /// An image in an OCI layout of the project, a folder or an archive: its path, or a table.
        oci: Option<OrString<Oci>>,
        /// A tar of the project that holds a root file system, plain or compressed.
        rootfs: Option<Spanned<ProjectPath>>,
    }
}

table! {
    /// A root file system from Debian packages. A plain string is its suite.
    Debian as "`debian`" {
        /// Suite or code name, such as `bookworm`.
        suite: Spanned<ArchiveWord>,
        /// Packages beside those that every Debian system has.
        packages: Option<List<Spanned<PackageName>>>,
        /// Archive areas. Default: `["main"]`.
        components: Option<List<Spanned<ArchiveWord>>>,
        /// URL of the archive, the folder that has `dists` and `pool`. Default: the mirror of
        /// the user's settings, else of the machine's own package sources, else the public
        /// snapshot archive.
        mirror: Option<Spanned<Url>>,
        /// Time of the archive's snapshot to take packages from, such as `20250131T120000Z`.
        /// Default: the newest when `kiln.lock` is written.
        snapshot: Option<Spanned<SnapshotTime>>,
    }
}

impl OneKey for Debian {
    const KEY: &'static str = "suite";
    const STRING_OR_TABLE: &'static str = "a string, or a table (`debian`)";
    type Value = Spanned<ArchiveWord>;
}

table! {
    /// An image in an OCI layout. A plain string is its path.
    Oci as "`oci`" {
        /// The layout: a folder, or an archive of one.
        path: Spanned<ProjectPath>,
        /// Which image of the layout, by its reference name. Needed if it has several.
        tag: Option<Spanned<Text>>,
    }
}

impl OneKey for Oci {
    const KEY: &'static str = "path";
    const STRING_OR_TABLE: &'static str = "a string, or a table (`oci`)";
    type Value = Spanned<ProjectPath>;
}

table! {
    /// The image's configuration. What is not given is inherited from the base; `env`,
    /// `expose`, `labels` and `volumes` are added to those of the base. Giving
    /// `entrypoint` clears the base's `cmd`.
    Config as "`config`" {
        /// The user, and maybe the group, that the process runs as, by name or number.
        user: Option<Spanned<UserSpec>>,
        /// The process's working directory.
        workdir: Option<Spanned<ContainerPath>>,
        /// Environment variables.
        env: Option<Map<EnvName, Spanned<Text>>>,
        /// Start of the command line.
        entrypoint: Option<Texts>,
        /// Rest of the command line; what is given to `kiln run` replaces it.
        cmd: Option<Texts>,
        /// Ports the process listens on, such as `8000` or `53/udp`.
        expose: Option<List<Spanned<Port>>>,
        /// Labels.
        labels: Option<Map<LabelName, Spanned<Text>>>,
        /// Paths that hold data and want a volume.
        volumes: Option<List<Spanned<ContainerPath>>>,
        /// The signal that asks the process to stop. Default: `SIGTERM`.
        stop_signal: Option<Spanned<Signal>>,
    }
    later {
        "healthcheck" => "remove it: containers have no health yet",
    }
}

impl From {
    /// Tells whether a variable of the target is in it.
    pub(crate) fn uses_target(&self) -> bool {
        match &self.base {
            WrittenBase::Scratch => false,
            WrittenBase::Table(table) => !table.at.target_uses.is_empty(),
        }
    }
}

impl Decode for From {
    const EXPECTED: &'static str = "`\"scratch\"` or a table (`from`)";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let span = node.span;
        let Value::String(_) = &node.value else {
            if !matches!(node.value, Value::Table(_)) {
                decoder.wrong_type(node, Self::EXPECTED);
                return None;
            }
            let base = WrittenBase::Table(Box::new(Base::decode(node, decoder)?));
            return Some(Self { span, base });
        };
        let (text, _) = decoder.text(node, Self::EXPECTED)?;
        if text.value == "scratch" {
            let base = WrittenBase::Scratch;
            return Some(Self { span, base });
        }
        decoder.invalid(
            &text,
            "is not a base",
            span,
            format!(
                "write `{{ registry = \"{0}\" }}`, `{{ image = \"{0}\" }}` or `{{ debian = \"{0}\" }}`, or \"scratch\"",
                crate::variables::shorten(&text)
            ),
        );
        None
    }
}

impl JsonSchema for From {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "From".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "scratch" }, generator.subschema_for::<Base>()] })
    }
}
