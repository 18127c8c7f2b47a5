//! Programs of arm64 where the processor is another one, run by qemu.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::{OfUser, is_root};
use crate::events::Build;
use crate::fixtures::write_busybox_rootfs;
use crate::fixtures::write_foreign_rootfs;
use crate::space::{TestSpace, host};

const MANIFEST: &str = r#"
schema = 1
[project]
name = "t"
default = "app"
[image.app]
from = { rootfs = "rootfs-${target.arch}.tar" }
platforms = ["linux/amd64", "linux/arm64"]
[image.app.step.machine]
run = """
uname -m > /machine
test "$(cat /machine)" = "${target.machine}"
# A pipe, a background process, its end, and a program that another one starts.
(sleep 0.1; echo late) | tr a-z A-Z > /late & wait
mkdir /d; for i in 1 2 3; do echo $i > /d/$i; done
find /d -type f -exec sha256sum {} ';' | sort > /sums
ln -s machine /link; chown 33:33 /sums; chmod 4755 /d/1
"""
[image.app.step.user]
needs = ["machine"]
user = "nobody"
env  = { WHO = "${target.platform}" }
run  = "test $(id -u) = 65534; echo $WHO > /tmp/who"
[image.app.config]
cmd = ["cat", "/machine"]
"#;

/// Emulators for the ordinary user only: where nobody has installed any.
const NO_EMULATORS: (&str, &str) = ("PATH", "/usr/local/sbin:/usr/sbin:/sbin");

fn project() -> TestSpace {
    let space = TestSpace::with_manifest(MANIFEST);
    write_busybox_rootfs(&space, "rootfs-amd64.tar");
    write_foreign_rootfs(&space, "rootfs-arm64.tar", "arm64");
    space
}

/// A handler of the whole machine, taken away again.
struct Registered {
    folder: PathBuf,
}

impl Registered {
    const NAME: &'static str = "kiln-test-arm64";

    /// Mounts the machine's handlers and adds one with the flag `F`.
    fn new(space: &TestSpace) -> Self {
        let folder = space.path().join("handlers");
        fs::create_dir(&folder).expect("a folder");
        host(
            Command::new("mount")
                .args(["-t", "binfmt_misc", "none"])
                .arg(&folder),
        );
        let registered = Self { folder };
        let escaped = |bytes: &[u8]| -> String {
            bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
        };
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        magic[16..].copy_from_slice(&[2, 0, 183, 0]);
        let mut mask = [0xff; 20];
        (mask[7], mask[16]) = (0, 0xfe);
        let text = format!(
            ":{}:M::{}:{}:/usr/bin/qemu-aarch64-static:PF",
            Self::NAME,
            escaped(&magic),
            escaped(&mask)
        );
        fs::write(registered.folder.join("register"), text).expect("a handler");
        registered
    }

    /// Whether the machine has one for arm64 anyway.
    fn is_there_anyway() -> bool {
        fs::read_to_string("/proc/sys/fs/binfmt_misc/qemu-aarch64").is_ok()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let removed = fs::write(self.folder.join(Self::NAME), "-1");
        host(Command::new("umount").arg(&self.folder));
        assert!(removed.is_ok() || std::thread::panicking(), "{removed:?}");
    }
}

#[test]
fn an_ordinary_user_brings_an_emulator_and_root_uses_the_machines() {
    if !is_root() {
        return;
    }
    let space = project();
    let theirs = OfUser::take(&space);
    // Nothing is built where programs of one platform cannot run.
    let refused = Build::from(theirs.kiln_with(&["build", "--progress", "json"], &[NO_EMULATORS]));
    if !Registered::is_there_anyway() {
        refused
            .run
            .assert_code(3)
            .assert_says("`app.machine@linux/arm64` runs programs of linux/arm64")
            .assert_says("there is no static")
            .assert_says("qemu-user-static");
        assert_eq!(refused.ran(), [""; 0]);
    }
    let built = Build::from(theirs.kiln(&["build", "--progress", "json"]));
    built.run.assert_code(0);
    let digest = built.digest_of("app");
    let run = theirs.kiln(&["run", "--platform", "linux/arm64"]);
    run.assert_code(0);
    assert_eq!(run.stdout, "aarch64\n");
    assert_eq!(theirs.kiln(&["run"]).stdout, "x86_64\n");
    let shell = theirs.kiln(&[
        "shell",
        "--platform",
        "linux/arm64",
        "app.machine",
        "--shell",
        "/bin/uname",
    ]);
    shell.assert_code(0);
    // Whoever starts a container that was made before brings the emulator.
    let create = [
        "create",
        "--name",
        "kept",
        "--platform",
        "linux/arm64",
        "app",
    ];
    theirs.kiln(&create).assert_code(0);
    let started = theirs.kiln(&["start", "--attach", "kept"]);
    started.assert_code(0);
    assert_eq!(started.stdout, "aarch64\n");
    theirs.kiln(&["rm", "kept"]).assert_code(0);
    // What is cached needs no emulator; what runs does.
    theirs.kiln_with(&["build"], &[NO_EMULATORS]).assert_code(0);
    let refused = theirs.kiln_with(&["run", "--platform", "linux/arm64"], &[NO_EMULATORS]);
    if !Registered::is_there_anyway() {
        refused
            .assert_code(125)
            .assert_says("`app` runs programs of linux/arm64");
    }
    drop(theirs);

    let own = project();
    if !Registered::is_there_anyway() {
        let refused = Build::of(&own, &[]);
        refused
            .run
            .assert_code(3)
            .assert_says("the kernel has no handler for programs of arm64");
        assert_eq!(refused.ran(), [""; 0]);
        Build::ok(&own, &["--platform", "linux/amd64"]);
    }
    let registered = Registered::new(&own);
    assert_eq!(Build::ok(&own, &[]).digest_of("app"), digest);
    let run = own.kiln(["run", "--platform", "linux/arm64"]);
    run.assert_code(0);
    assert_eq!(run.stdout, "aarch64\n");
    drop(registered);
}
