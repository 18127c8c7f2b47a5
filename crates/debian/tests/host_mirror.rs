//! The only tests that use the network: real systems from the mirror that this host's apt uses.
//!
//! They need root, for namespaces and owners. Where the host has no Debian sources, or we are not root,
//! they say so and do nothing.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jiff::Timestamp;
use kiln_debian::{
    Architecture, ArchiveSet, Base, Catalog, HostSources, InstallOptions, Installed, Keyring,
    LockedPackage, MirrorSettings, Request, Silent, bootstrap, install, resolve, scrub,
};
use kiln_oci::Digest;
use support::{Chroot, World};

/// 1980-01-01.
const EPOCH: i64 = 315_532_800;

struct Mirror {
    folder: tempfile::TempDir,
    world: World,
    set: ArchiveSet,
    catalog: Catalog,
}

impl Mirror {
    /// Opens the host's mirror; `None` with a printed reason if the test cannot run.
    #[expect(clippy::disallowed_methods, reason = "signatures are judged by today")]
    fn open(suite: &str, architecture: Architecture) -> Option<Self> {
        if !support::is_root() {
            println!("SKIP: needs root");
            return None;
        }
        let host = HostSources::read(Path::new("/")).unwrap();
        if host.main.is_empty() {
            println!("SKIP: the host has no Debian sources");
            return None;
        }
        // In memory where that can be: the package tools sync a lot.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        let world = World::new(&folder.path().join("downloads"));
        let now = Timestamp::try_from(std::time::SystemTime::now()).unwrap();
        let none = MirrorSettings::default();
        let set = ArchiveSet::choose(suite, &[], &none, &none, Some(&host), now).unwrap();
        let keyring = Keyring::of_host(Path::new("/")).unwrap();
        let cache = folder.path().join("cache");
        let start = Instant::now();
        let catalog = Catalog::open(
            &set,
            architecture,
            &keyring,
            world.outside(),
            Some(&cache),
            now,
        )
        .unwrap();
        println!("catalog of {suite}: {:?}", start.elapsed());
        Some(Self {
            folder,
            world,
            set,
            catalog,
        })
    }

    fn packages(&self, names: &[&str], over: Option<&Installed>) -> Vec<(LockedPackage, PathBuf)> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let request = Request {
            packages: &names,
            over,
            pins: &BTreeSet::new(),
        };
        let chosen = resolve(&self.catalog, &request).unwrap();
        let start = Instant::now();
        let outside = self.world.outside();
        let paths = support::download(&chosen, &self.set, self.catalog.date(), outside).unwrap();
        println!(
            "{} packages downloaded: {:?}",
            chosen.len(),
            start.elapsed()
        );
        chosen.into_iter().zip(paths).collect()
    }

    /// Makes a root file system and installs more over it, in conditions that `odd` changes.
    fn build(&self, name: &str, base: &[&str], more: &[&str], odd: bool) -> PathBuf {
        let root = self.folder.path().join(name);
        fs::create_dir(&root).unwrap();
        let scratch = tempfile::tempdir_in(self.folder.path()).unwrap();
        let mut options = InstallOptions {
            architecture: Architecture::Amd64,
            epoch: EPOCH,
            ownership: kiln_layer::Ownership::Keep,
            jobs: if odd { 5 } else { 2 },
            scratch: scratch.path(),
            progress: &Silent,
        };
        let mut chroot = Chroot::new(&root);
        if odd {
            chroot.host_name = "elsewhere".to_owned();
        }
        let packages = self.packages(base, None);
        let start = Instant::now();
        bootstrap(&packages, &root, &options, &mut chroot).unwrap();
        scrub(&root, EPOCH).unwrap();
        println!("{name}: {} packages: {:?}", packages.len(), start.elapsed());
        if !more.is_empty() {
            let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
            let base = Base::read(
                Some(&read("etc/os-release")),
                Some(&read("var/lib/dpkg/status")),
                Architecture::Amd64,
            )
            .unwrap();
            assert_eq!(base.suite, self.set.suite);
            let packages = self.packages(more, Some(&base.installed));
            let scratch = tempfile::tempdir_in(self.folder.path()).unwrap();
            options.scratch = scratch.path();
            let start = Instant::now();
            install(&packages, &base.installed, &options, &mut chroot).unwrap();
            scrub(&root, EPOCH).unwrap();
            println!("{name}: {} more: {:?}", packages.len(), start.elapsed());
        }
        root
    }
}

/// Everything about a tree that its layer will have, but times, which are all set to one.
fn contents(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = path.symlink_metadata().unwrap();
            let content = if stat.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else if stat.is_file() {
                Digest::of(&fs::read(&path).unwrap()).hex()
            } else {
                String::new()
            };
            if stat.is_dir() {
                pending.push(path.clone());
            }
            let name = path.strip_prefix(root).unwrap().display().to_string();
            found.insert(
                name,
                format!("{:o} {} {} {content}", stat.mode(), stat.uid(), stat.gid()),
            );
        }
    }
    found
}

fn run(root: &Path, command: &[&str]) -> String {
    let output = std::process::Command::new("chroot")
        .arg(root)
        .args(command)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text
}

#[test]
fn two_builds_of_a_system_from_the_host_mirror_are_equal() {
    let Some(mirror) = Mirror::open("bookworm", Architecture::Amd64) else {
        return;
    };
    // Downloaded once, so that the two do not get in each other's way.
    mirror.packages(&["make", "python3-flask"], None);
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| mirror.build("other", &["make"], &["python3-flask"], true));
        let one = mirror.build("one", &["make"], &["python3-flask"], false);
        (one, other.join().unwrap())
    });
    assert_eq!(run(&one, &["dpkg", "--audit"]), "");
    assert_eq!(run(&one, &["dpkg", "--verify"]), "");
    assert_eq!(
        run(&one, &["python3", "-c", "import flask; print(1 + 1)"]),
        "2\n"
    );
    assert_eq!(run(&one, &["awk", "BEGIN { print 7 }"]), "7\n");
    let states = run(
        &one,
        &[
            "dpkg-query",
            "--show",
            "--showformat",
            "${db:Status-Status}\n",
        ],
    );
    assert!(states.lines().all(|state| state == "installed"), "{states}");
    let (one, other) = (contents(&one), contents(&other));
    let differ: Vec<&String> = one
        .keys()
        .chain(other.keys())
        .filter(|name| one.get(*name) != other.get(*name))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(one.len() > 5000, "{}", one.len());
}

#[test]
fn the_host_mirror_has_packages_for_arm64() {
    let Some(mirror) = Mirror::open("trixie", Architecture::Arm64) else {
        return;
    };
    let names = ["gcc".to_owned()];
    let request = Request {
        packages: &names,
        over: None,
        pins: &BTreeSet::new(),
    };
    let chosen = resolve(&mirror.catalog, &request).unwrap();
    assert!(
        chosen
            .iter()
            .any(|one| one.name == "libc6" && one.architecture == "arm64")
    );
    assert!(chosen.iter().all(|one| one.architecture != "amd64"));
}
