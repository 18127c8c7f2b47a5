//! Where a suite's packages come from.
//!
//! ```text
//! manifest (mirror, snapshot)  else  the user's settings  else  the host's apt sources
//!   else the public snapshot archive                                      → ArchiveSet
//! ```
//!
//! Knows nothing of what the archives hold.

use jiff::Timestamp;

use crate::lock::SnapshotTime;

mod apt;

pub(crate) use apt::os_release_value;
pub use apt::{HostSources, HostSourcesError};

/// The public archive of everything Debian ever published; below it come an archive's name and a
/// time.
pub const SNAPSHOT_ARCHIVE: &str = "https://snapshot.debian.org/archive";

/// Names that suites of Debian go by: releases that are still supported or soon will be, and what they are.
pub const KNOWN_SUITES: &[&str] = &[
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "stable",
    "testing",
    "unstable",
    "oldstable",
    "oldoldstable",
];

/// What the manifest or the user's settings say of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorSettings {
    /// The root of the Debian archive, without `dists/`.
    pub mirror: Option<String>,
    /// The moment to take the archive from, out of the snapshot archive.
    pub snapshot: Option<SnapshotTime>,
}

/// All archives that make up a suite, and where to look for what they no longer have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSet {
    /// The suite as it was asked for.
    pub suite: String,
    /// The components to take packages from.
    pub components: Vec<String>,
    /// The suite itself first, then its updates and its security updates.
    pub archives: Vec<Archive>,
    /// The root of the snapshot archive.
    pub snapshot_archive: String,
    /// The moment the archives were frozen at, if they were: their own time limits are judged by it.
    pub frozen_at: Option<SnapshotTime>,
}

/// One signed suite of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its name in the snapshot archive.
    pub kind: ArchiveKind,
    /// Roots of mirrors that hold it, without `dists/` and without a slash at the end; the next is
    /// asked when one does not answer.
    pub mirrors: Vec<String>,
    /// The folder below `dists/`.
    pub suite: String,
    /// Whether the suite is incomplete without it.
    pub required: bool,
}

/// Which of Debian's archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArchiveKind {
    /// Releases and their updates.
    Main,
    /// Security updates.
    Security,
}

/// A source that cannot be used.
#[derive(Debug, thiserror::Error)]
#[must_use]
pub enum SourcesError {
    /// The suite's or component's name cannot be one.
    #[error("`{name}` is not the name of a Debian {what}")]
    Name {
        /// The name.
        name: String,
        /// `suite` or `component`.
        what: &'static str,
    },
    /// The mirror's address is of no use.
    #[error("`{mirror}` is not a mirror: it must start with `http://`, `https://` or `file:/`")]
    Mirror {
        /// The address.
        mirror: String,
    },
}

impl ArchiveKind {
    /// Returns its name in the snapshot archive.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "debian",
            Self::Security => "debian-security",
        }
    }

    /// Returns the archive that a package with this path is from.
    pub fn of_path(path: &str) -> Self {
        if path.starts_with("pool/updates/") {
            Self::Security
        } else {
            Self::Main
        }
    }
}

impl ArchiveSet {
    /// Chooses the archives of `suite`.
    ///
    /// The first of `manifest`, `user`, `host` that names a source decides; if none does, it is the
    /// snapshot archive as of `now`. No `components` means `main`.
    ///
    /// # Errors
    /// [`SourcesError`] if a name or an address cannot be one.
    pub fn choose(
        suite: &str,
        components: &[String],
        manifest: &MirrorSettings,
        user: &MirrorSettings,
        host: Option<&HostSources>,
        now: Timestamp,
    ) -> Result<Self, SourcesError> {
        check_name(suite, "suite")?;
        for component in components {
            check_name(component, "component")?;
        }
        let mut set = Self {
            suite: suite.to_owned(),
            components: components.to_vec(),
            archives: Vec::new(),
            snapshot_archive: SNAPSHOT_ARCHIVE.to_owned(),
            frozen_at: None,
        };
        set.components.sort_unstable();
        set.components.dedup();
        if set.components.is_empty() {
            set.components.push("main".to_owned());
        }
        let named = [manifest, user]
            .into_iter()
            .find(|settings| settings.mirror.is_some() || settings.snapshot.is_some());
        let roots = match (named, host) {
            (Some(settings), _) => set.of_settings(settings)?,
            (None, Some(host)) if !host.main.is_empty() => {
                (host.main.clone(), host.security.clone())
            }
            (None, _) => set.of_snapshot(SnapshotTime::from(now)),
        };
        set.add_archives(roots);
        Ok(set)
    }

    /// Returns the roots of the main and of the security archive that the settings mean.
    fn of_settings(
        &mut self,
        settings: &MirrorSettings,
    ) -> Result<(Vec<String>, Vec<String>), SourcesError> {
        let Some(mirror) = &settings.mirror else {
            let time = settings
                .snapshot
                .expect("the caller found a mirror or a snapshot");
            return Ok(self.of_snapshot(time));
        };
        let mirror = check_mirror(mirror)?;
        match settings.snapshot {
            // A mirror of the snapshot archive itself.
            Some(time) => {
                self.snapshot_archive = mirror.to_owned();
                Ok(self.of_snapshot(time))
            }
            None => Ok((vec![mirror.to_owned()], vec![format!("{mirror}-security")])),
        }
    }

    fn of_snapshot(&mut self, time: SnapshotTime) -> (Vec<String>, Vec<String>) {
        self.frozen_at = Some(time);
        (
            vec![self.snapshot_root(ArchiveKind::Main, time)],
            vec![self.snapshot_root(ArchiveKind::Security, time)],
        )
    }

    fn add_archives(&mut self, (main, security): (Vec<String>, Vec<String>)) {
        let suite = self.suite.clone();
        // Where the suites of that time had the older name.
        let is_old = ["buster", "stretch", "jessie", "wheezy"].contains(&suite.as_str());
        let security_suite = if is_old {
            format!("{suite}/updates")
        } else {
            format!("{suite}-security")
        };
        self.archives.push(Archive {
            kind: ArchiveKind::Main,
            mirrors: main.clone(),
            suite: suite.clone(),
            required: true,
        });
        self.archives.push(Archive {
            kind: ArchiveKind::Main,
            mirrors: main,
            suite: format!("{suite}-updates"),
            required: false,
        });
        if !security.is_empty() {
            self.archives.push(Archive {
                kind: ArchiveKind::Security,
                mirrors: security,
                suite: security_suite,
                required: false,
            });
        }
    }

    /// Returns the root of an archive as of `time` in the snapshot archive.
    pub fn snapshot_root(&self, kind: ArchiveKind, time: SnapshotTime) -> String {
        format!("{}/{}/{time}", self.snapshot_archive, kind.name())
    }

    /// Returns the roots of all mirrors of one kind of archive, without repetition.
    pub fn mirrors(&self, kind: ArchiveKind) -> Vec<&str> {
        let mut mirrors: Vec<&str> = Vec::new();
        for archive in self.archives.iter().filter(|archive| archive.kind == kind) {
            for mirror in &archive.mirrors {
                if !mirrors.contains(&mirror.as_str()) {
                    mirrors.push(mirror);
                }
            }
        }
        mirrors
    }
}

/// Accepts names that are safe in a path and an address.
fn check_name(name: &str, what: &'static str) -> Result<(), SourcesError> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(safe) {
        return Err(SourcesError::Name {
            name: name.chars().take(80).collect(),
            what,
        });
    }
    Ok(())
}

/// Accepts addresses this crate can read from, and cuts slashes off their end.
fn check_mirror(mirror: &str) -> Result<&str, SourcesError> {
    let known = ["http://", "https://", "file:/"];
    let mirror = mirror.trim_end_matches('/');
    let is_plain = mirror
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte));
    if !is_plain || !known.iter().any(|scheme| mirror.starts_with(scheme)) {
        return Err(SourcesError::Mirror {
            mirror: mirror.chars().take(200).collect(),
        });
    }
    Ok(mirror)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_780_000_000, 0);

    fn choose(
        manifest: &MirrorSettings,
        user: &MirrorSettings,
        host: Option<&HostSources>,
    ) -> ArchiveSet {
        ArchiveSet::choose("trixie", &[], manifest, user, host, NOW).unwrap()
    }

    fn mirror(address: &str) -> MirrorSettings {
        MirrorSettings {
            mirror: Some(address.to_owned()),
            snapshot: None,
        }
    }

    #[test]
    fn the_first_that_names_a_source_decides() {
        let host = HostSources {
            main: vec!["http://host.example/debian".to_owned()],
            security: vec!["http://host.example/debian-security".to_owned()],
        };
        let none = MirrorSettings::default();
        let set = choose(
            &mirror("http://a.example/debian/"),
            &mirror("http://b"),
            Some(&host),
        );
        assert_eq!(set.mirrors(ArchiveKind::Main), ["http://a.example/debian"]);
        assert_eq!(
            set.mirrors(ArchiveKind::Security),
            ["http://a.example/debian-security"]
        );
        assert_eq!(set.components, ["main"]);
        let set = choose(&none, &mirror("file:/srv/debian"), Some(&host));
        assert_eq!(set.mirrors(ArchiveKind::Main), ["file:/srv/debian"]);
        let set = choose(&none, &none, Some(&host));
        assert_eq!(
            set.mirrors(ArchiveKind::Main),
            ["http://host.example/debian"]
        );
        assert_eq!(set.frozen_at, None);
        let suites: Vec<&str> = set.archives.iter().map(|one| one.suite.as_str()).collect();
        assert_eq!(suites, ["trixie", "trixie-updates", "trixie-security"]);
        let set = choose(&none, &none, None);
        let expected = format!("{SNAPSHOT_ARCHIVE}/debian/20260528T202640Z");
        assert_eq!(set.mirrors(ArchiveKind::Main), [expected]);
        assert_eq!(set.frozen_at, Some(SnapshotTime::from(NOW)));
    }

    #[test]
    fn a_snapshot_is_taken_from_the_snapshot_archive_or_its_mirror() {
        let time: SnapshotTime = "20250520T000000Z".parse().unwrap();
        let mut settings = MirrorSettings {
            mirror: None,
            snapshot: Some(time),
        };
        let none = MirrorSettings::default();
        let set = choose(&settings, &none, None);
        assert_eq!(
            set.mirrors(ArchiveKind::Security),
            [format!(
                "{SNAPSHOT_ARCHIVE}/debian-security/20250520T000000Z"
            )]
        );
        settings.mirror = Some("http://snap.example/archive".to_owned());
        let set = choose(&settings, &none, None);
        assert_eq!(
            set.mirrors(ArchiveKind::Main),
            ["http://snap.example/archive/debian/20250520T000000Z"]
        );
        assert_eq!(set.frozen_at, Some(time));
    }

    #[test]
    fn names_and_addresses_are_checked() {
        let none = MirrorSettings::default();
        for suite in ["", "../etc", "a/b", ".x", "a b"] {
            let refused = ArchiveSet::choose(suite, &[], &none, &none, None, NOW);
            assert!(matches!(refused, Err(SourcesError::Name { .. })), "{suite}");
        }
        let components = ["main/../x".to_owned()];
        assert!(ArchiveSet::choose("sid", &components, &none, &none, None, NOW).is_err());
        for address in ["ftp://x", "cdrom:[x]", "http://a b", ""] {
            let refused = ArchiveSet::choose("sid", &[], &mirror(address), &none, None, NOW);
            assert!(
                matches!(refused, Err(SourcesError::Mirror { .. })),
                "{address}"
            );
        }
    }
}
