//! Whom the process of a sandbox is, and whose its files are.

use kiln_sandbox::{Ids, SandboxError, User};

use crate::context::{Context, Identity};
use crate::{Case, MULTIPLE, SINGLE};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "users are those of the image",
        identities: MULTIPLE,
        run: users,
    },
    Case {
        name: "owners are flattened where there is one user",
        identities: SINGLE,
        run: flattened,
    },
];

fn users(context: &mut Context) {
    let mut run = |user: User| {
        let mut spec = context.script(
            "echo $(id -u) $(id -g) $(id -G) $HOME; grep Cap /proc/self/status | tr '\n\t' '  '",
        );
        spec.user = user;
        context.run(&spec).0
    };
    let none = "CapInh: 0000000000000000 CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 00000000800405fb \
                CapAmb: 0000000000000000 ";
    assert_eq!(
        run(User::Named("app".to_owned())),
        format!("1000 1000 1000 2000 /home/app\n{none}")
    );
    assert_eq!(
        run(User::Named("app:extra".to_owned())),
        format!("1000 2000 2000 /home/app\n{none}")
    );
    let ids = Ids {
        uid: 7,
        gid: 8,
        groups: vec![9, 10],
    };
    assert_eq!(run(User::Ids(ids)), format!("7 8 8 9 10 /\n{none}"));

    assert_eq!(
        context.output("touch /f; chown 12:34 /f; stat -c '%u %g' /f"),
        "12 34\n"
    );
    let mut spec = context.script("");
    spec.user = User::Named("nobody-here".to_owned());
    assert!(matches!(
        context.refusal(&spec),
        SandboxError::Account { .. }
    ));
    if context.identity == Identity::Mapped {
        context.renew(&mut spec);
        spec.user = User::Ids(Ids {
            uid: 4_000_000_000,
            gid: 0,
            groups: vec![],
        });
        let error = context.refusal(&spec).to_string();
        assert!(
            error.contains("user 4000000000 is not mapped") && error.contains("/etc/subuid"),
            "{error}"
        );
    }
}

fn flattened(context: &mut Context) {
    let script = "touch /f && chown 12:34 /f && stat -c '%u %g' /f && chown -h 1:1 /bin/sh && su app -c 'id -u'; echo $?";
    let text = context.output(script);
    assert!(text.starts_with("0 0\n"), "{text}");
    let mut spec = context.script("id -u");
    spec.user = User::Named("app".to_owned());
    assert_eq!(context.run(&spec).0, "0\n");
    context.renew(&mut spec);
    spec.security.owners = kiln_sandbox::OwnerEmulation::None;
    assert!(matches!(
        context.refusal(&spec),
        SandboxError::Unmapped { .. }
    ));
    let mut spec = context.script("touch /f && chown 12:34 /f");
    spec.security.owners = kiln_sandbox::OwnerEmulation::None;
    assert!(!context.run(&spec).1.success());
}
