//! What the JSON Schema and the reference say about each kind of value.
//!
//! Patterns are approximations of the parsers: they never refuse what a parser takes.

use std::borrow::Cow;

use kiln_oci::Reference;
use schemars::{JsonSchema, Schema as JsonSchemaValue, SchemaGenerator, json_schema};

use crate::decode::{Decode, Decoder, Scalar};
use crate::model::{Destination, Network, Port, Transport};
use crate::problem::Problem;
use crate::tree::{Node, Value};
use crate::value::{
    self, AccountName, ArchiveWord, ByteSize, ContainerPath, EnvName, FilePattern, GitReference,
    GitUrl, HostAddress, HostName, LabelName, LinkTarget, Mode, Name, PackageName, PlatformWord,
    ProjectPath, Sha256, Signal, SnapshotTime, SourceName, Text, TimeSpan, Url, UserSpec,
    ValueError,
};
use crate::written::Schema;

/// Declares how a checked value is written: type, parser, name, words, pattern.
macro_rules! scalars {
    ($( $type:ty = $parse:path, $name:literal, $what:literal, $pattern:expr, $about:literal; )*) => {
        $(
            impl Scalar for $type {
                const WHAT: &'static str = $what;
                const NAME: &'static str = $name;
                const ABOUT: &'static str = $about;
                const PATTERN: Option<&'static str> = $pattern;

                fn parse(text: &str) -> Result<Self, ValueError> {
                    $parse(text)
                }
            }
        )*
    };
}

scalars! {
    Text = Text::parse, "Text", "a string", None,
        "Any text without a NUL character.";
    Name = Name::parse, "Name", "a string (a name)", Some("^[a-z0-9][a-z0-9_-]{0,62}$"),
        "A name: `a`-`z`, `0`-`9`, `_` and `-`, beginning with a letter or digit, at most 63 characters.";
    EnvName = EnvName::parse, "EnvName", "a string (an environment variable)", Some(r"^[^=\s]+$"),
        "The name of an environment variable.";
    LabelName = LabelName::parse, "LabelName", "a string (a label)", Some("^.+$"),
        "The name of a label.";
    ContainerPath = ContainerPath::parse, "ContainerPath", "a string (an absolute path)", Some("^/"),
        "An absolute path in the container, without `..`.";
    Destination = Destination::parse, "Destination", "a string (an absolute path)", Some("^/"),
        "An absolute path in the container, without `..`. With a trailing `/`, the folder to put something into.";
    ProjectPath = ProjectPath::parse, "ProjectPath", "a string (a path of the project)", Some("^[^/~]"),
        "A path relative to the manifest's folder, without `..`.";
    FilePattern = FilePattern::parse, "FilePattern", "a string (a pattern)", Some("^[^/]"),
        "A pattern for project files: `*` and `?` within one part of a path, `**` across parts, `[a-z]`, `{a,b}`. What matches a folder takes all below it. With a leading `!`, what it matches is left out, wherever it stands in the list. `.git`, `kiln.toml` and `kiln.lock` are taken only by a pattern that spells them out.";
    Mode = Mode::parse, "Mode", "a string (a mode)", Some("^0?[0-7]{3,4}$"),
        "Permissions as octal digits, such as `0755`.";
    UserSpec = UserSpec::parse, "User", "a string (a user)", Some("^[A-Za-z0-9_][A-Za-z0-9_.$-]*(:[A-Za-z0-9_][A-Za-z0-9_.$-]*)?$"),
        "A user by name or number, and maybe `:` and a group: `app`, `10001`, `app:staff`.";
    AccountName = AccountName::parse, "AccountName", "a string (the name of an account)", Some(r"^[A-Za-z_][A-Za-z0-9_.-]*\$?$"),
        "The name of a user or a group.";
    SourceName = SourceName::parse, "SourceName", "a string (an image or a step)", Some(r"^[a-z0-9][a-z0-9_-]*(\.[a-z0-9][a-z0-9_-]*)?$"),
        "`image.step`, a step of the same image, or an image.";
    LinkTarget = LinkTarget::parse, "LinkTarget", "a string (a path)", Some("^.+$"),
        "What a link points at: a path, absolute or relative to the link's folder.";
    Signal = Signal::parse, "Signal", "a string (a signal)", Some(r"^([A-Za-z]+[0-9]?|[0-9]+|(SIG)?RTMIN\+[0-9]+|(sig)?rtmin\+[0-9]+)$"),
        "A signal, such as `SIGTERM`.";
    Port = Port::parse, "Port", "a string (a port)", Some("^[0-9]{1,5}(/(tcp|udp|sctp))?$"),
        "A port, and maybe its protocol: `8000`, `53/udp`.";
    Network = Network::parse, "Network", "a string (a network)", Some("^(none|host|bridge)$"),
        "`none`, `host` or `bridge`.";
    Transport = Transport::parse, "Transport", "a string (a protocol)", Some("^(tcp|udp)$"),
        "`tcp` or `udp`.";
    HostAddress = HostAddress::parse, "Address", "a string (an address)", Some("^[0-9A-Fa-f.:]+$"),
        "An address of IPv4 or IPv6, such as `127.0.0.1`.";
    HostName = HostName::parse, "HostName", "a string (a host name)", Some("^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$"),
        "A host name: letters, digits, `-` and `.`.";
    ByteSize = ByteSize::parse, "Size", "a string (a size with its unit)", Some("^[0-9]+([.][0-9]+)? *([kKMGT]?B|[KMGT]iB)$"),
        "A size with its unit: `64MB` (decimal: B, kB, MB, GB, TB) or `64MiB` (binary: KiB, MiB, GiB, TiB).";
    TimeSpan = TimeSpan::parse, "TimeSpan", "a string (a length of time with its unit)", Some("^([0-9]+([.][0-9]+)?(ms|s|m|h|d))+$"),
        "A length of time with its unit: `500ms`, `30s`, `10m`, `1h30m`, `2d`.";
    Url = Url::parse, "Url", "a string (a URL)", Some("^https?://"),
        "An `https` or `http` URL, without credentials.";
    GitUrl = GitUrl::parse, "GitUrl", "a string (the URL of a git repository)", Some("^(https?://|ssh://|[^/]+@[^/]+:)"),
        "The URL of a git repository: `https://…`, `ssh://…` or `git@host:path`.";
    GitReference = GitReference::parse, "GitReference", "a string (a branch, tag or commit)", Some("^[^-/. ][^ ]*$"),
        "A branch, tag or commit.";
    Sha256 = Sha256::parse, "Sha256", "a string (a SHA-256)", Some("^[0-9a-f]{64}$"),
        "A SHA-256 as 64 lower-case hex digits.";
    PackageName = PackageName::parse, "PackageName", "a string (the name of a package)", Some("^[a-z0-9][a-z0-9+.-]+$"),
        "The name of a Debian package.";
    ArchiveWord = ArchiveWord::parse, "ArchiveWord", "a string", Some("^[a-z0-9][a-z0-9.-]*$"),
        "A part of a Debian archive: a suite such as `bookworm`, or a component such as `main`.";
    SnapshotTime = SnapshotTime::parse, "SnapshotTime", "a string (the time of a snapshot)", Some("^[0-9]{8}T[0-9]{6}Z$"),
        "The time of a snapshot, such as `20250131T120000Z`.";
    PlatformWord = PlatformWord::parse, "Platform", "a string (a platform)", Some("^(host|[Ll]inux/[A-Za-z0-9_-]+(/[A-Za-z0-9._-]+)?)$"),
        "A platform, `linux/ARCHITECTURE` or `linux/ARCHITECTURE/VARIANT`, such as `linux/arm64`; or `host`, the machine that builds.";
    Reference = value::reference, "ImageReference", "a string (an image reference)", Some(r"^\S+$"),
        "An image reference, such as `docker.io/library/debian:12-slim`; `debian` is short for `docker.io/library/debian:latest`.";
}

impl Decode for Schema {
    const EXPECTED: &'static str = "`1`";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match node.value {
            Value::Integer(Some(1)) => Some(Self),
            Value::Integer(_) => {
                decoder.problems.push(Problem::UnknownSchema {
                    found: decoder.source[node.span.start..node.span.end].to_owned(),
                    at: node.span.into(),
                });
                None
            }
            Value::String(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_)
            | Value::Table(_) => {
                decoder.wrong_type(node, Self::EXPECTED);
                None
            }
        }
    }
}

impl JsonSchema for Schema {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Schema".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> JsonSchemaValue {
        json_schema!({ "const": 1 })
    }
}
