//! What a person at a terminal sees, and which keys do what.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::fixtures::busybox_project;
use crate::leaks;
use crate::space::host;
use crate::terminal::Terminal;

const FAILS: &str = r#"
[image.app.step.bad]
files   = ["in.txt"]
workdir = "/work"
env     = { COLOUR = "red" }
caches  = { kept = "/var/kept" }
secrets = ["token"]
run     = "cp in.txt /made; echo words; exit 9"
[image.app.step.slow]
run     = "for i in 1 2 3 4 5 6 7 8 9 10; do echo slow $i; sleep 0.2; done"
[cache.kept]
[secret.token]
file = "token"
"#;

#[test]
fn a_shell_opens_where_a_step_failed_and_has_the_terminal_for_itself() {
    let space = busybox_project(FAILS);
    space.write("in.txt", "input\n");
    space.write("token", "s3cret");
    let mut terminal = Terminal::start(&space, "exec \"$KILN\" build --on-failure shell");
    terminal.wait_for("exited with code 9; this shell is where it ran");
    terminal.wait_for("words");
    terminal.wait_for("/work # ");
    terminal.press("cat in.txt /made /run/secrets/token; ls -d /var/kept; echo $COLOUR $(tty) $(stty size) $TERM\r");
    terminal.wait_for("input\r\ninput\r\ns3cret/var/kept\r\nred /dev/pts/0 24 80 xterm\r\n");
    // A sibling goes on meanwhile, and nothing of it is drawn over the shell.
    terminal.press("sleep 1; echo quiet\r");
    terminal.wait_for("echo quiet\r\n");
    terminal.wait_for("quiet\r\n/work # ");
    terminal.press("exit 0\r");
    terminal.wait_for("`app.bad` failed: exited with code 9");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(1), "{shown}");
    let shell = shown.split("/work # ").nth(2).unwrap_or_default();
    // The shell asks where its cursor is.
    let shell = shell.trim_start_matches("\u{1b}[6n");
    assert_eq!(shell, "sleep 1; echo quiet\r\nquiet\r\n", "{shown}");
}

#[test]
fn a_terminal_that_only_writes_lines_gets_lines() {
    let space = busybox_project("[image.app.step.one]\nrun = \"echo one\"\n");
    let shown = |term: &str| {
        let script = format!("TERM={term} \"$KILN\" build --no-cache");
        Terminal::start(&space, &script).end().1
    };
    let moves = "\u{1b}[";
    assert!(shown("xterm").contains(moves));
    let plain = shown("dumb");
    assert!(!plain.contains(moves), "{plain}");
    assert!(plain.contains("app.one  | one"), "{plain}");
}

#[test]
fn a_shell_on_failure_needs_a_terminal() {
    let space = busybox_project("");
    space
        .kiln(["build", "--on-failure", "shell"])
        .assert_code(1)
        .assert_says("needs a terminal");
    space
        .kiln(["run", "--on-failure", "shell", "app", "true"])
        .assert_code(125)
        .assert_says("needs a terminal");
}

#[test]
fn a_container_has_a_terminal_of_the_size_of_ours_and_follows_it() {
    let space = busybox_project("");
    space.kiln_ok(["build"]);
    let mut terminal = Terminal::start(&space, "tty; exec \"$KILN\" run -t app sh");
    terminal.wait_for("/dev/pts/");
    terminal.wait_for("/ # ");
    terminal.press("echo $(tty) $(stty size) $TERM\r");
    terminal.wait_for("/dev/pts/0 24 80 xterm");
    // `stty` changes rows and columns one after the other.
    terminal
        .press("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; stty size; exit 3\r");
    let (_, shown) = terminal.shown().split_once("/dev/pts/").expect("its name");
    let number: String = shown.chars().take_while(char::is_ascii_digit).collect();
    let outer = format!("/dev/pts/{number}");
    host(Command::new("stty").args(["-F", &outer, "rows", "50", "cols", "132"]));
    terminal.wait_for("\n50 132\r\n");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(3), "{shown}");
}

#[test]
fn keys_reach_the_container_and_not_kiln() {
    let space = busybox_project("");
    space.kiln_ok(["build"]);
    let mut terminal = Terminal::start(&space, "exec \"$KILN\" run -t app sh");
    terminal.wait_for("/ # ");
    // Ctrl-Z stops what runs in there, Ctrl-C ends it, and the shell goes on.
    terminal.press("sh -c 'echo runs; exec sleep 1000'\r");
    terminal.wait_for("\nruns\r\n");
    terminal.press("\u{1a}");
    terminal.wait_for("Stopped");
    terminal.wait_for("/ # ");
    terminal.press("kill -9 %1; sh -c 'echo again; exec sleep 1000'\r");
    terminal.wait_for("\nagain\r\n");
    terminal.press("\u{3}");
    terminal.wait_for("/ # ");
    terminal.press("sh -c 'kill -9 $$'; exit $?\r");
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(137), "{shown}");
}

#[test]
fn three_times_ctrl_c_end_a_program_that_does_not_hear_it() {
    let space = busybox_project("");
    space.kiln_ok(["build"]);
    let mut terminal = Terminal::start(
        &space,
        // Busybox' own shell hears it, so only when that is gone.
        "\"$KILN\" run -t app sh -c '(sleep 0.3; echo ready) & exec sleep 1000'; echo ended with $?; stty",
    );
    terminal.wait_for("ready");
    for _ in 0..3 {
        terminal.press("\u{3}");
        terminal.wait_for("^C");
    }
    terminal.wait_for("ended with 137");
    // The terminal is as it was.
    let (_, shown) = terminal.end();
    assert!(
        !shown.contains("-echo") && !shown.contains("-icanon"),
        "{shown}"
    );
}

#[test]
fn a_terminal_that_goes_away_takes_the_container_along() {
    let space = busybox_project("");
    space.kiln_ok(["build"]);
    let script = "echo $$ > pid; exec \"$KILN\" run -t --stop-timeout 1s app sh -c 'echo ready; exec sleep 1000'";
    let mut terminal = Terminal::start(&space, script);
    terminal.wait_for("ready");
    let pid = std::fs::read_to_string(space.project().join("pid")).expect("the number of kiln");
    terminal.close();
    // By its number: what else there is to know of it, its own user cannot read.
    let kiln = std::path::Path::new("/proc").join(pid.trim());
    let began = Instant::now();
    while kiln.exists() || !leaks::below(space.path()).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "it still runs");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn wrong_usage_of_run_is_dockers_125_and_of_others_2() {
    let space = busybox_project("");
    space.kiln(["build", "--no-such-flag"]).assert_code(2);
    space.kiln(["shell", "--no-such-flag"]).assert_code(125);
    space
        .kiln(["run", "--memory", "much", "app"])
        .assert_code(125)
        .assert_says("is not a size");
    space
        .kiln(["run", "--memry=64MB", "app"])
        .assert_code(125)
        .assert_says("`--memry` is not a flag of kiln run")
        .assert_says("did you mean `--memory`?");
    space.kiln(["run", "--help"]).assert_code(0);
}
