//! The host's own apt sources, as far as they are Debian's.
//!
//! Both forms are read: one line for each source (`*.list`) and paragraphs (`*.sources`). A source counts
//! as Debian's if one of its suites is a Debian suite, `main` is among its components, and it is not
//! tied to a keyring of somebody else. What the source then really is, its signature will say.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::control;
use crate::sources::KNOWN_SUITES;

/// The roots of the Debian mirrors that the host uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostSources {
    /// Roots of the archive of releases, in the order they are written.
    pub main: Vec<String>,
    /// Roots of the archive of security updates.
    pub security: Vec<String>,
}

/// Sources of the host that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the apt sources in `{}`", path.display())]
#[must_use]
pub struct HostSourcesError {
    /// The file or folder.
    pub path: PathBuf,
    /// What happened.
    #[source]
    pub source: io::Error,
}

/// Largest source file read, in bytes.
const FILE_BYTES: u64 = 1 << 20;

/// One source, as either form says it.
struct Source {
    addresses: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: String,
}

impl HostSources {
    /// Reads the sources below `root` (`/` for the host).
    ///
    /// A file that cannot be understood is passed over, as is anything that is not Debian's.
    ///
    /// # Errors
    /// [`HostSourcesError`] if a file that exists cannot be read.
    pub fn read(root: &Path) -> Result<Self, HostSourcesError> {
        let folder = root.join("etc/apt/sources.list.d");
        let mut paths = vec![root.join("etc/apt/sources.list")];
        let fail = |source| HostSourcesError {
            path: folder.clone(),
            source,
        };
        match fs::read_dir(&folder) {
            Ok(entries) => {
                let mut found = Vec::new();
                for entry in entries {
                    found.push(entry.map_err(fail)?.path());
                }
                found.sort_unstable();
                paths.extend(found);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
        let codename = read_optional(&root.join("etc/os-release"))?
            .filter(|text| os_release_value(text, "ID").as_deref() == Some("debian"))
            .and_then(|text| os_release_value(&text, "VERSION_CODENAME"));
        let mut sources = Self::default();
        for path in paths {
            let end = path.extension().and_then(|end| end.to_str());
            let Some(text) = read_optional(&path)? else {
                continue;
            };
            match end {
                Some("list") => sources.add_lines(&text, codename.as_deref()),
                Some("sources") => sources.add_paragraphs(&text, codename.as_deref()),
                _ => {}
            }
        }
        for list in [&mut sources.main, &mut sources.security] {
            expand_mirror_lists(root, list)?;
        }
        Ok(sources)
    }

    /// Adds the sources of a `.list` file. `codename` is the host's own release.
    pub fn add_lines(&mut self, text: &str, codename: Option<&str>) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let Some(rest) = line
                .strip_prefix("deb ")
                .or_else(|| line.strip_prefix("deb\t"))
            else {
                continue;
            };
            let (options, rest) = match rest.trim_start().strip_prefix('[') {
                Some(inner) => match inner.split_once(']') {
                    Some((options, rest)) => (options, rest),
                    None => continue,
                },
                None => ("", rest),
            };
            let mut words = rest.split_whitespace().map(str::to_owned);
            let (Some(address), Some(suite)) = (words.next(), words.next()) else {
                continue;
            };
            let signed_by = options
                .split_whitespace()
                .find_map(|option| option.strip_prefix("signed-by="));
            self.add(
                Source {
                    addresses: vec![address],
                    suites: vec![suite],
                    components: words.collect(),
                    signed_by: signed_by.unwrap_or_default().to_owned(),
                },
                codename,
            );
        }
    }

    /// Adds the sources of a `.sources` file. `codename` is the host's own release.
    pub fn add_paragraphs(&mut self, text: &str, codename: Option<&str>) {
        for paragraph in control::paragraphs(text).map_while(Result::ok) {
            let words = |field: &str| -> Vec<String> {
                let value = paragraph.get(field).unwrap_or_default();
                value.split_whitespace().map(str::to_owned).collect()
            };
            let enabled = paragraph
                .get("Enabled")
                .is_none_or(|value| !["no", "false", "0"].contains(&value));
            if enabled && words("Types").iter().any(|one| one == "deb") {
                self.add(
                    Source {
                        addresses: words("URIs"),
                        suites: words("Suites"),
                        components: words("Components"),
                        signed_by: paragraph.get("Signed-By").unwrap_or_default().to_owned(),
                    },
                    codename,
                );
            }
        }
    }

    fn add(&mut self, source: Source, codename: Option<&str>) {
        // A path names a keyring; anything else is a fingerprint or the key itself.
        let foreign_key =
            source.signed_by.starts_with('/') && !source.signed_by.contains("debian-archive-");
        if foreign_key || !source.components.iter().any(|one| one == "main") {
            return;
        }
        for suite in &source.suites {
            let (name, list) = if let Some(name) = suite
                .strip_suffix("-security")
                .or_else(|| suite.strip_suffix("/updates"))
            {
                (name, &mut self.security)
            } else {
                (
                    suite.strip_suffix("-updates").unwrap_or(suite),
                    &mut self.main,
                )
            };
            if !KNOWN_SUITES.contains(&name) && codename != Some(name) {
                continue;
            }
            for address in &source.addresses {
                let address = address.trim_end_matches('/').to_owned();
                let usable = ["http://", "https://", "file:/", "mirror+file:/"];
                let is_usable = usable.iter().any(|scheme| address.starts_with(scheme));
                if is_usable && !list.contains(&address) {
                    list.push(address);
                }
            }
        }
    }
}

/// Replaces `mirror+file:/path` by the addresses in that file.
fn expand_mirror_lists(root: &Path, list: &mut Vec<String>) -> Result<(), HostSourcesError> {
    let mut expanded: Vec<String> = Vec::new();
    for address in list.drain(..) {
        let Some(path) = address.strip_prefix("mirror+file:") else {
            expanded.push(address);
            continue;
        };
        let file = root.join(path.trim_start_matches('/'));
        for line in read_optional(&file)?.unwrap_or_default().lines() {
            let line = line.split('#').next().unwrap_or_default();
            if let Some(address) = line.split_whitespace().next()
                && (address.starts_with("http://") || address.starts_with("https://"))
            {
                expanded.push(address.trim_end_matches('/').to_owned());
            }
        }
    }
    *list = expanded;
    Ok(())
}

/// Reads a text file; `None` if there is none, or it is far too large to be one of ours.
fn read_optional(path: &Path) -> Result<Option<String>, HostSourcesError> {
    let fail = |source| HostSourcesError {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= FILE_BYTES => {
            let bytes = fs::read(path).map_err(fail)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Ok(_other) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(fail(source)),
    }
}

/// Returns the value of `key` in the text of an `os-release` file.
pub(crate) fn os_release_value(text: &str, key: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (name.trim() == key && !value.is_empty()).then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_archives_do_not_count() {
        let mut sources = HostSources::default();
        sources.add_lines(
            "# deb http://commented.example/debian bookworm main\n\
             deb http://one.example/debian/ bookworm main contrib # note\n\
             deb-src http://src.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/usr/share/keyrings/other.gpg] https://node.example/x bookworm main\n\
             deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://one.example/debian-security bookworm-security main\n\
             deb http://one.example/debian bookworm-updates main\n\
             deb https://docker.example/linux/debian bookworm stable\n\
             deb https://pg.example/apt bookworm-pgdg main\n\
             deb cdrom:[Debian]/ bookworm main\n",
            Some("bookworm"),
        );
        assert_eq!(sources.main, ["http://one.example/debian"]);
        assert_eq!(sources.security, ["http://one.example/debian-security"]);
    }

    #[test]
    fn paragraphs_are_read_from_a_root() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc/apt/sources.list.d");
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            root.path().join("etc/os-release"),
            "ID=debian\nVERSION_CODENAME=\"zurg\"\n",
        )
        .unwrap();
        fs::write(
            folder.join("debian.sources"),
            "Types: deb deb-src\nURIs: mirror+file:///etc/apt/mirrors/debian.list\n\
             Suites: zurg zurg-updates\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
             Types: deb\nURIs: http://sec.example/debian-security\nSuites: zurg-security\n\
             Components: main\n\n\
             Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: zurg\nComponents: main\n",
        )
        .unwrap();
        fs::write(
            folder.join("notes.txt"),
            "deb http://txt.example/debian zurg main\n",
        )
        .unwrap();
        fs::create_dir_all(root.path().join("etc/apt/mirrors")).unwrap();
        fs::write(
            root.path().join("etc/apt/mirrors/debian.list"),
            "https://m1.example/debian/ priority:1\nhttp://m2.example/debian\n",
        )
        .unwrap();
        let sources = HostSources::read(root.path()).unwrap();
        assert_eq!(
            sources.main,
            ["https://m1.example/debian", "http://m2.example/debian"]
        );
        assert_eq!(sources.security, ["http://sec.example/debian-security"]);
    }

    #[test]
    fn a_host_without_apt_has_no_sources() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(
            HostSources::read(root.path()).unwrap(),
            HostSources::default()
        );
    }
}
