//! Packages over a root file system that has some already.
//!
//! The image's own dpkg does it, since only it knows its diversions, configuration files and triggers; kiln
//! makes the package files quick to read, and gives dpkg as many at once as the pre-dependencies allow.
//!
//! ```text
//! dpkg --unpack a b c      those whose pre-dependencies are configured
//! dpkg --configure b       what the next ones pre-depend on
//! dpkg --unpack d
//! dpkg --configure --pending
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_layer::Ownership;

use crate::download::PackageFiles;
use crate::fetch::Progress;
use crate::install_error::InstallError;
use crate::installed::Installed;
use crate::relation::Alternatives;
use crate::run::{ReadOnlyMount, RootCommand, RootExit, RunInRoot};
use crate::script::{MOUNT, PROGRAM_FILES, PROGRAMS, SCRIPT, Script, environment};
use crate::staging::{Staged, StagingOptions};
use crate::{Architecture, control, parallel, relation};

/// Bytes of output kept for the message if it fails.
const TAIL_BYTES: usize = 8 * 1024;

/// How packages are installed.
#[derive(Clone, Copy)]
pub struct InstallOptions<'a> {
    /// The architecture of the root file system.
    pub architecture: Architecture,
    /// Times after this one are set to it; in seconds since 1970, UTC.
    pub epoch: i64,
    /// Whether owners are kept.
    pub ownership: Ownership,
    /// How many packages are unpacked at once.
    pub jobs: usize,
    /// An empty folder for files that are needed until the end; the caller removes it.
    pub scratch: &'a Path,
    /// Where output goes, and who may cancel.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for InstallOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InstallOptions")
            .field("architecture", &self.architecture)
            .field("epoch", &self.epoch)
            .field("ownership", &self.ownership)
            .field("jobs", &self.jobs)
            .field("scratch", &self.scratch)
            .finish_non_exhaustive()
    }
}

impl InstallOptions<'_> {
    pub(crate) fn staging(&self) -> StagingOptions {
        StagingOptions {
            epoch: self.epoch,
            ownership: self.ownership,
        }
    }

    /// Makes and returns the folder that is mounted inside.
    fn mounted(&self) -> Result<PathBuf, InstallError> {
        let mounted = self.scratch.join("mounted");
        fs::create_dir_all(&mounted).map_err(InstallError::file("make", &mounted))?;
        Ok(mounted)
    }

    /// Fails if the user has given up.
    pub(crate) fn go_on(&self) -> Result<(), InstallError> {
        match self.progress.is_cancelled() {
            true => Err(InstallError::Cancelled),
            false => Ok(()),
        }
    }
}

/// Installs `packages` over what is `installed`. Blocks.
///
/// Each package is made ready as soon as its file is there.
///
/// # Errors
/// [`InstallError`]; the root file system is then to be thrown away.
pub fn install(
    packages: &dyn PackageFiles,
    installed: &Installed,
    options: &InstallOptions<'_>,
    run: &mut dyn RunInRoot,
) -> Result<(), InstallError> {
    if packages.count() == 0 {
        return Ok(());
    }
    let folder = options.scratch.join("control");
    let mounted = options.mounted()?;
    let opened = parallel::map_in(&packages.largest_first(), options.jobs, |at| {
        options.go_on()?;
        let (package, path) = (packages.package(at), packages.file(at)?);
        let staged = Staged::open(
            package,
            &path,
            folder.join(at.to_string()),
            options.staging(),
        )?;
        staged.repack(&mounted.join(file_name(at)), options.epoch)?;
        Ok::<_, InstallError>(staged)
    })?;
    let mut script = Script::new();
    // A package that is replaced is not configured any more once the new one is unpacked.
    let replaced: BTreeSet<&str> = (0..packages.count())
        .map(|at| packages.package(at).name.as_str())
        .collect();
    let configured = installed
        .packages()
        .keys()
        .filter(|name| !replaced.contains(name.as_str()))
        .cloned()
        .collect();
    let mut unpacking = Unpacking::after(configured, &[]);
    unpacking.add_all(&opened, &mut script);
    script.configure_pending();
    run_script(script, options, run)
}

/// Runs the script inside the root file system.
///
/// # Errors
/// [`InstallError::Script`] with the end of its output if it fails.
pub(crate) fn run_script(
    script: Script,
    options: &InstallOptions<'_>,
    run: &mut dyn RunInRoot,
) -> Result<(), InstallError> {
    let mounted = options.mounted()?;
    let path = mounted.join(SCRIPT);
    fs::write(&path, script.into_text()).map_err(InstallError::file("write", &path))?;
    write_programs(&mounted.join(PROGRAMS))?;
    let command = RootCommand {
        argv: vec!["/bin/sh".to_owned(), format!("{MOUNT}/{SCRIPT}")],
        env: environment(options.epoch),
        mounts: vec![ReadOnlyMount {
            source: mounted,
            target: MOUNT.to_owned(),
        }],
    };
    let mut tail: Vec<u8> = Vec::new();
    let mut output = |bytes: &[u8]| {
        options.progress.output(bytes);
        tail.extend_from_slice(bytes);
        if tail.len() > 2 * TAIL_BYTES {
            tail.drain(..tail.len() - TAIL_BYTES);
        }
    };
    let exit = run.run(&command, &mut output).map_err(InstallError::Run)?;
    match exit {
        RootExit::Code(0) => Ok(()),
        _ if options.progress.is_cancelled() => Err(InstallError::Cancelled),
        RootExit::Code(_) | RootExit::Signal(_) => {
            let from = tail.len().saturating_sub(TAIL_BYTES);
            let tail = String::from_utf8_lossy(&tail[from..]);
            Err(InstallError::Script {
                exit,
                tail: tail.trim_end().to_owned(),
            })
        }
    }
}

/// Writes the programs that scripts find before the image's own, into the new folder `folder`.
fn write_programs(folder: &Path) -> Result<(), InstallError> {
    fs::create_dir(folder).map_err(InstallError::file("make", folder))?;
    // Whatever the umask: scripts may run as any user.
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    open(folder).map_err(InstallError::file("set the mode of", folder))?;
    for (name, text) in PROGRAM_FILES {
        let path = folder.join(name);
        fs::write(&path, text).map_err(InstallError::file("write", &path))?;
        open(&path).map_err(InstallError::file("set the mode of", &path))?;
    }
    Ok(())
}

/// Makes the files of packages ready for dpkg, in the mounted folder.
pub(crate) fn repack_all(
    packages: &[Staged],
    options: &InstallOptions<'_>,
) -> Result<(), InstallError> {
    let mounted = options.mounted()?;
    parallel::map(packages.len(), options.jobs, |at| {
        options.go_on()?;
        packages[at].repack(&mounted.join(file_name(at)), options.epoch)
    })?;
    Ok(())
}

/// Decides what dpkg can unpack at once, and what it must configure in between.
pub(crate) struct Unpacking {
    configured: BTreeSet<String>,
    /// What is there but not configured.
    unpacked: Vec<Item>,
}

/// One package and what it needs, as far as the order goes.
struct Item {
    name: String,
    provides: Vec<String>,
    pre_depends: Vec<Alternatives>,
    depends: Vec<Alternatives>,
    file: String,
}

impl Unpacking {
    /// Starts where these packages are configured, and those with these control files are unpacked.
    pub(crate) fn after(configured: BTreeSet<String>, unpacked: &[String]) -> Self {
        Self {
            configured,
            unpacked: unpacked
                .iter()
                .map(|text| Item::of(text, String::new()))
                .collect(),
        }
    }

    /// Adds to the script what unpacks the packages, whose files are made ready in the mounted folder.
    pub(crate) fn add_all(&mut self, packages: &[Staged], script: &mut Script) {
        let items: Vec<Item> = packages
            .iter()
            .enumerate()
            .map(|(at, package)| Item::of(&package.control, file_name(at)))
            .collect();
        for step in self.steps(&items) {
            match step {
                Step::Unpack(files) => script.unpack(&files),
                Step::Configure(names) => script.configure(&names),
            }
        }
    }

    fn steps(&mut self, items: &[Item]) -> Vec<Step> {
        let mut by_name: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
        let unpacked = std::mem::take(&mut self.unpacked);
        for item in items.iter().chain(&unpacked) {
            for name in std::iter::once(&item.name).chain(&item.provides) {
                by_name.entry(name).or_default().push(item);
            }
        }
        let mut steps = Vec::new();
        let mut batch: Vec<String> = Vec::new();
        for item in items {
            let mut first: BTreeSet<&str> = BTreeSet::new();
            for alternatives in &item.pre_depends {
                self.collect(alternatives, item, &by_name, &mut first);
            }
            if !first.is_empty() {
                if !batch.is_empty() {
                    steps.push(Step::Unpack(std::mem::take(&mut batch)));
                }
                let names: Vec<String> = first.into_iter().map(str::to_owned).collect();
                self.configured.extend(names.iter().cloned());
                steps.push(Step::Configure(names));
            }
            batch.push(item.file.clone());
        }
        if !batch.is_empty() {
            steps.push(Step::Unpack(batch));
        }
        steps
    }

    /// Adds what must be configured for `alternatives` to hold, with all it depends on.
    fn collect<'i>(
        &self,
        alternatives: &[relation::Relation],
        asking: &Item,
        by_name: &BTreeMap<&str, Vec<&'i Item>>,
        first: &mut BTreeSet<&'i str>,
    ) {
        let holds = |relation: &relation::Relation| self.configured.contains(&relation.name);
        if alternatives.iter().any(holds) {
            return;
        }
        let found = alternatives
            .iter()
            .find_map(|relation| by_name.get(relation.name.as_str())?.first().copied());
        if let Some(item) = found
            && item.name != asking.name
            && !self.configured.contains(&item.name)
            && first.insert(&item.name)
        {
            for needed in item.pre_depends.iter().chain(&item.depends) {
                self.collect(needed, item, by_name, first);
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Unpack(Vec<String>),
    Configure(Vec<String>),
}

impl Item {
    fn of(control: &str, file: String) -> Self {
        let paragraph = control::paragraphs(control).next().and_then(Result::ok);
        let get = |name: &str| -> &str {
            let paragraph = paragraph.as_ref();
            paragraph.and_then(|one| one.get(name)).unwrap_or_default()
        };
        // Relations that cannot be read were refused when the packages were chosen, or are dpkg's to
        // refuse.
        let relations = |name: &str| relation::parse(get(name)).unwrap_or_default();
        let provides = relation::parse_flat(get("Provides")).unwrap_or_default();
        Self {
            name: get("Package").to_owned(),
            provides: provides.into_iter().map(|one| one.name).collect(),
            pre_depends: relations("Pre-Depends"),
            depends: relations("Depends"),
            file,
        }
    }
}

fn file_name(at: usize) -> String {
    format!("{at:04}.deb")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, pre_depends: &str, depends: &str, provides: &[&str]) -> Item {
        Item {
            name: name.to_owned(),
            provides: provides.iter().map(|one| (*one).to_owned()).collect(),
            pre_depends: relation::parse(pre_depends).unwrap(),
            depends: relation::parse(depends).unwrap(),
            file: format!("{name}.deb"),
        }
    }

    fn show(configured: &[&str], unpacked: &[&str], items: &[Item]) -> Vec<String> {
        let configured = configured.iter().map(|one| (*one).to_owned()).collect();
        let unpacked: Vec<String> = unpacked.iter().map(|one| (*one).to_owned()).collect();
        let steps = Unpacking::after(configured, &unpacked).steps(items);
        let show = |step| match step {
            Step::Unpack(files) => format!("unpack {}", files.join(" ")),
            Step::Configure(names) => format!("configure {}", names.join(" ")),
        };
        steps.into_iter().map(show).collect()
    }

    #[test]
    fn everything_is_unpacked_at_once_where_it_can_be() {
        let items = [
            item("a", "libc6", "b", &[]),
            item("b", "libc6 | other", "", &[]),
        ];
        assert_eq!(show(&["libc6"], &[], &items), ["unpack a.deb b.deb"]);
    }

    #[test]
    fn pre_dependencies_are_configured_with_what_they_need() {
        let items = [
            item("lib", "", "", &[]),
            item("tool", "", "lib, loop", &["virtual"]),
            item("loop", "", "tool", &[]),
            item("app", "virtual", "", &[]),
            item("late", "tool", "", &[]),
        ];
        assert_eq!(
            show(&[], &[], &items),
            [
                "unpack lib.deb tool.deb loop.deb",
                "configure lib loop tool",
                "unpack app.deb late.deb",
            ]
        );
    }

    #[test]
    fn what_was_unpacked_otherwise_is_configured_when_it_is_needed() {
        let items = [
            item("python3.11-minimal", "", "", &[]),
            item("python3", "python3-minimal", "", &[]),
        ];
        let unpacked = ["Package: python3-minimal\nDepends: python3.11-minimal\n"];
        assert_eq!(
            show(&[], &unpacked, &items),
            [
                "unpack python3.11-minimal.deb",
                "configure python3-minimal python3.11-minimal",
                "unpack python3.deb",
            ]
        );
    }
}
