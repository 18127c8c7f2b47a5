//! Steps: one action, what it needs, and the keys of `run`.

use std::collections::BTreeMap;

use crate::check::Checker;
use crate::check::action::git;
use crate::check::image::{plain, texts};
use crate::check::names::Kind;
use crate::decode::{List, Map, OrString};
use crate::model::{Action, Command, Limits, Run, SecretTarget, SecretUse, Step};
use crate::outline::{OutlineKind, OutlinePart, OutlineReference};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::suggest;
use crate::value::{ContainerPath, Name, Text};
use crate::written;

/// The keys that say what a step does.
pub(crate) const ACTIONS: [&str; 10] = [
    "run", "copy", "packages", "fetch", "git", "write", "remove", "mkdir", "link", "account",
];

/// The keys that say how a `run` runs.
pub(crate) const RUN_KEYS: [&str; 11] = [
    "files", "base", "workdir", "env", "user", "network", "caches", "secrets", "ssh", "limits",
    "timeout",
];

impl Checker<'_> {
    pub(super) fn step(
        &mut self,
        image: &Name,
        name: Spanned<Name>,
        written: written::Step,
    ) -> Option<Step> {
        let at = written.at.clone();
        let here = (image, &name.value);
        let action_key = match *at.present(&ACTIONS).as_slice() {
            [] if at.has_unknown => None,
            [] => {
                self.problems.push(Problem::NoAction {
                    step: name.to_string(),
                    at: at.span.into(),
                    help: format!("add one of {}", suggest::listed(ACTIONS, "or")),
                });
                None
            }
            [only] => Some(only),
            [(first, first_at), (second, second_at), ..] => {
                self.problems.push(Problem::TwoActions {
                    step: name.to_string(),
                    first: first.to_owned(),
                    second: second.to_owned(),
                    first_at: first_at.into(),
                    second_at: second_at.into(),
                });
                None
            }
        };
        if let Some((action, action_at)) = action_key.filter(|(key, _)| *key != "run") {
            for (key, key_at) in at.present(&RUN_KEYS) {
                self.problems.push(Problem::MisplacedKey {
                    key: key.to_owned(),
                    action: action.to_owned(),
                    at: key_at.into(),
                    action_at: action_at.into(),
                });
            }
        }
        let needs = self.needs(here, written.needs.clone());
        let action = self.action(here, written);
        let (_, action_at) = action_key?;
        Some(Step {
            span: at.span,
            needs,
            uses_target: !at.target_uses.is_empty(),
            account_steps: Vec::new(),
            action: Spanned::new(action?, action_at),
            name,
        })
    }

    fn needs(
        &mut self,
        (image, step): (&Name, &Name),
        written: Option<List<Spanned<Text>>>,
    ) -> Vec<Spanned<Name>> {
        let mut needs = Vec::new();
        for need in self.distinct("needs", written, |need| need.0.clone()) {
            let Some(siblings) = self.names.steps.get(image) else {
                continue;
            };
            let text = need.0.as_str();
            if text == step.as_str() {
                self.problems.push(Problem::SelfReference {
                    kind: "step",
                    name: text.to_owned(),
                    verb: "needs",
                    at: need.span.into(),
                    help: "remove it from `needs`".to_owned(),
                });
            } else if let Some((sibling, _)) = siblings.get_key_value(text) {
                self.references.push(OutlineReference {
                    by: OutlinePart::Step(image.clone(), step.clone()),
                    needed: OutlinePart::Step(image.clone(), sibling.clone()),
                    kind: OutlineKind::Needs,
                    span: need.span,
                });
                needs.push(Spanned::new(sibling.clone(), need.span));
            } else if text.contains('.') || self.names.images.contains_key(text) {
                let own = text.split_once('.').filter(|(first, rest)| {
                    *first == image.as_str() && siblings.contains_key(*rest)
                });
                let help = match own {
                    Some((_, sibling)) => format!("write `{sibling}`: `needs` names siblings only"),
                    None => format!(
                        "remove it from `needs`; a `copy` with `from = \"{text}\"` waits for it by itself"
                    ),
                };
                self.problems.push(Problem::NeedsNoSibling {
                    name: text.to_owned(),
                    image: image.to_string(),
                    at: need.span.into(),
                    help,
                });
            } else {
                let help = suggest::help(text, siblings.keys().map(Name::as_str), || {
                    format!("add `[image.{image}.step.{text}]`, or remove it from `needs`")
                });
                self.unknown("step", text, need.span, help);
            }
        }
        needs
    }

    /// Checks every action that is there, so that all problems show; returns the only one.
    fn action(&mut self, here: (&Name, &Name), written: written::Step) -> Option<Action> {
        // No `..`: a new key does not compile until it is handled here.
        let written::Step {
            at,
            needs: _,
            run,
            files,
            base,
            workdir,
            env,
            user,
            network,
            caches,
            secrets,
            ssh,
            limits,
            timeout,
            copy,
            packages,
            fetch,
            git,
            write,
            remove,
            mkdir,
            link,
            account,
        } = written;
        let mut found = Vec::new();
        if at.key("run").is_some() {
            let files_at = at.key("files");
            let files = files.and_then(|files| self.file_set(files, base));
            if files_at.is_none() {
                self.refuse_beside(&at, "base", "files");
            }
            if let Some(files_at) = files_at {
                self.check_workdir(files_at, at.key("workdir"), workdir.as_ref());
            }
            let place = "the environment of a step is kept in its record";
            let env = self.env(env, Some(place));
            let caches = self.caches(caches);
            let secrets = self.secrets(secrets, &env);
            let run = run.map(|command| {
                Action::Run(Box::new(Run {
                    command: self::command(command),
                    files,
                    workdir,
                    env,
                    user,
                    network: network.is_some_and(|network| network.value),
                    caches,
                    secrets,
                    ssh: ssh.is_some_and(|ssh| ssh.value),
                    limits: self::limits(limits),
                    timeout: timeout.map(|timeout| timeout.value.0),
                }))
            });
            found.push(run);
        }
        if let Some(copy) = copy {
            self.not_empty("copy", copy.is_empty, copy.span);
            let entries = copy.items.into_iter();
            let entries = entries.filter_map(|entry| self.copy(here, entry)).collect();
            found.push(Some(Action::Copy(entries)));
        }
        if let Some(packages) = packages {
            self.not_empty("packages", packages.is_empty, packages.span);
            let mut packages = self.distinct("packages", Some(packages), |name| name.0.clone());
            packages.sort();
            found.push(Some(Action::Packages(plain(packages, |name| name.0))));
        }
        if let Some(fetch) = fetch {
            found.push(Some(Action::Fetch(self.fetch(fetch))));
        }
        if let Some(git) = git {
            found.push(Some(Action::Git(self::git(git))));
        }
        if let Some(write) = write {
            found.push(Some(Action::Write(self.write(write))));
        }
        if let Some(remove) = remove {
            self.not_empty("remove", remove.is_empty, remove.span);
            let paths = self.distinct("remove", Some(remove), ToString::to_string);
            for path in &paths {
                self.not_the_root(&path.value, path.span);
            }
            found.push(Some(Action::Remove(paths)));
        }
        if let Some(mkdir) = mkdir {
            found.push(Some(Action::Mkdir(self.mkdir(mkdir))));
        }
        if let Some(link) = link {
            found.push(Some(Action::Link(self.link(link))));
        }
        if let Some(account) = account {
            found.push(Some(Action::Account(self.account(account))));
        }
        found.into_iter().next().flatten()
    }

    /// `files` are put into `workdir`, which is thrown away.
    fn check_workdir(
        &mut self,
        files_at: Span,
        workdir_at: Option<Span>,
        workdir: Option<&Spanned<ContainerPath>>,
    ) {
        if workdir_at.is_none() {
            self.problems.push(Problem::KeyNeedsKey {
                key: "files",
                other: "workdir",
                at: files_at.into(),
                help: "add `workdir = \"/work\"`: the files are put there, and it is thrown away afterwards".to_owned(),
            });
        }
        if let Some(workdir) = workdir.filter(|workdir| workdir.is_root()) {
            self.invalid(
                &workdir.value,
                "cannot be the `workdir` of a step with `files`, since that is thrown away afterwards",
                workdir.span,
                "write a folder of its own, such as \"/work\"",
            );
        }
    }

    fn caches(
        &mut self,
        written: Option<Map<Name, Spanned<ContainerPath>>>,
    ) -> BTreeMap<Name, Spanned<ContainerPath>> {
        let mut caches: BTreeMap<Name, Spanned<ContainerPath>> = BTreeMap::new();
        for (name, path) in written.unwrap_or_default().readable() {
            if self.resolve(Kind::Cache, &name).is_none() {
                continue;
            }
            self.not_the_root(&path.value, path.span);
            if let Some(other) = caches.values().find(|other| other.value == path.value) {
                self.same_target("caches", &path.value, other.span, path.span);
            }
            caches.insert(name.value, path);
        }
        caches
    }

    pub(super) fn secrets<V>(
        &mut self,
        written: Option<List<OrString<written::SecretUse>>>,
        env: &BTreeMap<crate::value::EnvName, V>,
    ) -> Vec<SecretUse> {
        let mut uses: Vec<SecretUse> = Vec::new();
        for OrString(written) in written.into_iter().flat_map(|list| list.items) {
            let written::SecretUse {
                at,
                secret,
                env: variable,
                file,
            } = written;
            if let [(first, first_at), (second, second_at)] = *at.present(&["env", "file"]) {
                self.problems.push(Problem::ExclusiveKeys {
                    first: first.to_owned(),
                    second: second.to_owned(),
                    first_at: first_at.into(),
                    second_at: second_at.into(),
                });
            }
            if self.resolve(Kind::Secret, &secret).is_none() {
                continue;
            }
            let (target, target_at) = match (variable, file) {
                (Some(variable), _) => {
                    if env.contains_key(&variable.value) {
                        self.invalid(
                            &variable.value,
                            "is set in `env` too",
                            variable.span,
                            "remove it from `env`",
                        );
                    }
                    (SecretTarget::Environment(variable.value), variable.span)
                }
                (None, Some(file)) => (SecretTarget::File(file.value), file.span),
                (None, None) => {
                    let path = ContainerPath::parse(&format!("/run/secrets/{}", secret.value));
                    let path = path.expect("a name is a part of a path");
                    (SecretTarget::File(path), secret.span)
                }
            };
            if let SecretTarget::File(path) = &target {
                self.not_the_root(path, target_at);
            }
            if let Some(other) = uses.iter().find(|other| other.target == target) {
                let shown = match &target {
                    SecretTarget::File(path) => path.to_string(),
                    SecretTarget::Environment(name) => name.to_string(),
                };
                self.same_target("secrets", &shown, other.secret.span, target_at);
            }
            uses.push(SecretUse { secret, target });
        }
        uses
    }

    pub(super) fn not_the_root(&mut self, path: &ContainerPath, span: Span) {
        if path.is_root() {
            self.invalid("/", "cannot be used here", span, "write a path below `/`");
        }
    }

    pub(super) fn same_target(
        &mut self,
        what: &'static str,
        target: impl ToString,
        first: Span,
        second: Span,
    ) {
        self.problems.push(Problem::SameTarget {
            what,
            target: target.to_string(),
            first_at: first.min(second).into(),
            second_at: first.max(second).into(),
        });
    }
}

pub(super) fn command(written: written::Command) -> Command {
    match written {
        written::Command::Script(script) => Command::Script(script.value),
        written::Command::Arguments(items) => Command::Arguments(texts(items)),
    }
}

pub(super) fn limits(written: Option<written::Limits>) -> Limits {
    let Some(written::Limits {
        at: _,
        memory,
        cpus,
        pids,
    }) = written
    else {
        return Limits::default();
    };
    Limits {
        memory_bytes: memory.map(|memory| memory.value.0),
        cpu_millis: cpus.map(|cpus| cpus.millis()),
        pids: pids.map(|pids| pids.value),
    }
}
