//! A store on a full disk.

use std::process::Command;

use crate::fixtures::busybox_project;
use crate::root::is_root;
use crate::space::kiln_program;

#[test]
fn a_full_disk_is_said_and_with_more_room_the_build_goes_on() {
    if !is_root() {
        return;
    }
    let space = busybox_project(
        r#"
[image.app.step.small]
run = "echo small > /small"
[image.app.step.large]
run = "dd if=/dev/zero of=/large bs=1M count=24"
[image.app.step.copied]
copy = [{ files = ["big"], to = "/srv" }]
"#,
    );
    space.write("big", vec![b'x'; 20 << 20]);
    // Ever more room, in a mount namespace that goes away with the shell.
    let script = r#"
mount -t tmpfs -o size=300k none "$KILN_HOME" || exit 99
for size in 1M 3M 6M 12M 30M; do
    "$0" build --keep-going --progress plain >&2
    code=$?
    echo "$code"
    [ "$code" = 3 ] || [ "$code" = 1 ] || exit 98
    mount -o remount,size=$size "$KILN_HOME" || exit 97
done
mount -o remount,size=200M "$KILN_HOME" || exit 97
"$0" build --progress plain >&2 || exit 96
"$0" run app sh -c 'cat /small; wc -c < /srv/big; wc -c < /large'
"#;
    let plain = space.command();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(kiln_program())
        .current_dir(space.project())
        .env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.expect("set"));
    }
    let run = space.run(&mut command);
    run.assert_code(0)
        .assert_says("No space left")
        .assert_says("help: free some space there, with `kiln gc` for example, or set KILN_HOME");
    assert!(!run.stderr.contains("panicked"), "{}", run.shown());
    assert!(
        run.stdout.ends_with("small\n20971520\n25165824\n"),
        "{}",
        run.shown()
    );
    assert!(run.stdout.starts_with("3\n"), "{}", run.shown());
}
