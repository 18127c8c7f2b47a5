//! The actions that are tables of their own: copy, fetch, write, link, mkdir, account.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::check::Checker;
use crate::check::image::plain;
use crate::decode::{List, Map, OrString, Place};
use crate::model::{
    Account, Copy, CopySource, Destination, Fetch, FileSet, Folder, Git, Link, TextFile,
};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::value::{ContainerPath, LinkTarget, Name};
use crate::written;

impl Checker<'_> {
    pub(super) fn copy(&mut self, here: (&Name, &Name), written: written::Copy) -> Option<Copy> {
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

    /// Reports `key`, which says nothing without `other`.
    pub(super) fn refuse_beside(&mut self, at: &Place, key: &'static str, other: &'static str) {
        if let Some(span) = at.key(key) {
            self.problems.push(Problem::KeyNeedsKey {
                key,
                other,
                at: span.into(),
                help: format!("remove `{key}`"),
            });
        }
    }

    pub(super) fn fetch(&mut self, written: written::Fetch) -> Fetch {
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

    pub(super) fn write(
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

    pub(super) fn link(
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
        let paths: BTreeMap<&str, Span> = paths.map(|(path, at)| (path.as_str(), at)).collect();
        for (path, span) in &paths {
            let folder = format!("{path}/");
            let after = (Bound::Included(folder.as_str()), Bound::Unbounded);
            let next = paths.range::<str, _>(after).next();
            if let Some((below, _)) = next.filter(|(below, _)| below.starts_with(&folder)) {
                self.invalid(
                    path,
                    format!("would also have to be a folder, for `{below}`"),
                    *span,
                    "give one of them another path",
                );
            }
        }
    }

    pub(super) fn mkdir(&mut self, written: List<OrString<written::Folder>>) -> Vec<Folder> {
        self.not_empty("mkdir", written.is_empty, written.span);
        let mut folders: Vec<Folder> = Vec::new();
        let mut seen: BTreeMap<ContainerPath, Span> = BTreeMap::new();
        for OrString(folder) in written.items {
            let written::Folder {
                at: _,
                path,
                mode,
                owner,
            } = folder;
            self.not_the_root(&path.value, path.span);
            if let Some(first) = seen.insert(path.value.clone(), path.span) {
                self.same_target("folders", &path.value, first, path.span);
            }
            folders.push(Folder {
                path,
                mode: mode.map(|mode| mode.value),
                owner,
            });
        }
        folders
    }

    pub(super) fn account(&mut self, written: written::Account) -> Account {
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
}

pub(super) fn git(written: written::Git) -> Git {
    let written::Git {
        at: _,
        url,
        r#ref,
        to,
        owner,
    } = written;
    Git {
        url: url.map(|url| url.0),
        reference: r#ref.map(|reference| reference.map(|reference| reference.0)),
        to,
        owner,
    }
}
