//! What every case starts from: somebody who has entered, and a root file system with busybox.

use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_sandbox::{
    Child, EnterOptions, Exit, Host, OwnerEmulation, Privileges, RootfsSpec, SandboxError,
    SandboxSpec, Stdio, UpperDirectory, enter,
};

/// Who runs a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Root of this machine.
    Root,
    /// An ordinary user with subordinate users and groups.
    Mapped,
    /// An ordinary user with none.
    Single,
}

impl Identity {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Mapped => "mapped",
            Self::Single => "single",
        }
    }

    pub(crate) fn by_name(name: &str) -> Self {
        let all = [Self::Root, Self::Mapped, Self::Single];
        all.into_iter()
            .find(|identity| identity.name() == name)
            .expect("a name from `name`")
    }

    /// User and group; why there is none.
    pub(crate) fn ids(self) -> Result<(u32, u32), String> {
        match self {
            Self::Root => Ok((0, 0)),
            Self::Single => Ok((54_321, 54_321)),
            Self::Mapped => {
                let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
                let (users, groups, accounts) = (
                    read("/etc/subuid"),
                    read("/etc/subgid"),
                    read("/etc/passwd"),
                );
                let found = accounts.lines().find_map(|line| {
                    let fields: Vec<&str> = line.split(':').collect();
                    let prefix = format!("{}:", fields.first()?);
                    let listed = |text: &str| text.lines().any(|line| line.starts_with(&prefix));
                    (listed(&users) && listed(&groups))
                        .then(|| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
                        .flatten()
                });
                found.filter(|(uid, _)| *uid != 0).ok_or_else(|| {
                    "no ordinary user in /etc/subuid and /etc/subgid; `useradd --add-subids-for-system kiln-test` makes \
                     one"
                        .to_owned()
                })
            }
        }
    }
}

pub(crate) struct Context {
    pub(crate) host: Host,
    pub(crate) identity: Identity,
    pub(crate) directory: PathBuf,
    count: u32,
}

const APPLETS: [&str; 40] = [
    "sh", "ls", "cat", "echo", "true", "false", "id", "env", "mount", "umount", "mkdir", "touch",
    "rm", "sleep", "stat", "readlink", "hostname", "ip", "kill", "head", "grep", "chown", "chmod",
    "su", "tr", "wc", "dd", "test", "printf", "pwd", "ps", "find", "ln", "mv", "tty", "stty", "cp",
    "mknod", "seq", "od",
];

impl Context {
    pub(crate) fn enter(identity: Identity, directory: &Path) -> Self {
        for name in ["scratch", "base"] {
            std::fs::create_dir(directory.join(name)).unwrap();
        }
        let base = directory.join("base");
        for name in ["bin", "etc", "tmp", "root", "usr"] {
            std::fs::create_dir(base.join(name)).unwrap();
        }
        std::fs::set_permissions(base.join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        std::fs::copy("/bin/busybox", base.join("bin/busybox"))
            .expect("these tests need the package busybox-static");
        for applet in APPLETS {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            base.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(
            base.join("etc/group"),
            "root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
        )
        .unwrap();
        let host = enter(&EnterOptions {
            scratch: directory.join("scratch"),
            user_namespace: None,
        })
        .unwrap();
        match (identity, host.privileges()) {
            (Identity::Root, Privileges::Root)
            | (Identity::Mapped, Privileges::Mapped { .. })
            | (Identity::Single, Privileges::Single { .. }) => {}
            (_, privileges) => panic!("{identity:?} has {privileges:?}"),
        }
        Self {
            host,
            identity,
            directory: directory.to_owned(),
            count: 0,
        }
    }

    /// A new directory with this content: paths that end in `/` are directories, `a -> b` is a link.
    pub(crate) fn tree(&mut self, entries: &[&str]) -> PathBuf {
        let top = self.fresh("tree");
        for entry in entries {
            if let Some((name, target)) = entry.split_once(" -> ") {
                std::fs::create_dir_all(top.join(name).parent().unwrap()).unwrap();
                symlink(target, top.join(name)).unwrap();
            } else if entry.ends_with('/') {
                std::fs::create_dir_all(top.join(entry)).unwrap();
            } else {
                std::fs::create_dir_all(top.join(entry).parent().unwrap()).unwrap();
                std::fs::write(top.join(entry), *entry).unwrap();
            }
        }
        top
    }

    pub(crate) fn fresh(&mut self, name: &str) -> PathBuf {
        self.count += 1;
        let path = self.directory.join(format!("{name}-{}", self.count));
        std::fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn upper(&mut self) -> UpperDirectory {
        UpperDirectory::passing(self.fresh("upper"), self.fresh("work"))
    }

    /// A shell script in a writable root file system, its output to be read.
    pub(crate) fn script(&mut self, script: &str) -> SandboxSpec {
        let rootfs = RootfsSpec::writable(vec![self.directory.join("base")], self.upper());
        self.script_in(rootfs, script)
    }

    pub(crate) fn script_in(&self, rootfs: RootfsSpec, script: &str) -> SandboxSpec {
        let mut spec = SandboxSpec::new(rootfs, ["/bin/sh", "-c", script]);
        spec.stdio = Stdio::Log;
        if self.identity == Identity::Single {
            spec.security.owners = OwnerEmulation::Flatten;
        }
        spec
    }

    /// Gives a description that was used a new place for its changes.
    pub(crate) fn renew(&mut self, spec: &mut SandboxSpec) {
        spec.rootfs.upper = Some(self.upper());
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, spec: &SandboxSpec) -> (String, Exit) {
        let mut child = self
            .host
            .spawn(spec)
            .unwrap_or_else(|error| panic!("{error}"));
        let text = read_all(&mut child);
        let exit = child
            .wait_timeout(Duration::from_secs(60))
            .unwrap()
            .expect("it takes too long");
        (text, exit)
    }

    /// Runs a script, which has to succeed.
    pub(crate) fn output(&mut self, script: &str) -> String {
        let spec = self.script(script);
        let (text, exit) = self.run(&spec);
        assert!(exit.success(), "{exit:?}: {text}");
        text
    }

    /// Tries to start something that has to be refused.
    pub(crate) fn refusal(&self, spec: &SandboxSpec) -> SandboxError {
        match self.host.spawn(spec) {
            Err(error) => error,
            Ok(mut child) => {
                let text = read_all(&mut child);
                panic!("it was not refused; output: {text}")
            }
        }
    }
}

pub(crate) fn read_all(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(mut output) = child.take_output() {
        output.read_to_end(&mut text).unwrap();
    }
    String::from_utf8_lossy(&text).into_owned()
}

pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
