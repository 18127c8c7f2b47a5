//! What a sandbox is: its process, its tree, its mounts.

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use kiln_sandbox::{
    Access, BindSource, ExitStatus, FileOwner, Ids, Mount, MountSource, Network, RootfsSpec,
    SandboxError, Stdio, UpperDirectory, User,
};

use crate::context::{Context, Identity, read_all};
use crate::{Case, EVERYBODY, MULTIPLE, SINGLE};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "exit codes and signals come back",
        identities: EVERYBODY,
        run: exit_codes,
    },
    Case {
        name: "the process is alone and clean",
        identities: EVERYBODY,
        run: clean,
    },
];

fn exit_codes(context: &mut Context) {
    let spec = context.script("exit 42");
    let (_, exit) = context.run(&spec);
    assert_eq!((exit.code(), exit.out_of_memory), (42, false));
    let mut spec = context.script("sleep 100");
    spec.argv = vec!["sleep".into(), "100".into()];
    let mut child = context.host.spawn(&spec).unwrap();
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().status, ExitStatus::Signal(9));
    assert_eq!(child.wait().unwrap().code(), 137);
}

fn clean(context: &mut Context) {
    let text = context.output(
        "echo pid=$$; echo fds=$(ls /proc/self/fd | tr '\n' ' '); cat /proc/self/status; echo; env; pwd; umask; id; \
         hostname; ls -la /dev; cat /proc/mounts; ip addr",
    );
    println!("{text}");
}
