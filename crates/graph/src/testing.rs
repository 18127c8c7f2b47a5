//! Manifests for tests, from a few words: the graph needs only names, kinds and references.
//!
//! ```text
//! app from scratch                      tool from image app          web from debian bookworm
//! app.a run needs b c                   app.b copy reads tool.x      app.p packages
//! app from scratch on linux/amd64 linux/arm64                        tool from scratch on host
//! tool.x run for-target needs y
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_manifest::model::{
    Account, Action, Base, Command, Config, Copy, CopySource, DebianBase, Destination, Image,
    Limits, Platforms, ProducedBy, Project, Run, Service, ServiceImage, Step,
};
use kiln_manifest::value::{ContainerPath, Name};
use kiln_manifest::{BuildManifest, Span, Spanned};
use kiln_oci::Platform;

use crate::slot::PlatformRequest;

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).expect("a test writes names")
}

pub(crate) fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(value, Span::default())
}

pub(crate) fn path(text: &str) -> ContainerPath {
    ContainerPath::parse(text).expect("a test writes paths")
}

/// A `run` of nothing.
pub(crate) fn empty_run() -> Run {
    Run {
        command: Command::Script(String::new()),
        files: None,
        workdir: None,
        env: BTreeMap::new(),
        user: None,
        network: false,
        caches: BTreeMap::new(),
        secrets: Vec::new(),
        ssh: false,
        limits: Limits::default(),
        timeout: None,
    }
}

/// A step without needs.
pub(crate) fn step_of(action: Action) -> Step {
    Step {
        name: spanned(name("step")),
        span: Span::default(),
        needs: Vec::new(),
        account_steps: Vec::new(),
        action: spanned(action),
        uses_target: false,
    }
}

fn word<'t>(text: &'t str, words: &mut impl Iterator<Item = &'t str>) -> Option<Spanned<&'t str>> {
    let word = words.next()?;
    let start = word.as_ptr().addr() - text.as_ptr().addr();
    Some(Spanned::new(
        word,
        Span {
            start,
            end: start + word.len(),
        },
    ))
}

fn action(kind: &str, reads: &[Spanned<&str>], label: &str) -> Action {
    match kind {
        "run" => {
            let run = Run {
                command: Command::Script(label.to_owned()),
                ..empty_run()
            };
            Action::Run(Box::new(run))
        }
        "packages" => Action::Packages(vec![spanned(label.to_owned())]),
        "account" => Action::Account(Account {
            name: spanned(label.to_owned()),
            uid: 1,
            gid: 1,
            home: path("/"),
            shell: path("/"),
            groups: Vec::new(),
        }),
        "copy" => {
            let copy = |read: &Spanned<&str>| Copy {
                span: read.span,
                source: CopySource::Produced {
                    from: Spanned::new(produced(read.value), read.span),
                    path: spanned(path("/")),
                },
                to: spanned(Destination {
                    path: path("/"),
                    into_folder: false,
                }),
                mode: None,
                owner: None,
            };
            Action::Copy(reads.iter().map(copy).collect())
        }
        other => panic!("unknown kind `{other}`"),
    }
}

pub(crate) fn produced(text: &str) -> ProducedBy {
    match text.split_once('.') {
        None => ProducedBy::Image(name(text)),
        Some((image, step)) => ProducedBy::Step {
            image: name(image),
            step: name(step),
        },
    }
}

/// The machine that builds, in tests.
pub(crate) fn host() -> PlatformRequest {
    PlatformRequest::declared(Platform::new("linux", "amd64", None))
}

/// Makes a manifest; the text itself is its source, so that spans can be looked at.
pub(crate) fn manifest(text: &str) -> BuildManifest {
    let mut images = BTreeMap::new();
    let mut services = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let mut next = || word(text, &mut words);
        let subject = next().expect("a line has words");
        let kind = next().expect("a line has a kind");
        match subject.value.split_once('.') {
            None => {
                let base = next().expect("`from` has a base");
                let from = match base.value {
                    "scratch" => Base::Scratch,
                    "image" => Base::Image(next().expect("an image").map(name)),
                    "debian" => Base::Debian(DebianBase {
                        suite: next().expect("a suite").map(str::to_owned),
                        packages: Vec::new(),
                        components: Vec::new(),
                        mirror: None,
                        snapshot: None,
                    }),
                    other => panic!("unknown base `{other}`"),
                };
                let mut on: Vec<Spanned<&str>> = std::iter::from_fn(&mut next).collect();
                let platforms = match on.first().map(|word| word.value) {
                    None => Platforms::Unsaid,
                    Some("on") if on[1].value == "host" => Platforms::Host,
                    Some("on") => Platforms::Listed(
                        on.drain(1..)
                            .map(|word| word.map(|text| text.parse().expect("a platform")))
                            .collect(),
                    ),
                    Some(other) => panic!("`{other}` behind a base"),
                };
                let image = Image {
                    platforms,
                    base_uses_target: false,
                    config_uses_target: false,
                    name: subject.clone().map(name),
                    from: Spanned::new(from, base.span),
                    steps: BTreeMap::new(),
                    config: Config::default(),
                    tags: Vec::new(),
                };
                if kind.value == "serves" {
                    services.insert(
                        name(subject.value),
                        service(name(subject.value), image.from),
                    );
                } else {
                    images.insert(name(subject.value), image);
                }
            }
            Some((image, step)) => {
                let (mut needs, mut accounts, mut reads) = (Vec::new(), Vec::new(), Vec::new());
                let mut uses_target = false;
                let mut list: Option<&str> = None;
                while let Some(word) = next() {
                    match (word.value, list) {
                        ("for-target", _) => uses_target = true,
                        ("needs" | "reads" | "uses", _) => list = Some(word.value),
                        (_, Some("needs")) => needs.push(word.map(name)),
                        (_, Some("uses")) => accounts.push(word.map(name)),
                        (_, Some("reads")) => reads.push(word),
                        (other, _) => panic!("`{other}` in no list"),
                    }
                }
                let step = Step {
                    name: spanned(name(step)),
                    span: subject.span,
                    needs,
                    account_steps: accounts,
                    action: spanned(action(kind.value, &reads, subject.value)),
                    uses_target,
                };
                let image = images.get_mut(image).expect("the image comes first");
                image.steps.insert(step.name.value.clone(), step);
            }
        }
    }
    BuildManifest {
        warnings: Vec::new(),
        source: Arc::new(miette::NamedSource::new("kiln.toml", text.to_owned())),
        project: Project {
            name: spanned(name("p")),
            default: None,
        },
        args: BTreeMap::new(),
        images,
        targets: BTreeMap::new(),
        volumes: BTreeMap::new(),
        networks: BTreeMap::new(),
        secrets: BTreeMap::new(),
        caches: BTreeMap::new(),
        services,
    }
}

fn service(name: Name, from: Spanned<Base>) -> Service {
    Service {
        name: spanned(name),
        image: ServiceImage::From(from),
        run: None,
        env: BTreeMap::new(),
        user: None,
        workdir: None,
        hostname: None,
        mounts: BTreeMap::new(),
        limits: Limits::default(),
        read_only: false,
        network: None,
        networks: Default::default(),
        ports: Vec::new(),
        secrets: Vec::new(),
        tty: None,
        stop_signal: None,
        stop_timeout: None,
    }
}
