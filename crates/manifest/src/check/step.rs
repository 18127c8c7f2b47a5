//! Steps: one action, and the keys that go with it.

use std::collections::BTreeMap;

use crate::check::Checker;
use crate::check::image::{plain, texts};
use crate::check::names::Kind;
use crate::decode::{List, Map, OrString};
use crate::model::{
    Account, Action, Command, Copy, CopySource, Destination, Fetch, FileSet, Folder, Git, Limits,
    Link, Run, SecretTarget, SecretUse, Step, TextFile,
};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::suggest;
use crate::value::{ContainerPath, LinkTarget, Name, Text};
use crate::written;

/// The keys that say what a step does.
pub(crate) const ACTIONS: [&str; 10] = [
    "run", "copy", "packages", "fetch", "git", "write", "remove", "mkdir", "link", "account",
];

/// The keys that say how a `run` runs.
pub(crate) const RUN_KEYS: [&str; 10] = [
    "files", "workdir", "env", "user", "network", "caches", "secrets", "ssh", "limits", "timeout",
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
            let files = files.and_then(|files| self.file_set(files, None));
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
            let written::Git {
                at: _,
                url,
                r#ref,
                to,
                owner,
            } = git;
            found.push(Some(Action::Git(Git {
                url: url.map(|url| url.0),
                reference: r#ref.map(|reference| reference.map(|reference| reference.0)),
                to,
                owner,
            })));
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

    fn copy(&mut self, here: (&Name, &Name), written: written::Copy) -> Option<Copy> {
        let table = "an entry of `copy`";
        let help = "add `files = [\"PATTERN\"]`, or `from = \"image.step\"` with `path`";
        let choice = self.exactly_one(&written, table, &["from", "files"], help)?;
        let written::Copy {
            at,
            from,
            path,
            files,
            base,
            to,
            mode,
            owner,
        } = written;
        let source = if choice == "from" {
            if at.key("path").is_none() {
                self.problems.push(Problem::KeyNeedsKey {
                    key: "from",
                    other: "path",
                    at: at.key("from").unwrap_or(at.span).into(),
                    help: "add `path = \"/…\"`, what to copy from there".to_owned(),
                });
            }
            self.refuse_beside(&at, "base", "files");
            let from = self.produced_by(here, &from?)?;
            CopySource::Produced { from, path: path? }
        } else {
            self.refuse_beside(&at, "path", "from");
            let set = self.file_set(files?, base)?;
            if let Some(to) = &to.0 {
                self.warn_of_folder_like_file(&set, to);
            }
            CopySource::Files(set)
        };
        Some(Copy {
            span: at.span,
            source,
            to: to.0?,
            mode: mode.map(|mode| mode.value),
            owner,
        })
    }

    /// `files = ["a.py"], to = "/srv/a.py"` makes `/srv/a.py/a.py`, which is rarely meant.
    fn warn_of_folder_like_file(&mut self, set: &FileSet, to: &Spanned<Destination>) {
        let [file] = set.include.as_slice() else {
            return;
        };
        let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
        let same_name = last(file.as_str()) == last(to.path.as_str());
        if same_name && file.is_literal() && file.as_str().contains('.') && !to.into_folder {
            self.problems.push(Problem::FolderLikeFile {
                to: to.path.to_string(),
                file: file.to_string(),
                at: to.span.into(),
            });
        }
    }

    fn refuse_beside(&mut self, at: &crate::decode::Place, key: &'static str, other: &'static str) {
        if let Some(span) = at.key(key) {
            self.problems.push(Problem::KeyNeedsKey {
                key,
                other,
                at: span.into(),
                help: format!("remove `{key}`"),
            });
        }
    }

    fn fetch(&mut self, written: written::Fetch) -> Fetch {
        let written::Fetch {
            at,
            url,
            to,
            unpack,
            strip,
            sha256,
            mode,
            owner,
        } = written;
        let unpacks = unpack.is_some_and(|unpack| unpack.value);
        if let Some(span) = at.key("strip").filter(|_| at.key("unpack").is_none()) {
            self.problems.push(Problem::KeyNeedsKey {
                key: "strip",
                other: "unpack",
                at: span.into(),
                help: "add `unpack = true`, or remove `strip`".to_owned(),
            });
        }
        let names_file = url.0.split(['?', '#']).next().unwrap_or_default();
        if !unpacks && to.into_folder && names_file.ends_with('/') {
            self.invalid(
                &url.0,
                "has no file name to put into a folder",
                url.span,
                "give the file a name: write `to` without the `/` at its end",
            );
        }
        Fetch {
            url: url.map(|url| url.0),
            to,
            unpack: unpacks,
            strip: strip.map_or(0, |strip| strip.value),
            sha256: sha256.map(|sha256| sha256.map(|sha256| sha256.0)),
            mode: mode.map(|mode| mode.value),
            owner,
        }
    }

    fn write(
        &mut self,
        written: Map<ContainerPath, OrString<written::TextFile>>,
    ) -> BTreeMap<ContainerPath, TextFile> {
        self.not_empty("write", written.is_empty, written.span);
        let mut files = BTreeMap::new();
        for (path, OrString(file)) in written.readable() {
            self.not_the_root(&path.value, path.span);
            let written::TextFile {
                at: _,
                text,
                mode,
                owner,
            } = file;
            let file = TextFile {
                span: path.span,
                text: text.value.0,
                mode: mode.map(|mode| mode.value),
                owner,
            };
            files.insert(path.value, file);
        }
        self.no_file_above_another(files.iter().map(|(path, file)| (path, file.span)));
        files
    }

    fn link(
        &mut self,
        written: Map<ContainerPath, Spanned<LinkTarget>>,
    ) -> BTreeMap<ContainerPath, Link> {
        self.not_empty("link", written.is_empty, written.span);
        let mut links = BTreeMap::new();
        for (path, target) in written.readable() {
            self.not_the_root(&path.value, path.span);
            let link = Link {
                span: path.span,
                target: target.value.0,
            };
            links.insert(path.value, link);
        }
        self.no_file_above_another(links.iter().map(|(path, link)| (path, link.span)));
        links
    }

    fn no_file_above_another<'p>(
        &mut self,
        paths: impl Iterator<Item = (&'p ContainerPath, Span)>,
    ) {
        let paths: Vec<_> = paths.collect();
        for (path, span) in &paths {
            let below = paths
                .iter()
                .find(|(other, _)| other != path && other.starts_with(path));
            if let Some((below, _)) = below {
                self.invalid(
                    path,
                    format!("would also have to be a folder, for `{below}`"),
                    *span,
                    "give one of them another path",
                );
            }
        }
    }

    fn mkdir(&mut self, written: List<OrString<written::Folder>>) -> Vec<Folder> {
        self.not_empty("mkdir", written.is_empty, written.span);
        let mut folders: Vec<Folder> = Vec::new();
        for OrString(folder) in written.items {
            let written::Folder {
                at: _,
                path,
                mode,
                owner,
            } = folder;
            self.not_the_root(&path.value, path.span);
            if let Some(first) = folders.iter().find(|first| first.path.value == path.value) {
                self.same_target("folders", &path.value, first.path.span, path.span);
            }
            folders.push(Folder {
                path,
                mode: mode.map(|mode| mode.value),
                owner,
            });
        }
        folders
    }

    fn account(&mut self, written: written::Account) -> Account {
        let written::Account {
            at: _,
            name,
            uid,
            gid,
            home,
            shell,
            groups,
        } = written;
        if name.0 == "root" {
            self.invalid(
                "root",
                "is an account that every system has",
                name.span,
                "choose another name",
            );
        }
        let path = |text: &str| ContainerPath::parse(text).expect("it is absolute and normal");
        let default_home = path(&format!("/home/{}", name.0));
        let groups = self.distinct("groups", groups, |group| group.0.clone());
        Account {
            uid: uid.value,
            gid: gid.map_or(uid.value, |gid| gid.value),
            home: home.map_or(default_home, |home| home.value),
            shell: shell.map_or_else(|| path("/usr/sbin/nologin"), |shell| shell.value),
            groups: plain(groups, |group| group.0),
            name: name.map(|name| name.0),
        }
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
