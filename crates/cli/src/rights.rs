//! Flags about what a container may do; docker's.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use clap::Args;
use kiln_runtime::{Overrides, PlannedCommunication, ProcessLimit, Profile, Rights};
use kiln_sandbox::SettingOf;

use crate::container::wrong;
use crate::errors::Outcome;
use crate::ipc::Ipc;
use crate::measures::size;
use crate::settings::Settings;

/// Longest profile that is read; docker's own has 15 KB.
const PROFILE_LIMIT_BYTES: u64 = 1 << 20;

/// Flags about rights and sizes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Rights")]
pub(crate) struct RightsArgs {
    /// Give it a capability, such as NET_ADMIN, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = Rights::capability)]
    cap_add: Vec<String>,

    /// Take a capability from it, or ALL
    #[arg(long, value_name = "CAPABILITY", value_parser = Rights::capability)]
    cap_drop: Vec<String>,

    /// Let its programs gain rights (no-new-privileges=false), make any system call (seccomp=unconfined) or those of a
    /// profile in a file (seccomp=FILE)
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,

    /// Put its user into this group, too, by name or number
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,

    /// Set a resource limit of its processes, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = ProcessLimit::parse)]
    ulimit: Vec<ProcessLimit>,

    /// Set the size of /dev/shm [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    shm_size: Option<u64>,

    /// Say whose message queues and shared memory it has, /dev/shm included: its own, which others can have too
    /// (shareable) or not (private), or container:NAME for those of another container [default: private]
    #[arg(long, value_name = "WHOSE", value_parser = Ipc::parse)]
    ipc: Option<Ipc>,

    /// Give it a setting of the kernel of its own, such as net.ipv4.ip_forward=1
    #[arg(long, value_name = "NAME=VALUE", value_parser = sysctl)]
    sysctl: Vec<(String, String)>,

    /// Say how soon its processes are killed when the machine has no memory left, -1000 to 1000
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i16).range(-1000..=1000), allow_negative_numbers = true)]
    oom_score_adj: Option<i16>,
}

impl RightsArgs {
    /// Adds what is to be different.
    ///
    /// # Errors
    /// An option that there is not; a profile or another container that cannot be used.
    pub(crate) fn apply(&self, overrides: &mut Overrides, settings: &Settings) -> Outcome {
        overrides.rights = self.rights(&settings.directory)?;
        overrides.communication = self.communication(settings)?;
        overrides.sysctls = self.sysctl.iter().cloned().collect();
        overrides.shm_size_bytes = self.shm_size;
        Ok(())
    }

    /// The container whose shared memory it is to have.
    pub(crate) fn other_container(&self) -> Option<&str> {
        self.ipc.as_ref().and_then(Ipc::other_container)
    }

    /// Relative paths begin in `folder`.
    fn rights(&self, folder: &Path) -> Outcome<Rights> {
        let mut rights = Rights {
            added: self.cap_add.iter().cloned().collect(),
            dropped: self.cap_drop.iter().cloned().collect(),
            groups: self.group_add.clone(),
            limits: self.ulimit.clone(),
            out_of_memory_score: self.oom_score_adj,
            ..Rights::default()
        };
        for option in &self.security_opt {
            match option.as_str() {
                "no-new-privileges" | "no-new-privileges=true" | "no-new-privileges:true" => {
                    rights.gains_privileges = false;
                }
                "no-new-privileges=false" | "no-new-privileges:false" => {
                    rights.gains_privileges = true;
                }
                option => match option.split_once(['=', ':']) {
                    // As in docker the last one counts.
                    Some(("seccomp", value)) if !value.is_empty() => {
                        rights.any_call = value == "unconfined";
                        let is_file = !["unconfined", "builtin"].contains(&value);
                        rights.calls = is_file.then(|| profile(folder, value)).transpose()?;
                    }
                    _ => {
                        let message = format!("containers have no security option `{option}`");
                        let help = "there are no-new-privileges=false, seccomp=unconfined and seccomp=FILE";
                        return Err(wrong(message, help));
                    }
                },
            }
        }
        Ok(rights)
    }

    fn communication(&self, settings: &Settings) -> Outcome<PlannedCommunication> {
        let Some(ipc) = &self.ipc else {
            return Ok(PlannedCommunication::Private);
        };
        let of_ipc =
            |(name, _): &&(String, String)| SettingOf::name(name) == Some(SettingOf::Communication);
        let settled = match self.sysctl.iter().find(of_ipc) {
            Some((setting, _)) => Some(format!("--sysctl {setting}")),
            None => self.shm_size.map(|_| "--shm-size".to_owned()),
        };
        ipc.planned(settled.as_deref(), settings)
    }
}

/// Reads a profile of system calls.
fn profile(folder: &Path, path: &str) -> Outcome<Profile> {
    let mut text = String::new();
    File::open(folder.join(path))
        .and_then(|file| file.take(PROFILE_LIMIT_BYTES).read_to_string(&mut text))
        .map_err(|error| {
            let message = format!("cannot read `{path}`: {error}");
            let help =
                "--security-opt seccomp= is followed by the file of a profile, or `unconfined`";
            wrong(message, help)
        })?;
    Profile::parse(&text).map_err(|error| {
        let message = format!("`{path}` is no profile of system calls that can be used: {error}");
        wrong(
            message,
            "it is to be written as docker's profiles of seccomp are, in JSON",
        )
    })
}

/// `NAME=VALUE`, if that is not a setting of the whole machine.
fn sysctl(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    if SettingOf::name(name).is_none() {
        return Err(
            "only settings that a container has for itself can be set: net.*, fs.mqueue.*, kernel.msg*, \
             kernel.sem and kernel.shm*"
                .to_owned(),
        );
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// What to do instead of a flag of `docker run` that there is not.
pub(crate) fn instead_of(flag: &str) -> Option<&'static str> {
    let limits =
        "of processors there are --cpus, --cpu-quota, --cpu-period, --cpu-shares and --cpuset-cpus";
    let disks = "disk bandwidth is not limited";
    let namespaces = "a container always has its own; --network can be the machine's, --network and --ipc those of another container";
    let advice = match flag {
        "--privileged" => {
            "containers are always confined: give what it needs by --cap-add, --device and --security-opt"
        }
        "--pid" => {
            "a container always has its own; in another one kiln exec runs a further process, and kiln top lists them"
        }
        "--uts" | "--userns" | "--cgroupns" => namespaces,
        "--cgroup-parent" => "start kiln in the group that containers are to be below",
        "--link" => "put both into a network (--network NAME): they know each other by name there",
        "--link-local-ip" | "--mac-address" => "addresses are chosen: --ip and --ip6 ask for one",
        "--volumes-from" => "name the volumes: -v NAME:/path",
        "--volume-driver" | "--storage-opt" => "volumes are folders of the store: -v NAME:/path",
        "--domainname" => "write it into --hostname",
        "--oom-kill-disable" | "--memory-swappiness" | "--kernel-memory" => {
            "of memory there are --memory, --memory-swap, --memory-reservation and --oom-score-adj"
        }
        "--cpu-rt-period" | "--cpu-rt-runtime" | "--cpu-count" | "--cpu-percent" => limits,
        "--blkio-weight"
        | "--blkio-weight-device"
        | "--device-read-bps"
        | "--device-read-iops"
        | "--device-write-bps"
        | "--device-write-iops" => disks,
        "--device-cgroup-rule" => "name the devices: --device /dev/NAME",
        "--attach" | "-a" => "kiln run shows all of it; kiln attach --no-stdin only looks",
        "--sig-proxy" => "run it with -d, then look with kiln attach --sig-proxy=false",
        "--annotation" => "note it with --label",
        "--disable-content-trust" => "see kiln verify-signature",
        "--isolation" | "--use-api-socket" => "leave it out",
        _ => return None,
    };
    Some(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_security_are_those_that_there_are() {
        let read = |option: &str| {
            let args = RightsArgs {
                security_opt: vec![option.to_owned()],
                ..RightsArgs::default()
            };
            args.rights(Path::new("/")).ok()
        };
        assert_eq!(read("no-new-privileges"), Some(Rights::default()));
        let free = read("no-new-privileges=false").expect("an option");
        assert!(free.gains_privileges && !free.any_call);
        assert!(read("seccomp=unconfined").expect("an option").any_call);
        assert_eq!(read("seccomp=builtin"), Some(Rights::default()));
        for option in [
            "",
            "seccomp",
            "seccomp=",
            "seccomp=/nowhere/profile.json",
            "apparmor=x",
            "label=disable",
        ] {
            assert_eq!(read(option), None, "{option}");
        }
    }
}
