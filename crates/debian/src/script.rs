//! The script that runs inside a root file system to finish an installation.
//!
//! One script means one start of the sandbox. It makes services stay off (`policy-rc.d`), which is how
//! Debian lets an image builder say so, and puts everything back.

use std::fmt::Write as _;

use crate::Architecture;
use crate::relation;

/// Where the files for the script are inside.
pub(crate) const MOUNT: &str = "/.kiln-packages";

/// Name of the script in that folder.
pub(crate) const SCRIPT: &str = "install.sh";

/// Folder of programs in that folder that come before the image's own.
pub(crate) const PROGRAMS: &str = "bin";

/// What those programs are, and what is in them.
///
/// `ischroot` asks whether the system that packages go to is the one that runs. Its own test looks at process 1,
/// which in a sandbox has the same root, and takes that for a running system: `libc6` then wants init to start
/// again and waits a second for it.
pub(crate) const PROGRAM_FILES: &[(&str, &str)] = &[
    ("ischroot", "#!/bin/sh\nexit 0\n"),
    ("deb-systemd-helper", SYSTEMD_HELPER),
];

/// Answers for `deb-systemd-helper`, a Perl program that three times for each unit of a package takes longer to
/// start than to do its work, where there is none to do: nothing masked means nothing to unmask, and a unit without
/// a state file was enabled. Everything else is left to the image's own, which is in an essential package.
const SYSTEMD_HELPER: &str = r#"#!/bin/sh
state=/var/lib/systemd/deb-systemd
if [ -n "$DPKG_MAINTSCRIPT_PACKAGE" ] && [ -z "$DPKG_ROOT" ]; then
	case "$#:$*" in
	*/*) ;;
	"2:unmask "*)
		if [ ! -e "/etc/systemd/system/$2" ] && [ ! -e $state-helper-masked ] &&
			[ ! -e $state-user-helper-masked ]; then
			exit 0
		fi
		;;
	"3:--quiet was-enabled "*)
		if [ ! -e "$state-helper-enabled/$3.dsh-also" ]; then
			exit 0
		fi
		;;
	esac
fi
exec /usr/bin/deb-systemd-helper "$@"
"#;

/// The script, as it grows.
#[derive(Debug)]
pub(crate) struct Script(String);

/// dpkg never asks, keeps local changes of configuration files, and does not sync what would be lost with
/// the whole tree anyway.
const DPKG: &str = "dpkg --force-unsafe-io --force-confdef --force-confold --no-pager";

impl Script {
    pub(crate) fn new() -> Self {
        // `exec` of a script by dpkg needs no shell here; everything below is POSIX.
        Self(
            "set -e\n\
             umask 022\n\
             cd /\n\
             policy=/usr/sbin/policy-rc.d\n\
             made=\n\
             if [ ! -e $policy ] && [ ! -L $policy ]; then\n\
             \tprintf '#!/bin/sh\\nexit 101\\n' >$policy\n\
             \tchmod 755 $policy\n\
             \tmade=$policy\n\
             fi\n\
             trap 'if [ -n \"$made\" ]; then rm -f \"$made\"; fi' EXIT\n"
                .to_owned(),
        )
    }

    /// Runs the preinst scripts of packages that were unpacked without dpkg.
    pub(crate) fn preinst(&mut self, database_name: &str, architecture: Architecture) {
        let package = database_name.split(':').next().unwrap_or_default();
        debug_assert!(relation::is_package_name(package));
        writeln!(
            self.0,
            "(\n\
             \texport DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_MAINTSCRIPT_DEBUG=0\n\
             \texport DPKG_MAINTSCRIPT_PACKAGE={package} DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1\n\
             \texport DPKG_MAINTSCRIPT_ARCH={architecture} DPKG_MAINTSCRIPT_NAME=preinst\n\
             \texec /var/lib/dpkg/info/{database_name}.preinst install\n\
             ) </dev/null || {{ echo \"the preinst script of {package} failed with $?\" >&2; exit 1; }}"
        )
        .expect("a String takes everything");
    }

    /// Unpacks package files, by their names in the mounted folder.
    pub(crate) fn unpack(&mut self, files: &[String]) {
        if !files.is_empty() {
            write!(self.0, "{DPKG} --unpack").expect("a String takes everything");
            for file in files {
                write!(self.0, " {MOUNT}/{file}").expect("a String takes everything");
            }
            self.0.push('\n');
        }
    }

    /// Configures packages, in this order where their dependencies leave a choice.
    pub(crate) fn configure(&mut self, names: &[String]) {
        if !names.is_empty() {
            debug_assert!(names.iter().all(|name| !name.contains(char::is_whitespace)));
            writeln!(self.0, "{DPKG} --configure {}", names.join(" "))
                .expect("a String takes everything");
        }
    }

    /// Configures everything that is not yet, and runs what triggers are pending.
    pub(crate) fn configure_pending(&mut self) {
        writeln!(self.0, "{DPKG} --configure --pending").expect("a String takes everything");
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

/// Returns the environment of the package tools: the same on every machine.
pub(crate) fn environment(epoch: i64) -> Vec<(String, String)> {
    let epoch = epoch.to_string();
    let path =
        format!("{MOUNT}/{PROGRAMS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    [
        ("PATH", path.as_str()),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("TERM", "dumb"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        ("DEBCONF_NOWARNINGS", "yes"),
        ("SOURCE_DATE_EPOCH", &epoch),
        // What scripts in these languages write must not depend on the order of a hash table.
        ("PERL_HASH_SEED", "0"),
        ("PYTHONHASHSEED", "0"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}
