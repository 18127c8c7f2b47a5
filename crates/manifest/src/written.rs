//! `kiln.toml` as written: one type per table, variables applied, each value checked by itself.
//!
//! What takes two tables to see (names, references, conflicts) is the work of
//! [`crate::check`]. The doc comments here are what the JSON Schema and
//! `docs/manifest.md` say about each key, so they speak to the author of a manifest.

mod image;
mod service;
mod step;
mod value;

use crate::decode::{Flag, Integer, List, Map, OneKey, OrString, Required, table};
use crate::span::Spanned;
use crate::value::{ByteSize, EnvName, Name, ProjectPath};

pub(crate) use image::{Base, Config, Debian, From, Image, Oci, WrittenBase};
pub(crate) use service::{Mount, PublishedPort, Service};
pub(crate) use step::{
    Account, Command, Copy, Fetch, Folder, Git, Limits, SecretUse, Step, TextFile,
};

use crate::value::Text;

table! {
    /// A project: its images, and how they are run.
    Manifest as "the manifest" {
        /// Version of the manifest's format.
        schema: Required<Schema>,
        /// The project itself.
        project: Required<Project>,
        /// Variables. A value is taken from `--set NAME=VALUE`, else from the environment
        /// variable `KILN_ARG_NAME` (upper case, `-` as `_`), else from the default. It is
        /// used as `${arg.NAME}` in string values anywhere else in the file; a literal
        /// `${` is written `$${`.
        args: Option<Map<Name, OrString<Arg>>>,
        /// Images, by name.
        image: Option<Map<Name, Image>>,
        /// Volumes, by name: data that outlives containers.
        volume: Option<Map<Name, Volume>>,
        /// Networks, by name: what services reach each other through.
        network: Option<Map<Name, SharedNetwork>>,
        /// Secrets, by name: values that steps and services may see and that never reach
        /// a layer, a log or a cache key.
        secret: Option<Map<Name, Secret>>,
        /// Caches, by name: folders that are kept between builds and are never part of a layer.
        cache: Option<Map<Name, Cache>>,
        /// Services, by name: how images are run.
        service: Option<Map<Name, Service>>,
    }
    later {
        "registry" => "remove it: settings of registries are not part of a project",
    }
}

/// `schema = 1`.
#[derive(Clone, Debug)]
pub(crate) struct Schema;

table! {
    /// The project itself.
    Project as "`[project]`" {
        /// Name of the project. Its images are stored as `localhost/NAME/IMAGE:latest`.
        name: Required<Spanned<Name>>,
        /// The service or image that a bare `kiln build` or `kiln run` takes.
        /// A name that is both means the service.
        default: Option<Spanned<Name>>,
    }
}

table! {
    /// A variable. A plain string is its default.
    Arg as "an arg" {
        /// The value if none is given. Without it, a value must be given.
        default: Option<Spanned<Text>>,
        /// What it is for, in one line.
        help: Option<Spanned<Text>>,
    }
}

impl OneKey for Arg {
    const KEY: &'static str = "default";
    const STRING_OR_TABLE: &'static str = "a string, or a table (an arg)";
    type Value = Spanned<Text>;
}

table! {
    /// A volume: data that outlives containers. The table is empty for now.
    Volume as "a volume" {}
    later {
        "driver" => "remove it: volumes are folders in kiln's store",
        "size" => "remove it: volumes have no limit yet",
    }
}

table! {
    /// A network: services in it reach each other by name.
    SharedNetwork as "a network" {
        /// Whether it has no way out to other machines. Default: `false`.
        internal: Option<Flag>,
        /// Whether containers get addresses of IPv6 too. Default: `false`.
        ipv6: Option<Flag>,
        /// The most bytes of a packet. Default: that of the machine's way out, at most 1500.
        mtu: Option<Integer<1280, 65535>>,
    }
    later {
        "driver" => "remove it: networks are bridges",
        "external" => "remove it: make the network with `kiln network create` and name it with `kiln run --network`",
        "subnet" => "remove it: kiln chooses free addresses; `kiln network create --subnet` makes a network with others",
    }
}

table! {
    /// A secret: exactly one of `env` and `file` says where its value comes from.
    #[schemars(extend("oneOf" = [{"required": ["env"]}, {"required": ["file"]}]))]
    Secret as "a secret" {
        /// The environment variable of the person who runs kiln that holds the value.
        env: Option<Spanned<EnvName>>,
        /// The file of the project that holds the value. Keep it out of version control.
        file: Option<Spanned<ProjectPath>>,
        /// Whether steps run without it if it is not there. Default: `false`.
        optional: Option<Flag>,
    }
    later {
        "command" => "use `env`, and set the variable with the command before you run kiln",
    }
}

table! {
    /// A cache: a folder that is kept between builds.
    Cache as "a cache" {
        /// The size above which the cache is emptied before the next build. Default: no limit.
        max: Option<Spanned<ByteSize>>,
        /// Whether it travels to other machines with the results of steps (`kiln build --cache`). Default: `false`.
        export: Option<Flag>,
    }
}

/// A list of arguments or other plain texts.
pub(crate) type Texts = List<Spanned<Text>>;

/// A table of the manifest, for the reference.
#[derive(Debug)]
pub(crate) struct TableEntry {
    /// How it is written, or what it is.
    pub(crate) heading: &'static str,
    /// Its definition in the JSON Schema; empty for the whole file.
    pub(crate) definition: &'static str,
    /// What a key that takes it is said to take.
    pub(crate) word: &'static str,
    /// Its keys, in the order they are explained.
    pub(crate) keys: Vec<String>,
}

/// Every table, in the order it is explained.
pub(crate) fn tables() -> Vec<TableEntry> {
    let table = |heading, definition, word, keys| TableEntry {
        heading,
        definition,
        word,
        keys,
    };
    let mut whole = Manifest::keys();
    whole.push("profile".to_owned());
    vec![
        table("The whole file", "", "manifest", whole),
        table("`[project]`", "Project", "project", Project::keys()),
        table("`[args]`", "Arg", "arg", Arg::keys()),
        table("`[image.NAME]`", "Image", "image", Image::keys()),
        table("`from`", "Base", "base", Base::keys()),
        table(
            "`from = { debian = … }`",
            "Debian",
            "`debian`",
            Debian::keys(),
        ),
        table("`from = { oci = … }`", "Oci", "`oci`", Oci::keys()),
        table("`[image.NAME.step.NAME]`", "Step", "step", Step::keys()),
        table("An entry of `copy`", "Copy", "copy", Copy::keys()),
        table("`fetch`", "Fetch", "fetch", Fetch::keys()),
        table("`git`", "Git", "git", Git::keys()),
        table("A file of `write`", "TextFile", "file", TextFile::keys()),
        table("A folder of `mkdir`", "Folder", "folder", Folder::keys()),
        table("`account`", "Account", "account", Account::keys()),
        table(
            "An entry of `secrets`",
            "SecretUse",
            "use of a secret",
            SecretUse::keys(),
        ),
        table("`limits`", "Limits", "limits", Limits::keys()),
        table("`[image.NAME.config]`", "Config", "config", Config::keys()),
        table("`[volume.NAME]`", "Volume", "volume", Volume::keys()),
        table(
            "`[network.NAME]`",
            "SharedNetwork",
            "network",
            SharedNetwork::keys(),
        ),
        table("`[secret.NAME]`", "Secret", "secret", Secret::keys()),
        table("`[cache.NAME]`", "Cache", "cache", Cache::keys()),
        table("`[service.NAME]`", "Service", "service", Service::keys()),
        table("An entry of `mounts`", "Mount", "mount", Mount::keys()),
        table(
            "An entry of `ports`",
            "PublishedPort",
            "port",
            PublishedPort::keys(),
        ),
        table("`[profile.NAME]`", "Profile", "profile", Vec::new()),
    ]
}
