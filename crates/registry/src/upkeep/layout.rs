//! Images to and from OCI layouts.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::wait;
use crate::blobs::{BlobError, make_folder};
use crate::digest::Digest;
use crate::document::{ChildKind, Document};
use crate::index::{ManifestRow, NewManifest, PutManifest, Stored};
use crate::name::{RepoName, Tag};
use crate::registry::{Registry, RegistryError};

/// Where a layout keeps the name of an image.
const NAME: &str = "org.opencontainers.image.ref.name";
/// The most bytes of a manifest or of a layout's index.
const MOST_BYTES: u64 = 4 << 20;
/// How deep indexes may lie in one another.
const MOST_DEPTH: u32 = 8;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Moved {
    pub(crate) images: u64,
    pub(crate) manifests: u64,
    pub(crate) blobs: u64,
    pub(crate) names: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

fn refused<T>(text: String) -> Result<T, RegistryError> {
    Err(RegistryError::Refused(text))
}

/// Copies images of a repository into a layout, which is new.
pub(crate) fn export(
    registry: &Registry,
    repository: &str,
    reference: Option<&str>,
    to: &Path,
) -> Result<Moved, RegistryError> {
    let repo = parsed_repo(repository)?;
    let mut found = Vec::new();
    match reference {
        Some(text) if text.contains(':') => {
            let digest: Digest = text
                .parse()
                .map_err(|error| RegistryError::Refused(format!("{error}")))?;
            let row = wait(registry.index.by_digest(&repo, &digest))?;
            found.extend(row.map(|row| (None, row)));
        }
        Some(text) => {
            let tag = parsed_tag(text)?;
            let row = wait(registry.index.by_tag(&repo, &tag))?;
            found.extend(row.map(|row| (Some(tag), row)));
        }
        None => {
            let tags = wait(registry.index.tags(&repo, "", 1_000_000))?;
            for name in tags.unwrap_or_default() {
                let tag = parsed_tag(&name)?;
                let row = wait(registry.index.by_tag(&repo, &tag))?;
                found.extend(row.map(|row| (Some(tag), row)));
            }
        }
    }
    if found.is_empty() {
        let name = reference.unwrap_or("any tag");
        return refused(format!("{repository} has no {name}"));
    }
    if to.join("index.json").exists() {
        return refused(format!(
            "{} holds a layout already; name a new folder",
            to.display()
        ));
    }
    let mut export = Export {
        registry,
        repo,
        to,
        done: BTreeSet::new(),
        moved: Moved::default(),
    };
    let mut entries = Vec::new();
    for (tag, row) in found {
        export.manifest(&row, 0)?;
        export.moved.images += 1;
        let mut entry = json!({
            "mediaType": row.media_type, "digest": row.digest.as_str(), "size": row.body.len(),
        });
        if let Some(tag) = tag {
            entry["annotations"] = json!({ NAME: tag.as_str() });
            export.moved.names.push(tag.as_str().to_owned());
        }
        entries.push(entry);
    }
    write(
        &to.join("oci-layout"),
        json!({ "imageLayoutVersion": "1.0.0" })
            .to_string()
            .as_bytes(),
    )?;
    let index: Value = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
    });
    write(&to.join("index.json"), index.to_string().as_bytes())?;
    Ok(export.moved)
}

struct Export<'a> {
    registry: &'a Registry,
    repo: RepoName,
    to: &'a Path,
    done: BTreeSet<Digest>,
    moved: Moved,
}

impl Export<'_> {
    fn manifest(&mut self, row: &ManifestRow, depth: u32) -> Result<(), RegistryError> {
        if depth > MOST_DEPTH {
            return refused(format!("{} lies too deep in other indexes", row.digest));
        }
        if !self.done.insert(row.digest.clone()) {
            return Ok(());
        }
        let document = Document::parse(&row.body, Some(&row.media_type))
            .map_err(|error| RegistryError::Refused(format!("{}: {error}", row.digest)))?;
        for child in &document.children {
            let index = &self.registry.index;
            let manifest = match child.kind {
                ChildKind::Blob => None,
                ChildKind::Manifest | ChildKind::Either => {
                    wait(index.by_digest(&self.repo, &child.digest))?
                }
            };
            match manifest {
                Some(row) => self.manifest(&row, depth + 1)?,
                None => self.blob(&child.digest)?,
            }
        }
        write(&place(self.to, &row.digest)?, &row.body)?;
        self.moved.manifests += 1;
        Ok(())
    }

    fn blob(&mut self, digest: &Digest) -> Result<(), RegistryError> {
        if !self.done.insert(digest.clone()) {
            return Ok(());
        }
        let Some(row) = wait(self.registry.index.blob(&self.repo, digest))? else {
            return refused(format!("{} does not have {digest}", self.repo));
        };
        let to = place(self.to, digest)?;
        self.registry.blobs.copy_out(&row.key, &to)?;
        self.moved.blobs += 1;
        Ok(())
    }
}

/// Where a layout keeps something; the folder is there then.
fn place(layout: &Path, digest: &Digest) -> Result<PathBuf, BlobError> {
    let folder = layout.join("blobs").join(digest.algorithm().name());
    make_folder(&folder)?;
    Ok(folder.join(digest.hex()))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), BlobError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, bytes).map_err(|error| BlobError::new("write", path, error))
}

/// Copies the images of a layout into a repository; their names become tags.
pub(crate) fn import(
    registry: &Registry,
    from: &Path,
    repository: &str,
    tag: Option<&str>,
) -> Result<Moved, RegistryError> {
    let repo = parsed_repo(repository)?;
    let path = from.join("index.json");
    let index: LayoutIndex = serde_json::from_slice(&read(&path)?)
        .map_err(|error| RegistryError::Refused(format!("{}: {error}", path.display())))?;
    let named = tag.map(parsed_tag).transpose()?;
    if named.is_some() && index.manifests.len() != 1 {
        let count = index.manifests.len();
        return refused(format!(
            "{} holds {count} images, which one tag cannot name",
            from.display()
        ));
    }
    let mut import = Import {
        registry,
        repo,
        from,
        done: BTreeSet::new(),
        moved: Moved::default(),
    };
    for entry in &index.manifests {
        let own = entry.annotations.get(NAME).and_then(|name| {
            // Some tools write the whole reference.
            name.rsplit([':', '/'])
                .next()
                .unwrap_or(name)
                .parse::<Tag>()
                .ok()
        });
        let tag = named.clone().or(own);
        let digest: Digest = entry
            .digest
            .parse()
            .map_err(|error| RegistryError::Refused(format!("{error}")))?;
        import.manifest(&digest, &entry.media_type, tag.clone(), 0)?;
        import.moved.images += 1;
        import
            .moved
            .names
            .extend(tag.map(|tag| tag.as_str().to_owned()));
    }
    Ok(import.moved)
}

struct Import<'a> {
    registry: &'a Registry,
    repo: RepoName,
    from: &'a Path,
    done: BTreeSet<Digest>,
    moved: Moved,
}

impl Import<'_> {
    fn manifest(
        &mut self,
        digest: &Digest,
        media_type: &str,
        tag: Option<Tag>,
        depth: u32,
    ) -> Result<(), RegistryError> {
        if depth > MOST_DEPTH {
            return refused(format!("{digest} lies too deep in other indexes"));
        }
        if tag.is_none() && self.done.contains(digest) {
            return Ok(());
        }
        let body = read(&place(self.from, digest)?)?;
        let actual = Digest::of(digest.algorithm(), &body);
        if actual != *digest {
            return refused(format!("{digest} in {} is {actual}", self.from.display()));
        }
        let document = Document::parse(&body, Some(media_type))
            .map_err(|error| RegistryError::Refused(format!("{digest}: {error}")))?;
        for child in &document.children {
            match child.kind {
                ChildKind::Blob => self.blob(&child.digest)?,
                ChildKind::Manifest => self.manifest(&child.digest, "", None, depth + 1)?,
                // It is a manifest if it can be read as one.
                ChildKind::Either => {
                    if self.manifest(&child.digest, "", None, depth + 1).is_err() {
                        self.blob(&child.digest)?;
                    }
                }
            }
        }
        let new = NewManifest {
            repo: self.repo.clone(),
            digest: digest.clone(),
            document,
            body,
            tags: tag.into_iter().collect(),
            by: "import".to_owned(),
            may_miss: false,
        };
        let put = wait(self.registry.index.put_manifest(new, self.registry.now()))?;
        if let PutManifest::Missing(missing) = put {
            return refused(format!("{digest} needs {}", missing[0]));
        }
        self.done.insert(digest.clone());
        self.moved.manifests += 1;
        Ok(())
    }

    fn blob(&mut self, digest: &Digest) -> Result<(), RegistryError> {
        if !self.done.insert(digest.clone()) {
            return Ok(());
        }
        let registry = self.registry;
        let now = registry.now();
        if wait(registry.index.link_blob(&self.repo, digest, now))? {
            return Ok(());
        }
        let from = place(self.from, digest)?;
        let (key, size) = match registry.blobs.take_in(&from, digest, now)? {
            Ok(taken) => taken,
            Err(actual) => return refused(format!("{} is {actual}", from.display())),
        };
        let commit = registry
            .index
            .commit_blob(&self.repo, digest, size, key.clone(), None, now);
        if wait(commit)? == Stored::Already {
            registry.blobs.remove_all(&[key])?;
        }
        self.moved.blobs += 1;
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let failed = |error| RegistryError::io("read", path, error);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > MOST_BYTES {
        return refused(format!(
            "{} has more than {MOST_BYTES} bytes",
            path.display()
        ));
    }
    Ok(bytes)
}

fn parsed_repo(text: &str) -> Result<RepoName, RegistryError> {
    text.parse()
        .map_err(|error| RegistryError::Refused(format!("`{text}`: {error}")))
}

fn parsed_tag(text: &str) -> Result<Tag, RegistryError> {
    text.parse()
        .map_err(|error| RegistryError::Refused(format!("`{text}`: {error}")))
}
