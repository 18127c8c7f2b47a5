//! Images: base, steps, config.

use std::collections::BTreeMap;

use kiln_oci::Platform;

use crate::check::Checker;
use crate::check::names::Kind;
use crate::decode::{List, Map};
use crate::model::{Action, Base, Config, DebianBase, Image, OciBase, Platforms, Step};
use crate::outline::{OutlineKind, OutlinePart, OutlineReference};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::value::{EnvName, Name, PlatformWord, Text};
use crate::written::{self, Texts, WrittenBase};

/// The keys of `from`.
const BASES: [&str; 5] = ["registry", "image", "debian", "oci", "rootfs"];

impl Checker<'_> {
    pub(super) fn image(&mut self, name: Spanned<Name>, written: written::Image) -> Option<Image> {
        let written::Image {
            at,
            from,
            step,
            config,
            tags,
            platforms,
        } = written;
        let base_uses_target = from.0.as_ref().is_some_and(written::From::uses_target);
        let config_uses_target = config
            .as_ref()
            .is_some_and(|config| !config.at.target_uses.is_empty());
        let lists = [
            platforms.as_ref().map(|list| list.span),
            tags.as_ref().map(|list| list.span),
        ];
        let within = |at: &&Span| lists.iter().flatten().any(|list| list.contains(**at));
        let misplaced: Vec<Span> = at.target_uses.iter().filter(within).copied().collect();
        self.no_target_here(&misplaced);
        let platforms = self.platforms(platforms);
        let from = from.0.and_then(|from| self.base(from, Some(&name.value)));
        let mut good = true;
        let mut steps = BTreeMap::new();
        for (step_name, item) in step.unwrap_or_default().entries {
            let step = item.value.and_then(|written| {
                self.step(
                    &name.value,
                    Spanned::new(step_name.clone(), item.key),
                    written,
                )
            });
            match step {
                Some(step) => {
                    steps.insert(step_name, step);
                }
                None => good = false,
            }
        }
        connect_accounts(&mut steps);
        self.check_accounts(&steps);
        self.note_accounts(&name.value, &steps);
        let config = config.map(|config| self.config(config)).unwrap_or_default();
        let tags = self.distinct("tags", tags, ToString::to_string);
        for tag in &tags {
            if tag.digest().is_some() {
                self.invalid(
                    &tag.value,
                    "names a digest, which a new image cannot be stored under",
                    tag.span,
                    "remove the `@` and what follows",
                );
            }
        }
        self.check_tags(&name.value, &tags);
        let from = from?;
        good.then_some(Image {
            name,
            from,
            steps,
            config,
            tags,
            platforms,
            base_uses_target,
            config_uses_target,
        })
    }

    /// Takes the uses of accounts into the outline.
    fn note_accounts(&mut self, image: &Name, steps: &BTreeMap<Name, Step>) {
        for (name, step) in steps {
            let uses = step.account_steps.iter().map(|adder| OutlineReference {
                by: OutlinePart::Step(image.clone(), name.clone()),
                needed: OutlinePart::Step(image.clone(), adder.value.clone()),
                kind: OutlineKind::Account,
                span: adder.span,
            });
            self.references.extend(uses);
        }
    }

    /// Checks `platforms`: platforms that kiln knows, each once, or `host` by itself.
    fn platforms(&mut self, written: Option<List<Spanned<PlatformWord>>>) -> Platforms {
        let Some(list) = written else {
            return Platforms::Unsaid;
        };
        self.not_empty("platforms", list.is_empty, list.span);
        let words = self.distinct("platforms", Some(list), ToString::to_string);
        let host = words.iter().find(|word| word.value == PlatformWord::Host);
        let host_at = host.map(|word| word.span);
        let listed: Vec<Spanned<Platform>> = words
            .into_iter()
            .filter_map(|word| match word.value {
                PlatformWord::Host => None,
                PlatformWord::Platform(platform) => Some(Spanned::new(platform, word.span)),
            })
            .collect();
        match (host_at, listed.is_empty()) {
            (Some(_), true) => Platforms::Host,
            (None, true) => Platforms::Unsaid,
            (None, false) => Platforms::Listed(listed),
            (Some(at), false) => {
                self.invalid(
                    "host",
                    "stands by itself: what is built for the machine that builds is built for nothing else",
                    at,
                    "remove it, or the platforms beside it",
                );
                Platforms::Host
            }
        }
    }

    /// Reports variables of the target where nothing is built for a target.
    pub(super) fn no_target_here(&mut self, uses: &[Span]) {
        for at in uses {
            self.problems
                .push(Problem::MisplacedTarget { at: (*at).into() });
        }
    }

    /// Checks `from`; `own` is the image it stands in, if it stands in one.
    pub(super) fn base(
        &mut self,
        written: written::From,
        own: Option<&Name>,
    ) -> Option<Spanned<Base>> {
        let span = written.span;
        let table = match written.base {
            WrittenBase::Scratch => return Some(Spanned::new(Base::Scratch, span)),
            WrittenBase::Table(table) => table,
        };
        let help = "write `{ debian = \"bookworm\" }`, for example, or \"scratch\"";
        self.exactly_one(&*table, "`from`", &BASES, help)?;
        let written::Base {
            at: _,
            registry,
            image,
            debian,
            oci,
            rootfs,
        } = *table;
        let base = if let Some(reference) = registry {
            Base::Registry(reference)
        } else if let Some(image) = image {
            self.base_image(&image, own)?;
            Base::Image(image)
        } else if let Some(debian) = debian {
            self.debian(debian.0)
        } else if let Some(oci) = oci {
            let written::Oci { at: _, path, tag } = oci.0;
            let tag = tag.map(|tag| tag.map(|tag| tag.0));
            Base::Oci(OciBase { path, tag })
        } else {
            Base::Rootfs(rootfs?)
        };
        Some(Spanned::new(base, span))
    }

    fn base_image(&mut self, image: &Spanned<Name>, own: Option<&Name>) -> Option<()> {
        if own == Some(&image.value) {
            self.problems.push(Problem::SelfReference {
                kind: "image",
                name: image.to_string(),
                verb: "starts from",
                at: image.span.into(),
                help: "name another image, or another kind of base".to_owned(),
            });
            return None;
        }
        self.resolve(Kind::Image, image)?;
        // A service that starts from an image is needed by nobody.
        if let Some(own) = own {
            self.references.push(OutlineReference {
                by: OutlinePart::Base(own.clone()),
                needed: OutlinePart::Image(image.value.clone()),
                kind: OutlineKind::From,
                span: image.span,
            });
        }
        Some(())
    }

    fn debian(&mut self, written: written::Debian) -> Base {
        let written::Debian {
            at: _,
            suite,
            packages,
            components,
            mirror,
            snapshot,
        } = written;
        let packages = self.distinct("packages", packages, |package| package.0.clone());
        let mut components = self.distinct("components", components, |word| word.0.clone());
        if components.is_empty() {
            let main = crate::value::ArchiveWord("main".to_owned());
            components.push(Spanned::new(main, suite.span));
        }
        Base::Debian(DebianBase {
            suite: suite.map(|suite| suite.0),
            packages: plain(packages, |package| package.0),
            components: plain(components, |word| word.0),
            mirror: mirror.map(|mirror| mirror.map(|url| url.0)),
            snapshot: snapshot.map(|snapshot| snapshot.map(|time| time.0)),
        })
    }

    fn config(&mut self, written: written::Config) -> Config {
        let written::Config {
            at,
            user,
            workdir,
            env,
            entrypoint,
            cmd,
            expose,
            labels,
            volumes,
            stop_signal,
        } = written;
        let expose = self.distinct("expose", expose, ToString::to_string);
        let volumes = self.distinct("volumes", volumes, ToString::to_string);
        if let Some(entrypoint) = &entrypoint {
            self.not_empty("entrypoint", entrypoint.is_empty, entrypoint.span);
        }
        let place = "everybody who has the image can read its environment";
        let labels = labels.unwrap_or_default().readable();
        Config {
            span: Some(at.span),
            user,
            workdir: workdir.map(|workdir| workdir.value),
            env: self.env(env, Some(place)),
            entrypoint: entrypoint.map(texts),
            cmd: cmd.map(texts),
            expose: plain(expose, |port| port)
                .into_iter()
                .map(|port| port.value)
                .collect(),
            labels: labels
                .map(|(key, text)| (key.value.0, text.value.0))
                .collect(),
            volumes: volumes.into_iter().map(|path| path.value).collect(),
            stop_signal: stop_signal.map(|signal| signal.value),
        }
    }

    /// Checks an environment; `open` says why a secret must not be in it.
    pub(super) fn env(
        &mut self,
        env: Option<Map<EnvName, Spanned<Text>>>,
        open: Option<&'static str>,
    ) -> BTreeMap<EnvName, String> {
        let mut checked = BTreeMap::new();
        for (name, text) in env.unwrap_or_default().readable() {
            if let Some(place) = open
                && looks_secret(name.as_str(), &text.0)
            {
                self.problems.push(Problem::SecretInTheOpen {
                    name: name.to_string(),
                    place,
                    at: name.span.into(),
                });
            }
            checked.insert(name.value, text.value.0);
        }
        checked
    }
}

/// Whether a value of this name is probably to be kept secret.
pub(crate) fn looks_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 9] = [
        "APIKEY",
        "API_KEY",
        "ACCESS_KEY",
        "CREDENTIALS",
        "PASSPHRASE",
        "PASSWORD",
        "PRIVATE_KEY",
        "SECRET",
        "TOKEN",
    ];
    let name = name.to_ascii_uppercase().replace('-', "_");
    // A name like `PASSWORD_FILE` says where the secret is, not what it is.
    let says_where = ["_FILE", "_PATH", "_DIR", "_URL"]
        .iter()
        .any(|end| name.ends_with(end));
    !value.is_empty() && !says_where && WORDS.iter().any(|word| name.contains(word))
}

/// Makes the edges from steps that name an account to the steps that add it.
fn connect_accounts(steps: &mut BTreeMap<Name, Step>) {
    let accounts: BTreeMap<String, Name> = steps
        .iter()
        .filter_map(|(name, step)| {
            let Action::Account(account) = &step.action.value else {
                return None;
            };
            Some((account.name.value.clone(), name.clone()))
        })
        .collect();
    for (name, step) in steps {
        let mut found: BTreeMap<Name, Spanned<Name>> = BTreeMap::new();
        for user in step.action.users() {
            let parts = [Some(&user.user), user.group.as_ref()];
            for adder in parts
                .into_iter()
                .flatten()
                .filter_map(|part| accounts.get(part))
            {
                let needed = step.needs.iter().any(|need| need.value == *adder);
                if adder != name && !needed {
                    let reference = Spanned::new(adder.clone(), user.span);
                    found.entry(adder.clone()).or_insert(reference);
                }
            }
        }
        step.account_steps = found.into_values().collect();
    }
}

/// Takes the checked words out of their wrappers.
pub(super) fn plain<T, U>(items: Vec<Spanned<T>>, out: impl Fn(T) -> U) -> Vec<Spanned<U>> {
    items.into_iter().map(|item| item.map(&out)).collect()
}

/// The texts of a list of arguments.
pub(super) fn texts(list: Texts) -> Vec<String> {
    list.items.into_iter().map(|text| text.value.0).collect()
}
