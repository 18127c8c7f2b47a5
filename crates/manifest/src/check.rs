//! From the tables as written to the checked model: everything it takes two places to see.
//!
//! Names resolve, choices are made once, nothing stands twice. A table that is broken
//! still has its name, so that one mistake is not reported again wherever the name is used.

mod across;
mod action;
mod image;
mod list;
pub(crate) mod names;
mod service;
mod step;

use std::collections::BTreeMap;

use crate::decode::{Map, Placed, Required};
use crate::model::{
    Arg, BuildManifest, Cache, Project, Secret, SecretSource, SharedNetwork, Target, Volume,
};
use crate::outline::{Outline, OutlineReference};
use crate::problem::Problem;
use crate::span::{SourceText, Span, Spanned};
use crate::suggest;
use crate::value::Name;
use crate::written;

pub(crate) use image::looks_secret;
use names::Names;

/// What the checks share.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    pub(crate) names: Names,
    pub(crate) problems: &'a mut Vec<Problem>,
    pub(crate) references: Vec<OutlineReference>,
    /// The project's name.
    project: Option<Name>,
    /// The `tags` of the images so far.
    tags: BTreeMap<String, Span>,
}

/// Checks the whole manifest. No model if something required was broken, which was reported.
pub(crate) fn manifest(
    written: written::Manifest,
    args: BTreeMap<Name, Arg>,
    source: SourceText,
    warn_unused: bool,
    problems: &mut Vec<Problem>,
) -> (Option<BuildManifest>, Outline) {
    let names = Names::of(&written);
    let mut checker = Checker {
        names,
        problems,
        references: Vec::new(),
        project: None,
        tags: BTreeMap::new(),
    };
    let manifest = checker.manifest(written, args, source, warn_unused);
    let Checker {
        names, references, ..
    } = checker;
    let outline = Outline {
        images: names.outline(),
        references,
    };
    (manifest, outline)
}

impl Checker<'_> {
    fn manifest(
        &mut self,
        written: written::Manifest,
        args: BTreeMap<Name, Arg>,
        source: SourceText,
        warn_unused: bool,
    ) -> Option<BuildManifest> {
        let written::Manifest {
            at: _,
            schema,
            project,
            args: read_before,
            image,
            volume,
            network,
            secret,
            cache,
            service,
        } = written;
        debug_assert!(
            read_before.is_none_or(|args| args.is_empty),
            "`[args]` is taken out of the document before the rest is decoded"
        );
        self.no_target_outside_images(&project, &volume, &secret, &cache, &service);
        let written_project = project
            .0
            .as_ref()
            .and_then(|project| project.name.0.as_ref());
        self.project = written_project.map(|name| name.value.clone());
        let project = project.0.and_then(|project| self.project(project));
        let images = each(image, |name, image| self.image(name, image));
        let services = each(service, |name, service| self.service(name, service));
        let volumes = each(volume, |name, written::Volume { at: _ }| {
            Some(Volume { name })
        });
        let networks = each(network, |name, network| {
            let written::SharedNetwork {
                at: _,
                internal,
                ipv6,
                mtu,
            } = network;
            Some(SharedNetwork {
                name,
                internal: internal.is_some_and(|internal| internal.value),
                ipv6: ipv6.is_some_and(|ipv6| ipv6.value),
                mtu: mtu.map(|mtu| mtu.value),
            })
        });
        let caches = each(cache, |name, written::Cache { at: _, max, export }| {
            Some(Cache {
                name,
                max_bytes: max.map(|max| max.value.0),
                export: export.is_some_and(|export| export.value),
            })
        });
        let secrets = each(secret, |name, secret| self.secret(name, secret));
        if warn_unused {
            self.warn_unused();
        }
        self.warn_of_secret_files(&images.0, &secrets.0);
        let Required(Some(written::Schema)) = schema else {
            return None;
        };
        Some(BuildManifest {
            source,
            warnings: Vec::new(),
            project: project?,
            args,
            images: all(images)?,
            targets: BTreeMap::new(),
            volumes: all(volumes)?,
            networks: all(networks)?,
            secrets: all(secrets)?,
            caches: all(caches)?,
            services: all(services)?,
        })
    }
}

/// Checks every entry. Those that are right, and whether these are all.
fn each<W, C>(
    written: Option<Map<Name, W>>,
    mut check: impl FnMut(Spanned<Name>, W) -> Option<C>,
) -> (BTreeMap<Name, C>, bool) {
    let mut checked = BTreeMap::new();
    let mut good = true;
    for (name, item) in written.unwrap_or_default().entries {
        let value = item
            .value
            .and_then(|value| check(Spanned::new(name.clone(), item.key), value));
        match value {
            Some(value) => {
                checked.insert(name, value);
            }
            None => good = false,
        }
    }
    (checked, good)
}

/// The entries if all of them are right.
fn all<C>((checked, good): (BTreeMap<Name, C>, bool)) -> Option<BTreeMap<Name, C>> {
    good.then_some(checked)
}

/// Where the entries of a map use variables of the target.
fn target_uses<V: Placed>(map: &Option<Map<Name, V>>) -> Vec<Span> {
    let entries = map.iter().flat_map(|map| map.entries.values());
    entries
        .filter_map(|item| item.value.as_ref())
        .flat_map(|value| value.place().target_uses.iter().copied())
        .collect()
}

impl Checker<'_> {
    fn no_target_outside_images(
        &mut self,
        project: &Required<written::Project>,
        volumes: &Option<Map<Name, written::Volume>>,
        secrets: &Option<Map<Name, written::Secret>>,
        caches: &Option<Map<Name, written::Cache>>,
        services: &Option<Map<Name, written::Service>>,
    ) {
        let of_project = project.0.iter().flat_map(|it| it.at.target_uses.clone());
        let uses: Vec<Span> = of_project
            .chain(target_uses(volumes))
            .chain(target_uses(secrets))
            .chain(target_uses(caches))
            .chain(target_uses(services))
            .collect();
        self.no_target_here(&uses);
    }

    fn project(&mut self, written: written::Project) -> Option<Project> {
        let written::Project {
            at: _,
            name,
            default,
        } = written;
        let default = default.and_then(|default| {
            let target = self.target(&default)?;
            Some(Spanned::new(target, default.span))
        });
        let name = name.0?;
        Some(Project { name, default })
    }

    fn target(&mut self, name: &Spanned<Name>) -> Option<Target> {
        if self.names.services.contains_key(&name.value) {
            return Some(Target::Service(name.value.clone()));
        }
        if self.names.images.contains_key(&name.value) {
            return Some(Target::Image(name.value.clone()));
        }
        let services = self.names.services.keys();
        let all = services.chain(self.names.images.keys()).map(Name::as_str);
        let help = suggest::help(name.as_str(), all, || {
            format!(
                "add `[service.{name}]` or `[image.{name}]`",
                name = name.value
            )
        });
        self.problems.push(Problem::UnknownName {
            kind: "service or image",
            name: name.to_string(),
            at: name.span.into(),
            help,
        });
        None
    }

    fn secret(&mut self, name: Spanned<Name>, written: written::Secret) -> Option<Secret> {
        let help = "add `env = \"VARIABLE\"` or `file = \"PATH\"`";
        self.exactly_one(&written, "a secret", &["env", "file"], help)?;
        let written::Secret {
            at: _,
            env,
            file,
            optional,
        } = written;
        let source = match (env, file) {
            (Some(env), _) => SecretSource::Environment(env.map(|env| env.to_string())),
            (None, Some(file)) => SecretSource::File(file),
            (None, None) => return None,
        };
        Some(Secret {
            name,
            source,
            optional: optional.is_some_and(|optional| optional.value),
        })
    }

    /// Sees to it that one of `keys` stands in the table, and only one; returns it.
    fn exactly_one(
        &mut self,
        written: &impl Placed,
        table: &'static str,
        keys: &[&'static str],
        help: &str,
    ) -> Option<&'static str> {
        let at = written.place();
        match *at.present(keys).as_slice() {
            [] if at.has_unknown => None,
            [] => {
                self.problems.push(Problem::MissingChoice {
                    table,
                    choices: suggest::listed(keys.iter().copied(), "or"),
                    at: at.span.into(),
                    help: help.to_owned(),
                });
                None
            }
            [(key, _)] => Some(key),
            [(first, first_at), (second, second_at), ..] => {
                self.problems.push(Problem::ExclusiveKeys {
                    first: first.to_owned(),
                    second: second.to_owned(),
                    first_at: first_at.into(),
                    second_at: second_at.into(),
                });
                None
            }
        }
    }

    fn invalid(
        &mut self,
        value: impl ToString,
        reason: impl Into<String>,
        span: Span,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem::InvalidValue {
            value: crate::variables::shorten(&value.to_string()),
            reason: reason.into(),
            at: span.into(),
            origin: "here",
            help: help.into(),
        });
    }
}
