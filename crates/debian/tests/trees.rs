//! Root file systems from small packages, with nobody to run their scripts.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kiln_debian::{
    Architecture, InstallError, InstallOptions, Installed, LockedPackage, RootCommand, RootExit,
    RunInRoot, Silent, bootstrap, install,
};
use kiln_oci::Digest;
use support::archive::{Entry, Package};

/// 1980-01-01.
const EPOCH: i64 = 315_532_800;

/// Remembers the script it should have run.
#[derive(Default)]
struct Recorder {
    script: String,
    files: Vec<String>,
    env: Vec<(String, String)>,
    exit: Option<RootExit>,
}

impl RunInRoot for Recorder {
    fn run(
        &mut self,
        command: &RootCommand,
        output: &mut dyn FnMut(&[u8]),
    ) -> io::Result<RootExit> {
        let [mount] = command.mounts.as_slice() else {
            panic!("{:?}", command.mounts);
        };
        assert_eq!(
            command.argv,
            ["/bin/sh".to_owned(), format!("{}/install.sh", mount.target)]
        );
        self.script = fs::read_to_string(mount.source.join("install.sh"))?;
        for entry in fs::read_dir(&mount.source)? {
            self.files.push(entry?.file_name().into_string().unwrap());
        }
        self.files.sort_unstable();
        self.env.clone_from(&command.env);
        output(b"the last words\n");
        Ok(self.exit.unwrap_or(RootExit::Code(0)))
    }
}

struct Scene {
    folder: tempfile::TempDir,
    packages: Vec<(LockedPackage, PathBuf)>,
    recorder: Recorder,
}

impl Scene {
    fn new(packages: &[Package]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        let packages = packages
            .iter()
            .map(|package| {
                let bytes = package.deb();
                let path = folder.path().join(format!("{}.deb", package.name));
                fs::write(&path, &bytes).unwrap();
                let locked = LockedPackage {
                    name: package.name.clone(),
                    version: package.version.clone(),
                    architecture: "all".to_owned(),
                    size_bytes: bytes.len() as u64,
                    sha256: Digest::of(&bytes),
                    path: format!("pool/{}.deb", package.name),
                };
                (locked, path)
            })
            .collect();
        Self {
            folder,
            packages,
            recorder: Recorder::default(),
        }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn with_options<T>(&mut self, act: impl FnOnce(&mut Self, &InstallOptions<'_>) -> T) -> T {
        let scratch = self.folder.path().join("scratch");
        let ownership = if support::is_root() {
            kiln_layer::Ownership::Keep
        } else {
            kiln_layer::Ownership::Flatten
        };
        let options = InstallOptions {
            architecture: Architecture::Amd64,
            epoch: EPOCH,
            ownership,
            jobs: 3,
            scratch: &scratch,
            progress: &Silent,
        };
        act(self, &options)
    }

    fn bootstrap(&mut self) -> Result<(), InstallError> {
        self.with_options(|scene, options| {
            bootstrap(&scene.packages, &scene.root(), options, &mut scene.recorder)
        })
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn base_files() -> Package {
    Package::new("base-files", "12", "Essential: yes\nPriority: required")
        .entry(Entry::Directory("./tmp/".to_owned(), 0o1777))
        .file("etc/issue", "Debian\n")
        .member("conffiles", "/etc/issue\n")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[test]
fn packages_become_a_merged_tree_with_a_database() {
    let mut scene = Scene::new(&[
        base_files(),
        Package::new("tool", "1.0-1", "Multi-Arch: foreign\nDepends: lib")
            .file("bin/tool", "tool")
            .file("usr/bin/other", "other")
            .member("md5sums", "aa  bin/tool\n")
            .member("postinst", "#!/bin/sh\n"),
        Package::new("lib", "2", "Multi-Arch: same\nPriority: required")
            .file("lib/x/lib.so", "lib")
            .file("usr/share/doc/lib/copyright", "c")
            .member(
                "triggers",
                "interest-noawait /usr/share/man\ninterest ldconfig\n",
            ),
    ]);
    scene.bootstrap().unwrap();
    let root = scene.root();
    assert_eq!(
        fs::read_link(root.join("bin")).unwrap(),
        Path::new("usr/bin")
    );
    assert_eq!(
        fs::read_link(root.join("lib64")).unwrap(),
        Path::new("usr/lib64")
    );
    assert_eq!(scene.read("usr/bin/tool"), "tool");
    assert_eq!(scene.read("usr/bin/other"), "other");
    assert_eq!(scene.read("usr/lib/x/lib.so"), "lib");
    let metadata = fs::metadata(root.join("usr/bin/tool")).unwrap();
    assert_eq!(
        std::os::unix::fs::MetadataExt::mtime(&metadata),
        EPOCH,
        "the time it will have in the end"
    );
    let tmp = fs::metadata(root.join("tmp")).unwrap();
    assert_eq!(tmp.permissions().mode() & 0o7777, 0o1777);

    let status = scene.read("var/lib/dpkg/status");
    let issue = "Conffiles:\n /etc/issue 32865e97b5342e762ab140e00f3da23b\n";
    assert!(status.contains(issue), "{status}");
    assert!(
        status.contains("Package: lib\nStatus: install ok unpacked\nVersion: 2\n"),
        "{status}"
    );
    let names: Vec<&str> = status
        .lines()
        .filter_map(|line| line.strip_prefix("Package: "))
        .collect();
    assert_eq!(names, ["base-files", "lib", "tool"]);
    assert_eq!(
        scene.read("var/lib/dpkg/info/tool.list"),
        "/.\n/bin\n/bin/tool\n/usr\n/usr/bin\n/usr/bin/other\n"
    );
    assert_eq!(
        scene.read("var/lib/dpkg/info/tool.md5sums"),
        "aa  bin/tool\n"
    );
    assert_eq!(
        scene.read("var/lib/dpkg/info/lib:all.md5sums"),
        "e8acc63b1e238f3255c900eed37254b8  lib/x/lib.so\n\
         4a8a08f09d37b73795649038408b5f33  usr/share/doc/lib/copyright\n"
    );
    assert!(root.join("var/lib/dpkg/info/tool.postinst").is_file());
    assert!(!root.join("var/lib/dpkg/info/tool.control").exists());
    assert_eq!(
        scene.read("var/lib/dpkg/triggers/File"),
        "/usr/share/man lib:all/noawait\n"
    );
    assert_eq!(scene.read("var/lib/dpkg/triggers/ldconfig"), "lib:all\n");
    assert_eq!(scene.read("var/lib/dpkg/info/format"), "1\n");
    assert!(!root.join(".kiln-staging").exists());

    let script = &scene.recorder.script;
    assert!(
        script.contains("--configure base-files tool lib:all\n"),
        "{script}"
    );
    assert!(script.contains("--configure --pending\n"), "{script}");
    assert!(!script.contains("--unpack"), "{script}");
    let epoch = EPOCH.to_string();
    let env = &scene.recorder.env;
    assert!(env.contains(&("SOURCE_DATE_EPOCH".to_owned(), epoch)));
    assert!(env.contains(&("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())));
}

#[test]
fn a_base_that_brings_its_links_gets_no_others() {
    let mut base = base_files();
    for name in ["usr/", "usr/bin/", "usr/lib/"] {
        base = base.entry(Entry::Directory(format!("./{name}"), 0o755));
    }
    base = base
        .entry(Entry::Symlink("./bin".to_owned(), "usr/bin".to_owned()))
        .entry(Entry::Symlink("./lib".to_owned(), "usr/lib".to_owned()));
    // Not the first of the list: it is put in place first all the same.
    let mut scene = Scene::new(&[Package::new("tool", "1", "").file("bin/tool", "x"), base]);
    scene.bootstrap().unwrap();
    assert_eq!(scene.read("usr/bin/tool"), "x");
    assert!(!scene.root().join("lib64").exists());
}

#[test]
fn scripts_before_the_files_are_left_to_dpkg_outside_the_base() {
    let script = "#!/bin/sh\nset -e\nadduser --system me\n";
    let mut scene = Scene::new(&[
        base_files(),
        Package::new("base-passwd", "3", "Essential: yes")
            .member("preinst", script)
            .file("usr/share/base", "x"),
        Package::new("idle", "1", "Pre-Depends: base-files")
            .member(
                "preinst",
                "#!/bin/sh\nset -e\ndpkg-maintscript-helper rm_conffile /etc/x 1 -- \"$@\"\n",
            )
            .file("usr/share/idle", "x"),
        Package::new("daemon", "1", "Pre-Depends: idle")
            .member("preinst", script)
            .file("usr/sbin/daemon", "x"),
    ]);
    scene.bootstrap().unwrap();
    assert!(scene.root().join("usr/share/idle").exists());
    assert!(!scene.root().join("usr/sbin/daemon").exists());
    assert!(
        !scene
            .read("var/lib/dpkg/status")
            .contains("Package: daemon")
    );
    assert_eq!(scene.recorder.files, ["0000.deb", "bin", "install.sh"]);
    let script = &scene.recorder.script;
    let at = |text: &str| {
        script
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {script}"))
    };
    let preinst = at("info/base-passwd.preinst install");
    let base = at("--configure base-files base-passwd\n");
    let needed = at("--configure idle\n");
    let unpack = at("--unpack /.kiln-packages/0000.deb\n");
    let rest = at("--configure --pending\n");
    assert!(
        preinst < base && base < needed && needed < unpack && unpack < rest,
        "{script}"
    );
}

#[test]
fn who_replaces_a_file_has_it() {
    let mut scene = Scene::new(&[
        base_files(),
        Package::new("old", "1", "").file("usr/share/x", "old"),
        Package::new("new", "2", "Replaces: old (<< 2)").file("usr/share/x", "new"),
        Package::new("kept", "1", "").file("bin/y", "kept"),
        Package::new("wins", "1", "Replaces: late").file("bin/z", "wins"),
        Package::new("late", "1", "Replaces: kept")
            .file("usr/bin/y", "late")
            .file("usr/bin/z", "late"),
    ]);
    scene.bootstrap().unwrap();
    assert_eq!(scene.read("usr/share/x"), "new");
    assert_eq!(
        scene.read("usr/bin/y"),
        "late",
        "by another way to write its path"
    );
    assert_eq!(scene.read("usr/bin/z"), "wins");
    let list = |name: &str| scene.read(&format!("var/lib/dpkg/info/{name}.list"));
    assert!(!list("old").contains("/usr/share/x"));
    assert!(list("new").contains("/usr/share/x"));
    assert!(!list("kept").contains("/bin/y"));
    assert!(!list("late").contains("/usr/bin/z"));
}

#[test]
fn a_file_of_two_packages_is_an_error() {
    let mut scene = Scene::new(&[
        base_files(),
        Package::new("one", "1", "").file("bin/x", "x"),
        Package::new("two", "1", "").file("usr/bin/x", "x"),
    ]);
    let error = scene.bootstrap().unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, InstallError::Conflict { .. }), "{text}");
    assert!(
        text.contains("`one`") && text.contains("`two`") && text.contains("/usr/bin/x"),
        "{text}"
    );
    let mut scene = Scene::new(&[
        base_files(),
        Package::new("file", "1", "").file("usr/thing", "x"),
        Package::new("folder", "1", "").file("usr/thing/x", "x"),
    ]);
    assert!(matches!(
        scene.bootstrap(),
        Err(InstallError::Conflict { .. })
    ));
}

#[test]
fn hostile_packages_are_refused_and_touch_nothing_outside() {
    let file = |path: &str| Entry::File(path.to_owned(), 0o644, "evil".to_owned());
    let link = |path: &str, to: &str| Entry::Symlink(path.to_owned(), to.to_owned());
    let hard = |path: &str, to: &str| Entry::Hardlink(path.to_owned(), to.to_owned());
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("victim"), "fine").unwrap();
    let away = outside.path().display().to_string();
    let cases: Vec<Vec<Entry>> = vec![
        vec![file("../escape")],
        vec![file("./usr/../../escape")],
        vec![file(&format!("{away}/escape"))],
        vec![link("./usr", &away), file("./usr/escape")],
        vec![hard("./etc/victim", &format!("{away}/victim"))],
        vec![hard("./etc/victim", "../../victim")],
        vec![file("./a"), file("./a")],
    ];
    for entries in cases {
        let mut evil = Package::new("evil", "1", "");
        evil.files.clone_from(&entries);
        let mut scene = Scene::new(&[base_files(), evil]);
        let error = scene.bootstrap().unwrap_err();
        let text = chain(&error);
        assert!(
            matches!(error, InstallError::Unpack { .. }),
            "{text}: {entries:?}"
        );
        assert!(text.contains("`evil=1`"), "{text}");
    }
    let left: Vec<_> = fs::read_dir(outside.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["victim"]);
    assert_eq!(
        fs::read_to_string(outside.path().join("victim")).unwrap(),
        "fine"
    );
}

#[test]
fn links_of_one_package_do_not_lead_another_out() {
    let outside = tempfile::tempdir().unwrap();
    let away = outside.path().display().to_string();
    let evil = |name: &str| {
        Package::new("evil", "1", "").entry(Entry::Symlink(format!("./{name}"), away.clone()))
    };
    // A folder of the tree that is a link, absolute: it means a place inside, which is not there.
    let mut scene = Scene::new(&[
        base_files(),
        evil("data"),
        Package::new("next", "1", "").file("data/file", "x"),
    ]);
    assert!(matches!(
        scene.bootstrap(),
        Err(InstallError::Conflict { .. })
    ));
    // The database's own folders.
    let mut scene = Scene::new(&[base_files(), evil("var")]);
    let text = scene.bootstrap().err().map(|error| chain(&error));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{text:?}");
    // A configuration file that is a link to the host's.
    fs::write(outside.path().join("secret"), "s").unwrap();
    let conffile = Package::new("evil", "1", "")
        .member("conffiles", "/secret\n")
        .entry(Entry::Symlink(
            "./secret".to_owned(),
            format!("{away}/secret"),
        ));
    let mut scene = Scene::new(&[base_files(), conffile]);
    assert!(matches!(scene.bootstrap(), Err(InstallError::File { .. })));
}

#[test]
fn hostile_control_members_are_refused() {
    for name in ["../x", "sub/x", "a b"] {
        let mut scene = Scene::new(&[
            base_files(),
            Package::new("evil", "1", "").member(name, "x"),
        ]);
        let error = scene.bootstrap().unwrap_err();
        assert!(
            matches!(
                error,
                InstallError::Unpack { .. } | InstallError::ControlMember { .. }
            ),
            "{name}: {error}"
        );
    }
    let mut scene = Scene::new(&[base_files(), Package::new("real", "1", "")]);
    scene.packages[1].0.version = "2".to_owned();
    let error = scene.bootstrap().unwrap_err();
    assert!(
        matches!(error, InstallError::OtherPackage { .. }),
        "{error}"
    );
}

#[test]
fn a_failing_script_shows_its_last_words() {
    let mut scene = Scene::new(&[base_files()]);
    scene.recorder.exit = Some(RootExit::Code(9));
    let error = scene.bootstrap().unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("exit code 9") && text.contains("the last words"),
        "{text}"
    );
}

#[test]
fn packages_over_a_base_are_left_to_its_dpkg() {
    let mut scene = Scene::new(&[
        Package::new("lib", "2", "").file("usr/lib/lib", "x"),
        Package::new("app", "1", "Pre-Depends: lib").file("usr/bin/app", "x"),
    ]);
    let status = "Package: lib\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n";
    let installed = Installed::parse(status, Architecture::Amd64).unwrap();
    let result = scene.with_options(|scene, options| {
        install(&scene.packages, &installed, options, &mut scene.recorder)
    });
    result.unwrap();
    assert_eq!(fs::read_dir(scene.root()).unwrap().count(), 0);
    assert_eq!(
        scene.recorder.files,
        ["0000.deb", "0001.deb", "bin", "install.sh"]
    );
    let script = &scene.recorder.script;
    let steps: Vec<&str> = script
        .lines()
        .filter_map(|line| line.strip_prefix("dpkg "))
        .filter_map(|line| line.split("--no-pager ").nth(1))
        .collect();
    assert_eq!(
        steps,
        [
            "--unpack /.kiln-packages/0000.deb",
            "--configure lib",
            "--unpack /.kiln-packages/0001.deb",
            "--configure --pending",
        ]
    );
    let none: Vec<(LockedPackage, PathBuf)> = Vec::new();
    let mut idle = Recorder::default();
    scene
        .with_options(|_, options| install(&none, &installed, options, &mut idle))
        .unwrap();
    assert!(idle.script.is_empty(), "nothing to install, nothing to run");
}
