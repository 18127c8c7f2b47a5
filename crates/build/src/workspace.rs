//! What a build works with: the project, the store, the lock and what the user's settings say.
//!
//! Filled in once by whoever starts a build; shared by all steps. Nothing in here changes during a
//! build but the lock, which guards itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Once};

use kiln_graph::BuildInputs;
use kiln_manifest::BuildManifest;
use kiln_manifest::value::Name;
use kiln_oci::{Platform, Reference};
use kiln_sandbox::{Host, Privileges};
use kiln_store::{Session, Store};

use crate::cancel::Cancel;
use crate::debian_archive::DebianArchive;
use crate::lock_file::LockFile;
use crate::project::{Project, StatCache};

/// What a build works with.
#[derive(Debug)]
pub struct Workspace {
    /// The checked manifest.
    pub manifest: Arc<BuildManifest>,
    /// The project's folder.
    pub project: Project,
    /// What is known about the state of its files.
    pub stat_cache: StatCache,
    /// Name of the project in the store: tells projects of the same name in other folders apart.
    pub id: kiln_store::Name,
    /// The store, in use.
    pub session: Session,
    /// The project's lock.
    pub lock: LockFile,
    /// What is the same for every step.
    pub inputs: BuildInputs,
    /// What this machine is.
    pub platform: Platform,
    /// What runs sandboxes.
    pub host: Host,
    /// Folders where emulators of other machines may be.
    pub emulators: Vec<PathBuf>,
    /// Held by whoever uses the terminal, so that only one shell is open at a time.
    pub terminal: Mutex<()>,
    /// Over when somebody was told that limits of steps cannot be enforced.
    pub warned_of_limits: Once,
    /// Values of the manifest's secrets.
    pub secrets: BTreeMap<Name, SecretValue>,
    /// The socket of the ssh agent of the person who builds.
    pub ssh_agent: Option<PathBuf>,
    /// What a step's shell is opened with when it fails; `None` not to.
    pub on_failure: OnFailure,
    /// Where bytes from elsewhere come from.
    pub remote: Remote,
    /// Registries that keep results for other machines.
    pub caches: CacheRegistries,
    /// Where packages come from.
    pub debian: DebianArchive,
    /// Stops everything.
    pub cancel: Cancel,
}

/// Where bytes from elsewhere come from.
#[derive(Debug, Clone)]
pub struct Remote {
    /// The client that everything is downloaded with.
    pub http: kiln_http::Client,
    /// The client for registries.
    pub registry: kiln_client::Registry,
    /// Stops its transfers; follows [`Workspace::cancel`].
    pub cancel: kiln_http::Cancel,
}

/// Registries that keep results for other machines: repositories, whose tags are kiln's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheRegistries {
    /// Asked for what the store does not have, one after the other.
    pub read: Vec<Reference>,
    /// Given what they lack of a build, once it is done.
    pub write: Vec<Reference>,
}

/// What to do when a step's process fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Report it.
    #[default]
    Stop,
    /// Open a shell in the failed step first, with the same mounts and environment.
    Shell,
}

/// The value of a secret, as far as it is known.
#[derive(Clone)]
pub enum SecretValue {
    /// It is there.
    Present(Vec<u8>),
    /// It is not, and that is an error for a step that uses it: the words say where it was looked
    /// for.
    Missing(String),
    /// It is not, and that is allowed.
    Absent,
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Present(_) => "Present",
            Self::Missing(_) => "Missing",
            Self::Absent => "Absent",
        })
    }
}

impl Workspace {
    /// Returns the store.
    pub fn store(&self) -> &Store {
        self.session.store()
    }

    /// Returns what users and groups files can have.
    pub fn privileges(&self) -> &Privileges {
        self.host.privileges()
    }
}
