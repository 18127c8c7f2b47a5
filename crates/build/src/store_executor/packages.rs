//! Debian packages: chosen once, pinned in the lock, installed by the image's own tools.

use std::collections::BTreeSet;

use kiln_debian::{
    Architecture, Catalog, DownloadError, InstallError, InstallOptions, Installed, LockedPackage,
    MirrorSettings, PackageFiles, PackageVersion, Request, ResolveError, SnapshotTime, check_names,
    install, resolve, scrub, while_arriving,
};
use kiln_graph::{BaseWork, BuildGraph, ImageBase, ImageKey, PackagePin, Work};
use kiln_layer::TreePath;
use kiln_manifest::lock::{PackageKey, PackagePin as LockPin, SetKey, SuiteKey, SuitePin};
use kiln_manifest::model::{Action, DebianBase};
use kiln_manifest::{Span, Spanned};
use kiln_oci::DiffId;
use kiln_store::Scratch;

use super::layers::{Made, commit_draft, ownership};
use super::outside::{Doors, PackageTools};
use super::process;
use super::resolve::Materials;
use super::stack::Stack;
use crate::debian_archive::snapshot_time;
use crate::event::FailureKind;
use crate::executor::{Failure, Task};
use crate::problem::{Problem, chain};
use crate::workspace::Workspace;

/// Where a Debian system keeps what is installed.
const STATUS: &str = "var/lib/dpkg/status";
/// The most bytes of that file; a full desktop has some four million.
const STATUS_LIMIT_BYTES: u64 = 256 << 20;
/// Where a system says what it is.
const OS_RELEASE: &str = "etc/os-release";
const OS_RELEASE_LIMIT_BYTES: u64 = 64 << 10;

/// How the lock writes that nothing was installed below.
const OVER_NOTHING: &str = "000000000000";
/// Hex digits of the hash of what is installed below, in the lock.
const OVER_DIGITS: usize = 16;

/// How many packages are unpacked at once.
const JOBS: usize = 8;
/// How many packages are downloaded at once: most are small, and take as long as the mirror takes to answer.
const DOWNLOADS: usize = 16;

/// What is to be installed.
#[derive(Debug)]
pub(crate) struct PackagePlan {
    suite: SuiteKey,
    mirror: MirrorSettings,
    architecture: Architecture,
    snapshot: SnapshotTime,
    packages: Vec<LockedPackage>,
    installed: Option<Installed>,
}

impl PackagePlan {
    /// Returns what of it decides the result.
    pub(crate) fn pins(&self) -> Vec<PackagePin> {
        let pin = |package: &LockedPackage| PackagePin {
            name: package.name.clone(),
            version: package.version.clone(),
            architecture: package.architecture.clone(),
            sha256: package.sha256,
        };
        self.packages.iter().map(pin).collect()
    }

    /// Calls `act` with the files of the packages, which are downloaded meanwhile where they are not in the store.
    pub(crate) fn with_files<T>(
        &self,
        workspace: &Workspace,
        doors: &Doors<'_>,
        act: impl FnOnce(&dyn PackageFiles) -> T,
    ) -> Result<T, Failure> {
        let set = workspace.debian.set(&self.suite, &self.mirror)?;
        let (packages, outside) = (&self.packages, doors.outside());
        while_arriving(packages, &set, self.snapshot, outside, DOWNLOADS, act)
            .map_err(|error| download_failure(&error))
    }

    /// Returns how the packages are installed.
    pub(crate) fn options<'a>(
        &self,
        workspace: &Workspace,
        scratch: &'a std::path::Path,
        doors: &'a Doors<'_>,
    ) -> InstallOptions<'a> {
        InstallOptions {
            architecture: self.architecture,
            epoch: workspace.inputs.epoch_seconds,
            ownership: ownership(workspace),
            jobs: JOBS,
            scratch,
            progress: doors,
        }
    }
}

/// Chooses what a `packages` step installs over `layers`.
pub(crate) fn plan(
    workspace: &Workspace,
    task: &Task<'_>,
    layers: &[DiffId],
    names: &[String],
) -> Result<PackagePlan, Failure> {
    let stack = Stack::open(workspace, layers)?;
    let architecture = architecture(task)?;
    let status = read(&stack, STATUS, STATUS_LIMIT_BYTES)?.ok_or_else(|| {
        let message =
            "the base has no Debian package database, so nothing can be installed over it";
        Failure::new(FailureKind::User, message.to_owned())
    })?;
    let installed = Installed::parse(&status, architecture)
        .map_err(|error| Failure::new(FailureKind::User, chain(&error)))?;
    let image = task.graph().nodes()[task.node()].image_key();
    let base = match debian_base(task.graph(), &image) {
        Some(base) => base.clone(),
        None => base_of_release(&read(&stack, OS_RELEASE, OS_RELEASE_LIMIT_BYTES)?)?,
    };
    choose(workspace, task, &base, names, Some(installed))
}

/// Chooses what `names` over `installed` amounts to: from the lock, else from the archive.
pub(crate) fn choose(
    workspace: &Workspace,
    task: &Task<'_>,
    base: &DebianBase,
    names: &[String],
    installed: Option<Installed>,
) -> Result<PackagePlan, Failure> {
    let architecture = architecture(task)?;
    let fixed = base.snapshot.as_ref().map(|snapshot| &*snapshot.value);
    let suite = SuiteKey {
        suite: base.suite.value.clone(),
        architecture: architecture.name().to_owned(),
        components: components(base),
        fixed_snapshot: fixed.map(str::to_owned),
    };
    let mirror = MirrorSettings {
        mirror: base.mirror.as_ref().map(|mirror| mirror.value.to_string()),
        snapshot: fixed.map(snapshot_time).transpose()?,
    };
    let key = SetKey {
        request: names.iter().cloned().collect(),
        over: installed.as_ref().map_or_else(
            || OVER_NOTHING.to_owned(),
            |installed| installed.digest().hex()[..OVER_DIGITS].to_owned(),
        ),
    };
    let known = workspace.lock.suite(&suite, &key)?;
    if let Some((snapshot, packages)) = known.as_ref().and_then(|pin| locked(pin, &key)) {
        return Ok(PackagePlan {
            snapshot: snapshot_time(&snapshot)?,
            suite,
            mirror,
            architecture,
            packages,
            installed,
        });
    }
    let mut log = None;
    let doors = Doors::open(workspace, task, &mut log)?;
    let set = workspace.debian.set(&suite, &mirror)?;
    let catalog = workspace
        .debian
        .catalog(&suite, &set, architecture, doors.outside())?;
    // A version that is pinned already stays: two steps of one build agree, and so do two builds.
    let pins: BTreeSet<PackageVersion> = known
        .iter()
        .flat_map(|pin| pin.packages.keys())
        .map(|key| PackageVersion {
            name: key.name.clone(),
            version: key.version.clone(),
        })
        .collect();
    let request = Request {
        packages: names,
        over: installed.as_ref(),
        pins: &pins,
    };
    let packages = resolve(&catalog, &request)
        .map_err(|errors| refused(workspace, task, base, &catalog, &request, errors))?;
    let snapshot = catalog.date();
    let pin = SuitePin {
        snapshot: snapshot.to_string(),
        packages: packages.iter().map(lock_pin).collect(),
        sets: [(key, packages.iter().map(package_key).collect())].into(),
    };
    workspace.lock.pin_suite(suite.clone(), pin);
    Ok(PackagePlan {
        suite,
        mirror,
        architecture,
        snapshot,
        packages,
        installed,
    })
}

/// Tells which packages cannot be had, each where it stands; also those of later steps of the image, whose turn will not
/// come.
fn refused(
    workspace: &Workspace,
    task: &Task<'_>,
    base: &DebianBase,
    catalog: &Catalog,
    request: &Request<'_>,
    mut errors: Vec<ResolveError>,
) -> Failure {
    let node = &task.graph().nodes()[task.node()];
    let image = node.image_key();
    let mut asked: Vec<&Spanned<String>> = match &node.work {
        Work::Base(_) => base.packages.iter().collect(),
        Work::Step(_) => packages_of(&node.work).collect(),
    };
    for (_, later) in task.graph().nodes().iter() {
        // Those that are there by now have names that were found.
        if later.image_key() != image || later.name == node.name {
            continue;
        }
        let later: Vec<&Spanned<String>> = packages_of(&later.work).collect();
        let names: Vec<String> = later.iter().map(|package| package.value.clone()).collect();
        let packages = &names[..];
        errors.extend(check_names(
            catalog,
            &Request {
                packages,
                ..*request
            },
        ));
        asked.extend(later);
    }
    let place = |error: &ResolveError| {
        let asked = asked.iter().find(|asked| error.is_about(&asked.value));
        asked.map_or(base.suite.span, |asked| asked.span)
    };
    let mut told: Vec<(Span, String)> = errors.iter().map(|it| (place(it), chain(it))).collect();
    told.dedup();
    match <[(Span, String); 1]>::try_from(told) {
        Ok([(at, said)]) => Problem::new(workspace, at, said),
        Err(told) => {
            let wrong = asked.iter().map(|asked| asked.value.as_str());
            let wrong = wrong.filter(|name| errors.iter().any(|error| error.is_about(name)));
            let wrong: Vec<&str> = wrong.collect();
            let said = format!("there are no packages `{}` to be had", wrong.join("`, `"));
            let mut told = told.into_iter();
            let (at, first) = told.next().unwrap_or_default();
            let problem = Problem::new(workspace, at, said).label(first);
            told.fold(problem, |problem, (at, said)| problem.and(at, said))
        }
    }
    .user()
}

/// The packages that a step installs; none for other steps and for bases.
fn packages_of(work: &Work) -> impl Iterator<Item = &Spanned<String>> {
    let packages = match work {
        Work::Step(step) => match &step.action.value {
            Action::Packages(packages) => Some(packages),
            Action::Run(_)
            | Action::Copy(_)
            | Action::Fetch(_)
            | Action::Git(_)
            | Action::Write(_)
            | Action::Remove(_)
            | Action::Mkdir(_)
            | Action::Link(_)
            | Action::Account(_) => None,
        },
        Work::Base(_) => None,
    };
    packages.into_iter().flatten()
}

/// Installs what was chosen and makes a layer of what that changed.
pub(crate) fn make(
    workspace: &Workspace,
    task: &Task<'_>,
    stack: &Stack,
    materials: Materials,
    log: &mut Option<kiln_store::Name>,
) -> Result<Made, Failure> {
    let bug = |what: &str| Failure::new(FailureKind::Bug, format!("the {what} were not resolved"));
    let plan = materials.packages.ok_or_else(|| bug("packages"))?;
    let installed = plan
        .installed
        .as_ref()
        .ok_or_else(|| bug("installed packages"))?;
    let draft = workspace.store().layers().draft(&workspace.session)?;
    let scratch = Scratch::new(&workspace.session, "packages")?;
    let doors = Doors::open(workspace, task, log)?;
    let folder = process::folder(&scratch, "install")?;
    let options = plan.options(workspace, &folder, &doors);
    let lowers = process::lowers(&stack.lowers.directories, &scratch)?;
    let mut tools = PackageTools::new(workspace, lowers, draft.fs(), &scratch);
    let done = plan.with_files(workspace, &doors, |files| {
        install(files, installed, &options, &mut tools)
    })?;
    done.map_err(|error| install_failure(workspace, &error))?;
    // What scripts leave by chance would make another layer of equal packages.
    scrub(&draft.fs(), workspace.inputs.epoch_seconds)
        .map_err(|error| Failure::new(FailureKind::Environment, chain(&error)))?;
    commit_draft(workspace, draft, &stack.view, &[])
}

/// Says what kept packages from being installed.
pub(crate) fn install_failure(workspace: &Workspace, error: &InstallError) -> Failure {
    if workspace.cancel.is_cancelled() {
        return Failure::cancelled();
    }
    if let InstallError::Download(error) = error {
        return download_failure(error);
    }
    let kind = if let InstallError::Script { .. } = error {
        FailureKind::Process
    } else if let InstallError::File { .. } | InstallError::Read { .. } | InstallError::Run(_) =
        error
    {
        FailureKind::Environment
    } else {
        FailureKind::User
    };
    Failure::new(kind, chain(error))
}

fn download_failure(error: &DownloadError) -> Failure {
    match error {
        DownloadError::Cancelled => Failure::cancelled(),
        DownloadError::Gone { .. }
        | DownloadError::Path { .. }
        | DownloadError::WrongContent { .. } => Failure::new(FailureKind::User, chain(error)),
        DownloadError::Fetch { .. } | DownloadError::Downloads { .. } => {
            Failure::new(FailureKind::Environment, chain(error))
        }
    }
}

fn architecture(task: &Task<'_>) -> Result<Architecture, Failure> {
    let platform = task.platform();
    Architecture::of_platform(&platform.architecture, platform.variant.as_deref())
        .map_err(|error| Failure::new(FailureKind::User, error.to_string()))
}

fn components(base: &DebianBase) -> BTreeSet<String> {
    if base.components.is_empty() {
        return BTreeSet::from(["main".to_owned()]);
    }
    base.components.iter().map(|it| it.value.clone()).collect()
}

/// Returns the Debian base that an image of the manifest stands on.
fn debian_base<'a>(graph: &'a BuildGraph, image: &ImageKey) -> Option<&'a DebianBase> {
    match &graph.origin(image)?.base {
        ImageBase::Scratch => None,
        ImageBase::Image(below) => debian_base(graph, below),
        ImageBase::Node(node) => match &graph.nodes()[*node].work {
            Work::Base(BaseWork::Debian(debian)) => Some(debian),
            Work::Base(BaseWork::Registry(_) | BaseWork::Oci(_) | BaseWork::Rootfs(_))
            | Work::Step(_) => None,
        },
    }
}

/// Returns what a base from elsewhere says of its own release.
fn base_of_release(os_release: &Option<String>) -> Result<DebianBase, Failure> {
    let text = os_release.as_deref().unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .map(|value| value.trim().trim_matches('"').to_owned())
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(DebianBase {
            suite: kiln_manifest::Spanned::new(codename, kiln_manifest::Span::default()),
            packages: Vec::new(),
            components: Vec::new(),
            mirror: None,
            snapshot: None,
        }),
        (id, _) => Err(Failure::new(
            FailureKind::User,
            format!(
                "packages can be installed over Debian, and the base says it is `{}`",
                id.unwrap_or("nothing")
            ),
        )),
    }
}

fn read(stack: &Stack, path: &str, limit_bytes: u64) -> Result<Option<String>, Failure> {
    let user = |error: &dyn std::error::Error| Failure::new(FailureKind::User, chain(error));
    let path = TreePath::parse(path.as_bytes()).map_err(|error| user(&error))?;
    let bytes = stack
        .view
        .read_file(&path, limit_bytes)
        .map_err(|error| user(&error))?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Returns what is pinned for `key`, if all of it is.
fn locked(pin: &SuitePin, key: &SetKey) -> Option<(String, Vec<LockedPackage>)> {
    let set = pin.sets.get(key)?;
    let package = |key: &PackageKey| {
        let pin = pin.packages.get(key)?;
        Some(LockedPackage {
            name: key.name.clone(),
            version: key.version.clone(),
            architecture: pin.architecture.clone(),
            size_bytes: pin.size_bytes,
            sha256: pin.sha256,
            path: pin.path.clone(),
        })
    };
    let packages = set.iter().map(package).collect::<Option<_>>()?;
    Some((pin.snapshot.clone(), packages))
}

fn package_key(package: &LockedPackage) -> PackageKey {
    PackageKey {
        name: package.name.clone(),
        version: package.version.clone(),
    }
}

fn lock_pin(package: &LockedPackage) -> (PackageKey, LockPin) {
    let pin = LockPin {
        architecture: package.architecture.clone(),
        size_bytes: package.size_bytes,
        sha256: package.sha256,
        path: package.path.clone(),
    };
    (package_key(package), pin)
}
