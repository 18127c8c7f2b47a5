//! `kiln.lock`: images, downloads and commits that a build used, and checksums of Debian packages.

use kiln_manifest::lock::{GitKey, ImagePin, Lock, UrlPin};
use kiln_oci::Reference;

use super::{Distribution, debian};
use crate::{Algorithm, Component, Inventory, Kind, Purl, Role};

/// How the lock is named in documents.
const LOCK: &str = "kiln.lock";

impl Inventory {
    /// Adds what `lock` pins, which is to hold only what the image was made from; `platform` is the
    /// image's, such as `linux/amd64`.
    ///
    /// Installed Debian packages that are pinned get the checksum of their file.
    pub fn read_lock(&mut self, lock: &Lock, platform: &str, distribution: &Distribution) {
        for (name, pin) in &lock.images {
            self.add_pinned(image(name, pin, platform));
        }
        for (url, pin) in &lock.urls {
            self.add_pinned(download(url, pin));
        }
        for (key, commit) in &lock.git {
            self.add_pinned(source(key, commit));
        }
        for suite in lock.debian.values() {
            for (key, pin) in &suite.packages {
                let purl = debian::purl(&key.name, &key.version, &pin.architecture, distribution);
                let mut installed = self.components_mut();
                if let Some(known) = installed.find(|known| known.purl.as_ref() == Some(&purl)) {
                    known.add_checksum(Algorithm::Sha256, &pin.sha256.hex());
                    known.found_in.insert(LOCK.to_owned());
                }
            }
        }
    }

    fn add_pinned(&mut self, mut component: Component) {
        component.found_in.insert(LOCK.to_owned());
        self.add(component);
    }
}

fn image(name: &str, pin: &ImagePin, platform: &str) -> Component {
    let digest = pin.platforms.get(platform).unwrap_or(&pin.digest);
    let mut component = Component::new(Kind::Image, Role::Base, name, &digest.to_string());
    component.add_checksum(Algorithm::Sha256, &digest.hex());
    if let Ok(reference) = name.parse::<Reference>() {
        let repository = reference.repository();
        let last = repository.rsplit('/').next().unwrap_or(repository);
        let place = format!("{}/{repository}", reference.registry());
        component.purl = Some(
            Purl::new("oci", &last.to_ascii_lowercase())
                .at(&digest.to_string())
                .with("repository_url", &place)
                .with("tag", reference.tag().unwrap_or_default()),
        );
    }
    component
}

fn download(url: &str, pin: &UrlPin) -> Component {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path.rsplit('/').find(|part| !part.is_empty());
    let name = name.unwrap_or(url);
    let mut component = Component::new(Kind::File, Role::Used, name, "");
    component.add_checksum(Algorithm::Sha256, &pin.sha256.hex());
    let url = without_secrets(url);
    component.purl = Some(
        Purl::new("generic", name)
            .with("checksum", &pin.sha256.to_string())
            .with("download_url", &url),
    );
    component.download = Some(url);
    component
}

fn source(key: &GitKey, commit: &str) -> Component {
    let url = without_secrets(&key.url);
    let path = url.trim_end_matches('/').trim_end_matches(".git");
    let name = path.rsplit(['/', ':']).next().unwrap_or(path);
    let mut component = Component::new(Kind::Source, Role::Used, name, commit);
    let place = vcs_url(&url, commit);
    component.purl = Some(
        Purl::new("generic", name)
            .at(commit)
            .with("vcs_url", &place),
    );
    component.download = Some(place);
    component
}

/// How SPDX writes the place of a commit: `git+https://host/path@commit`.
pub(crate) fn vcs_url(url: &str, commit: &str) -> String {
    // `git@host:path` is how ssh is written short.
    let is_short = !url.contains("://");
    match url.split_once(':').filter(|_| is_short) {
        Some((host, path)) => format!("git+ssh://{host}/{path}@{commit}"),
        None => format!("git+{url}@{commit}"),
    }
}

/// Leaves a password out of a URL.
pub(crate) fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let Some((user, host)) = authority.rsplit_once('@') else {
        return url.to_owned();
    };
    match scheme {
        // Over ssh the user is part of the place, and what follows it is none.
        "ssh" => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{host}{path}")
        }
        _ => format!("{scheme}://{host}{path}"),
    }
}
