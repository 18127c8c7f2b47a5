//! A root file system from packages, without any tool of the host.
//!
//! ```text
//! packages ─each as it arrives→ staged ─one after the other→ merged into the tree
//!   dpkg's database written by us, each package `unpacked`
//!   inside: preinst scripts · dpkg --configure
//!   packages whose preinst must come before their files: dpkg --unpack, inside, when the base works
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use kiln_layer::Node;

use crate::control::{self, Paragraph};
use crate::database::{Database, database_name};
use crate::download::PackageFiles;
use crate::install::{InstallOptions, Unpacking, repack_all, run_script};
use crate::install_error::InstallError;
use crate::merge::Merger;
use crate::run::RunInRoot;
use crate::script::Script;
use crate::staging::{Staged, is_idle_script};
use crate::{Architecture, parallel, relation};

/// Where packages are unpacked before they are put in place: inside the tree, so that they can be moved.
const STAGING: &str = ".kiln-staging";

/// Makes a root file system in the empty folder `root` from `packages`. Blocks.
///
/// # Errors
/// [`InstallError`]; what is in `root` then is of no use.
pub fn bootstrap(
    packages: &dyn PackageFiles,
    root: &Path,
    options: &InstallOptions<'_>,
    run: &mut dyn RunInRoot,
) -> Result<(), InstallError> {
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))
        .map_err(InstallError::file("set the mode of", root))?;
    let mut script = Script::new();
    let mut merger = Merger::new(root)?;
    let parts = Parts::open(packages, &root.join(STAGING), options)?;
    let mut preinst = preinst_scripts(&parts.ours)?;
    // It makes the first accounts, which the others may ask for.
    preinst.sort_by_key(|name| name != "base-passwd");
    let mut names = merge_all(&parts.ours, &mut merger, options)?;
    for name in preinst {
        script.preinst(&name, options.architecture);
    }
    // What every script may rely on comes first: accounts, `awk`. All else follows from the dependencies, but
    // a package that dpkg meets before them goes to the end of its queue.
    let first = needed_by(&parts.controls, &["base-passwd", "base-files"]);
    let order: BTreeMap<&str, usize> = (0..packages.count())
        .map(|at| (packages.package(at).name.as_str(), at))
        .collect();
    names.sort_by_key(|name| {
        let package = package_of(name);
        (!first.contains(package), order.get(package).copied())
    });
    if !parts.dpkg.is_empty() {
        names.retain(|name| parts.base.contains(package_of(name)));
    }
    script.configure(&names);
    let mut unpacking = Unpacking::after(parts.base, &parts.controls);
    repack_all(&parts.dpkg, options)?;
    unpacking.add_all(&parts.dpkg, &mut script);
    kiln_layer::remove_tree(merger.root(), STAGING.as_bytes())
        .map_err(InstallError::file("remove", &root.join(STAGING)))?;
    script.configure_pending();
    run_script(script, options, run)
}

/// Returns the package's name without the architecture that the database may add to it.
fn package_of(database_name: &str) -> &str {
    database_name.split(':').next().unwrap_or_default()
}

/// The packages of a new root file system, by how they get there.
struct Parts {
    /// Those unpacked here, `base-files` first.
    ours: Vec<Staged>,
    /// Those dpkg must unpack.
    dpkg: Vec<Staged>,
    /// Names of the essential and required packages and all they need.
    base: BTreeSet<String>,
    /// The control files of all, in unpack order.
    controls: Vec<String>,
}

impl Parts {
    /// Unpacks the packages that are ours.
    fn open(
        packages: &dyn PackageFiles,
        staging: &Path,
        options: &InstallOptions<'_>,
    ) -> Result<Self, InstallError> {
        let opened = parallel::map_in(&packages.largest_first(), options.jobs, |at| {
            options.go_on()?;
            let folder = staging.join(at.to_string());
            let (package, path) = (packages.package(at), packages.file(at)?);
            let mut staged = Staged::open(package, &path, folder, options.staging())?;
            // Whose the others are cannot be told before all are here.
            if is_idle_script(&staged.member("preinst")?) {
                staged.unpack(options.staging())?;
            }
            Ok::<_, InstallError>(staged)
        })?;
        let controls: Vec<String> = opened.iter().map(|one| one.control.clone()).collect();
        let mut base: Vec<&str> = opened
            .iter()
            .filter(|one| one.field("Essential") == "yes" || one.field("Priority") == "required")
            .map(|one| one.field("Package"))
            .collect();
        // Required by the archive's own list of priorities, which is not in its control file.
        base.push("apt");
        let mut parts = Self {
            base: needed_by(&controls, &base),
            ours: Vec::new(),
            dpkg: Vec::new(),
            controls,
        };
        for staged in opened {
            // A script that does something before the files are there is dpkg's to run; not in the
            // base, which has nobody to run it: there it runs after, which those scripts are made for.
            let in_base = parts.base.contains(staged.field("Package"));
            let list = if in_base || staged.is_unpacked() {
                &mut parts.ours
            } else {
                &mut parts.dpkg
            };
            list.push(staged);
        }
        parts.unpack_rest(options)?;
        // Its folders are as they should be, and its links, where it has them, come before what uses them.
        parts
            .ours
            .sort_by_key(|staged| staged.field("Package") != "base-files");
        Ok(parts)
    }

    /// Unpacks what is ours and not unpacked yet.
    fn unpack_rest(&mut self, options: &InstallOptions<'_>) -> Result<(), InstallError> {
        let rest: Vec<Mutex<&mut Staged>> = self
            .ours
            .iter_mut()
            .filter(|staged| !staged.is_unpacked())
            .map(Mutex::new)
            .collect();
        parallel::map(rest.len(), options.jobs, |at| {
            options.go_on()?;
            let mut staged = rest[at].lock().expect("each is used by one thread");
            staged.unpack(options.staging())
        })?;
        Ok(())
    }
}

/// Returns the database names of those whose preinst script has something to do.
fn preinst_scripts(packages: &[Staged]) -> Result<Vec<String>, InstallError> {
    let mut names = Vec::new();
    for package in packages {
        if !is_idle_script(&package.member("preinst")?) {
            names.push(database_name(package));
        }
    }
    Ok(names)
}

/// Puts unpacked packages in place and writes the database. Returns their names in it, in order.
fn merge_all(
    packages: &[Staged],
    merger: &mut Merger,
    options: &InstallOptions<'_>,
) -> Result<Vec<String>, InstallError> {
    if let Some(base_files) = packages.first() {
        merger.make_links(&merged_links(base_files, options.architecture))?;
    }
    for package in packages {
        merger.add(package)?;
    }
    let mut database = Database::new(merger.root())?;
    let mut names = Vec::with_capacity(packages.len());
    for (package, paths) in packages.iter().zip(merger.paths()) {
        database.add(package, paths)?;
        names.push(database_name(package));
    }
    database.finish()?;
    Ok(names)
}

/// Returns the links that make the directories of a tree merged into `usr`, if `base_files` does not bring
/// them itself: the ones debootstrap makes.
fn merged_links(base_files: &Staged, architecture: Architecture) -> Vec<&'static str> {
    let brings_them = base_files
        .entries()
        .iter()
        .any(|entry| entry.path.as_bytes() == b"bin" && matches!(entry.node, Node::Symlink { .. }));
    if brings_them {
        return Vec::new();
    }
    let more: &[&str] = match architecture {
        Architecture::Amd64 => &["lib32", "lib64", "libx32"],
        Architecture::I386 => &["lib64", "libx32"],
        Architecture::Ppc64el => &["lib64"],
        Architecture::S390x => &["lib32"],
        Architecture::Arm64 | Architecture::Armhf | Architecture::Riscv64 => &[],
    };
    [&["bin", "sbin", "lib"], more].concat()
}

/// Returns those of `roots` that are among the packages with these control files, and of all they need.
fn needed_by(controls: &[String], roots: &[&str]) -> BTreeSet<String> {
    let paragraphs: Vec<Paragraph<'_>> = controls
        .iter()
        .filter_map(|control| control::paragraphs(control).next()?.ok())
        .collect();
    let mut by_name: BTreeMap<String, Vec<&Paragraph<'_>>> = BTreeMap::new();
    for package in &paragraphs {
        let own = package.get("Package").unwrap_or_default();
        by_name.entry(own.to_owned()).or_default().push(package);
        let provides = package.get("Provides").unwrap_or_default();
        for provided in relation::parse_flat(provides).unwrap_or_default() {
            by_name.entry(provided.name).or_default().push(package);
        }
    }
    let mut names = BTreeSet::new();
    let mut pending: Vec<&Paragraph<'_>> = paragraphs
        .iter()
        .filter(|package| {
            package
                .get("Package")
                .is_some_and(|name| roots.contains(&name))
        })
        .collect();
    while let Some(package) = pending.pop() {
        if !names.insert(package.get("Package").unwrap_or_default().to_owned()) {
            continue;
        }
        for field in ["Pre-Depends", "Depends"] {
            let field = package.get(field).unwrap_or_default();
            for relation in relation::parse(field)
                .unwrap_or_default()
                .into_iter()
                .flatten()
            {
                pending.extend(by_name.get(&relation.name).into_iter().flatten().copied());
            }
        }
    }
    names
}
