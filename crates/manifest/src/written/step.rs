//! `[image.*.step.*]`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::{
    Decimal, Decode, Decoder, Flag, Integer, List, Map, OneKey, OrString, Required, table,
};
use crate::model::Destination;
use crate::problem::Problem;
use crate::span::Spanned;
use crate::tree::{Node, Value};
use crate::value::{
    AccountName, ByteSize, ContainerPath, EnvName, FilePattern, GitReference, GitUrl, ID_LIMIT,
    LinkTarget, Mode, Name, PackageName, ProjectPath, Sha256, SourceName, Text, TimeSpan, Url,
    UserSpec,
};
use crate::written::Texts;

table! {
    /// A step: exactly one action, and what it needs. It sees the image's base and the
    /// layers of the steps it needs, and nothing else.
    #[schemars(extend(
        "oneOf" = [
            {"required": ["run"]}, {"required": ["copy"]}, {"required": ["packages"]},
            {"required": ["fetch"]}, {"required": ["git"]}, {"required": ["write"]},
            {"required": ["remove"]}, {"required": ["mkdir"]}, {"required": ["link"]},
            {"required": ["account"]}
        ],
        "dependencies" = {
            "files": ["run", "workdir"], "base": ["files"], "workdir": ["run"], "env": ["run"], "user": ["run"],
            "network": ["run"], "caches": ["run"], "secrets": ["run"], "ssh": ["run"],
            "limits": ["run"], "timeout": ["run"]
        }
    ))]
    Step as "a step" {
        /// Steps of the same image whose results this one sees.
        needs: Option<List<Spanned<Text>>>,
        /// Action: runs a shell script (a string, by `/bin/sh -e -c`) or a command (a list of
        /// arguments). What it changes becomes the step's layer.
        run: Option<Command>,
        /// For `run`: patterns of project files that the step sees, as a writable copy in
        /// `workdir` that belongs to `user`. The whole `workdir` is thrown away afterwards.
        files: Option<List<Spanned<FilePattern>>>,
        /// For `run`: the folder of the project that `files` are relative to. Default: the
        /// manifest's folder.
        base: Option<Spanned<ProjectPath>>,
        /// For `run`: the working directory. Default: `/`.
        workdir: Option<Spanned<ContainerPath>>,
        /// For `run`: environment variables.
        env: Option<Map<EnvName, Spanned<Text>>>,
        /// For `run`: the user, and maybe the group, by name or number. Default: `0:0`.
        user: Option<Spanned<UserSpec>>,
        /// For `run`: whether the step has a network. Default: `false`.
        network: Option<Flag>,
        /// For `run`: caches, each with the folder it appears at, which every user may write to. They
        /// are declared as `[cache.NAME]`.
        caches: Option<Map<Name, Spanned<ContainerPath>>>,
        /// For `run`: secrets the step sees. They are declared as `[secret.NAME]`.
        secrets: Option<List<OrString<SecretUse>>>,
        /// For `run`: whether the ssh agent of the person who runs kiln can be reached, by any user of the step.
        /// Default: `false`.
        ssh: Option<Flag>,
        /// For `run`: limits of what the step uses. They never change the result's cache key.
        limits: Option<Limits>,
        /// For `run`: the time after which the step is stopped and fails, such as `10m`.
        timeout: Option<Spanned<TimeSpan>>,
        /// Action: copies project files, or paths of other images and steps.
        copy: Option<List<Copy>>,
        /// Action: installs Debian packages, with all they depend on.
        packages: Option<List<Spanned<PackageName>>>,
        /// Action: downloads a file.
        fetch: Option<Fetch>,
        /// Action: checks out a git repository.
        git: Option<Git>,
        /// Action: writes files, by absolute path: a text, or a table.
        write: Option<Map<ContainerPath, OrString<TextFile>>>,
        /// Action: removes absolute paths, with all below them.
        remove: Option<List<Spanned<ContainerPath>>>,
        /// Action: makes folders, each an absolute path or a table, and their missing parents.
        mkdir: Option<List<OrString<Folder>>>,
        /// Action: makes symbolic links: what each absolute path points at.
        link: Option<Map<ContainerPath, Spanned<LinkTarget>>>,
        /// Action: adds a user and its group.
        account: Option<Account>,
    }
    later {
        "shell" => "write the command as a list: `run = [\"bash\", \"-c\", \"…\"]`",
        "platform" => "remove it: images are built for the machine's own platform",
    }
}

/// A shell script or a list of arguments.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Script(Spanned<String>),
    Arguments(Texts),
}

impl Decode for Command {
    const EXPECTED: &'static str = "a string (a shell script) or a list (a command)";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let empty = match &node.value {
            Value::String(text) => text.trim().is_empty(),
            Value::Array(nodes) => nodes.is_empty(),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Table(_) => {
                decoder.wrong_type(node, Self::EXPECTED);
                return None;
            }
        };
        if empty {
            decoder.problems.push(Problem::Empty {
                what: "`run`".to_owned(),
                at: node.span.into(),
                help: "write a command, or remove it".to_owned(),
            });
            return None;
        }
        if let Value::Array(_) = &node.value {
            let items = Texts::decode(node, decoder)?;
            if let Some(first) = items.items.first().filter(|first| first.0.is_empty()) {
                decoder.invalid("", "is not a program", first.span, "write its name or path");
                return None;
            }
            return Some(Self::Arguments(items));
        }
        let script = Spanned::<Text>::decode(node, decoder)?;
        Some(Self::Script(script.map(|script| script.0)))
    }
}

impl JsonSchema for Command {
    fn schema_name() -> Cow<'static, str> {
        "Command".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = generator.subschema_for::<Spanned<Text>>();
        json_schema!({
            "description": "A shell script, or a list of a program and its arguments.",
            "anyOf": [
                { "type": "string", "pattern": r"\S" },
                { "type": "array", "minItems": 1, "items": text },
            ]
        })
    }
}

table! {
    /// A secret that a step or service sees. A plain string is its name.
    SecretUse as "a use of a secret" {
        /// Name of the secret, declared as `[secret.NAME]`.
        secret: Spanned<Name>,
        /// The environment variable that holds it.
        env: Option<Spanned<EnvName>>,
        /// The file that holds it. Default, if there is no `env`: `/run/secrets/NAME`.
        file: Option<Spanned<ContainerPath>>,
    }
}

impl OneKey for SecretUse {
    const KEY: &'static str = "secret";
    const STRING_OR_TABLE: &'static str = "a string, or a table (a use of a secret)";
    type Value = Spanned<Name>;
}

table! {
    /// Limits of what a process and its children use. One that cannot be enforced, on this machine or by this user, is left out
    /// with a warning.
    Limits as "`limits`" {
        /// Memory, such as `512MB`.
        memory: Option<Spanned<ByteSize>>,
        /// Processors' worth of time, such as `1.5`.
        cpus: Option<Decimal>,
        /// Number of processes and threads.
        pids: Option<Integer<1, 4_194_304>>,
    }
    later {
        "io" => "remove it: only `memory`, `cpus` and `pids` are limited",
        "swap" => "remove it: `memory` is without swap",
    }
}

table! {
    /// One thing to copy: either `from` with `path`, or `files`.
    #[schemars(extend(
        "oneOf" = [{"required": ["from"]}, {"required": ["files"]}],
        "dependencies" = { "from": ["path"], "path": ["from"], "base": ["files"] }
    ))]
    Copy as "an entry of `copy`" {
        /// Where `path` is: `image.step`, a step beside this one, or an image.
        from: Option<Spanned<SourceName>>,
        /// The file or folder to copy, an absolute path in `from`; a link is followed.
        path: Option<Spanned<ContainerPath>>,
        /// Patterns of project files to copy, relative to `base`. Each file keeps that path below `to`.
        files: Option<List<Spanned<FilePattern>>>,
        /// The folder of the project that `files` are relative to. Default: the manifest's folder.
        base: Option<Spanned<ProjectPath>>,
        /// Where it goes. With `files` a folder. With `from` the new path itself, or, if it ends
        /// with `/`, the folder to put it into.
        to: Required<Spanned<Destination>>,
        /// Mode of the files, such as `0644`; folders may also be searched by whoever may read
        /// them. Default: as in the source (for project files `0644`, or `0755` if executable).
        mode: Option<Spanned<Mode>>,
        /// Owner of all that is copied. Default: `0:0` for project files, else as in the source.
        owner: Option<Spanned<UserSpec>>,
    }
}

table! {
    /// A download. Its SHA-256 is pinned in `kiln.lock`.
    #[schemars(extend("dependencies" = { "strip": ["unpack"] }))]
    Fetch as "`fetch`" {
        /// What to download, by `https` or `http`.
        url: Spanned<Url>,
        /// Where it goes: the new file, or, if it ends with `/`, the folder to put it into. With
        /// `unpack` the folder that gets the archive's contents.
        to: Spanned<Destination>,
        /// Whether it is an archive to unpack: a tar, plain or compressed with gzip, zstd or xz. Default: `false`.
        unpack: Option<Flag>,
        /// With `unpack`: how many leading parts of each path in the archive are taken off.
        /// Default: `0`.
        strip: Option<Integer<0, 64>>,
        /// What the download must be, 64 hex digits. Default: what `kiln.lock` says.
        sha256: Option<Spanned<Sha256>>,
        /// Mode of the file. Default: `0644`; with `unpack` as in the archive.
        mode: Option<Spanned<Mode>>,
        /// Owner of all of it. Default: `0:0`.
        owner: Option<Spanned<UserSpec>>,
    }
}

table! {
    /// A git repository, without its submodules. Its commit is pinned in `kiln.lock`.
    Git as "`git`" {
        /// The repository, by `https` or `ssh`.
        url: Spanned<GitUrl>,
        /// A branch, tag or commit. Default: the repository's own default branch.
        r#ref: Option<Spanned<GitReference>>,
        /// The folder that gets the files, without `.git`.
        to: Spanned<ContainerPath>,
        /// Owner of all of it. Default: `0:0`.
        owner: Option<Spanned<UserSpec>>,
    }
    later {
        "submodules" => "fetch each submodule by a `git` step of its own",
    }
}

table! {
    /// A file with its content. A plain string is its text.
    TextFile as "a file of `write`" {
        /// The content.
        text: Spanned<Text>,
        /// Its mode. Default: `0644`.
        mode: Option<Spanned<Mode>>,
        /// Its owner. Default: `0:0`.
        owner: Option<Spanned<UserSpec>>,
    }
}

impl OneKey for TextFile {
    const KEY: &'static str = "text";
    const STRING_OR_TABLE: &'static str = "a string, or a table (a file of `write`)";
    type Value = Spanned<Text>;
}

table! {
    /// A folder to make. A plain string is its path.
    Folder as "a folder of `mkdir`" {
        /// An absolute path.
        path: Spanned<ContainerPath>,
        /// Its mode. Default: `0755`. Missing parents always have `0755`.
        mode: Option<Spanned<Mode>>,
        /// Its owner. Default: `0:0`. Missing parents always belong to `0:0`.
        owner: Option<Spanned<UserSpec>>,
    }
}

impl OneKey for Folder {
    const KEY: &'static str = "path";
    const STRING_OR_TABLE: &'static str = "a string, or a table (a folder of `mkdir`)";
    type Value = Spanned<ContainerPath>;
}

table! {
    /// A user with a group of the same name. Whatever names it as `owner` or `user` in
    /// the same image needs this step without saying so.
    Account as "`account`" {
        /// Name of the user and of its group.
        name: Spanned<AccountName>,
        /// Number of the user.
        uid: Integer<1, ID_LIMIT>,
        /// Number of the group. Default: the same as `uid`.
        gid: Option<Integer<1, ID_LIMIT>>,
        /// Home folder, made if it is not there. Default: `/home/NAME`.
        home: Option<Spanned<ContainerPath>>,
        /// Login shell. Default: `/usr/sbin/nologin`.
        shell: Option<Spanned<ContainerPath>>,
        /// Further groups it belongs to, which must be there already.
        groups: Option<List<Spanned<AccountName>>>,
    }
}
