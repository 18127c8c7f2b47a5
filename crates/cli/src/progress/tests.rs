//! The views, fed with a build that has a bit of everything.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use expect_test::expect;
use kiln_build::{
    BuildEvent, EventKind, FailureKind, FailureSummary, MissReason, NodeSummary, Outcome,
    OutputStream, SkipReason,
};
use kiln_graph::NodeName;
use kiln_manifest::value::Name;

use super::live::Live;
use super::plain::Plain;
use super::{Telling, View};

/// A writer whose text can be read while a view owns it.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().expect("no writer panics"));
        String::from_utf8(bytes).expect("views write text")
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no writer panics").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn step(name: &str) -> NodeName {
    let parse = |text| Name::parse(text).expect("a name");
    NodeName::of_step(&parse("app"), &parse(name))
}

fn at(at_ms: u64, kind: EventKind) -> BuildEvent {
    BuildEvent { at_ms, kind }
}

fn begin(steps: &[&str]) -> BuildEvent {
    let nodes = steps.iter().map(|name| NodeSummary {
        step: step(name),
        image: "app".to_owned(),
        platform: "linux/amd64".to_owned(),
        action: "run".to_owned(),
        after: Vec::new(),
    });
    at(
        0,
        EventKind::Build {
            format: 1,
            jobs: 8,
            nodes: nodes.collect(),
        },
    )
}

fn output(name: &str, line: &str) -> EventKind {
    EventKind::Output {
        step: step(name),
        stream: OutputStream::Stdout,
        line: line.to_owned(),
    }
}

fn hit(name: &str) -> EventKind {
    EventKind::Hit {
        step: step(name),
        key: "k".to_owned(),
        layers: Vec::new(),
        size_bytes: 10,
        cache: None,
    }
}

fn miss(name: &str, reason: MissReason) -> EventKind {
    EventKind::Miss {
        step: step(name),
        key: "k".to_owned(),
        reason,
    }
}

fn failing_build() -> Vec<BuildEvent> {
    let changed = MissReason::Changed {
        what: "files differ".to_owned(),
        files: ["a", "b", "c", "d"].map(String::from).to_vec(),
    };
    vec![
        begin(&["fetch", "compile", "test", "pack"]),
        at(
            1,
            EventKind::Checking {
                step: step("fetch"),
            },
        ),
        at(2, hit("fetch")),
        at(
            3,
            EventKind::Checking {
                step: step("compile"),
            },
        ),
        at(4, miss("compile", changed)),
        at(
            5,
            EventKind::Started {
                step: step("compile"),
            },
        ),
        at(900, output("compile", "\u{1b}[1mcc\u{1b}[0m -c main.c")),
        at(
            6000,
            EventKind::Progress {
                step: step("compile"),
                what: "archive".to_owned(),
                done_bytes: 2_000_000,
                total_bytes: Some(10_000_000),
            },
        ),
        at(
            6100,
            EventKind::Failed {
                step: step("compile"),
                cause: FailureSummary {
                    kind: FailureKind::Process,
                    exit_code: Some(2),
                    signal: None,
                    message: "exited with code 2".to_owned(),
                },
                last_lines: vec!["no".to_owned()],
                duration_ms: 6095,
            },
        ),
        at(
            6101,
            EventKind::Skipped {
                step: step("test"),
                because: SkipReason::Failed {
                    failed: step("compile"),
                },
            },
        ),
        at(6102, EventKind::Cancelled { step: step("pack") }),
        at(
            6103,
            EventKind::Finished {
                outcome: Outcome::Failed,
                built: 0,
                cached: 1,
                failed: 1,
                skipped: 2,
            },
        ),
    ]
}

fn cached_build() -> Vec<BuildEvent> {
    vec![
        begin(&["fetch"]),
        at(
            1,
            EventKind::Checking {
                step: step("fetch"),
            },
        ),
        at(2, hit("fetch")),
        at(
            3,
            EventKind::Finished {
                outcome: Outcome::Complete,
                built: 0,
                cached: 1,
                failed: 0,
                skipped: 0,
            },
        ),
    ]
}

fn shown(view: &mut dyn View, events: &[BuildEvent], screen: &Screen) -> String {
    for event in events {
        view.event(event).expect("a screen takes everything");
    }
    view.finish().expect("a screen takes everything");
    screen.take()
}

/// What is on the screen, with the characters that steer it made visible.
fn visible(screen: &Screen) -> String {
    screen.take().replace('\r', "<").replace('\u{1b}', "^")
}

#[test]
fn the_plain_view_names_the_step_in_each_line() {
    let screen = Screen::default();
    let mut view = Plain::new(screen.clone(), Telling::Everything, true);
    expect![[r#"
        app.fetch   | cached
        app.compile | runs: files differ (a, b, c and 1 more)
        app.compile | started
        app.compile | cc -c main.c
        app.compile | archive: 2.0 MB of 10 MB
        app.compile | failed after 6.1 s: exited with code 2
        app.test    | skipped: app.compile failed
        app.pack    | cancelled
        failed after 6.1 s: 1 cached, 1 failed, 2 skipped
    "#]]
    .assert_eq(&shown(&mut view, &failing_build(), &screen));
}

#[test]
fn the_live_view_leaves_finished_steps_on_the_screen() {
    let screen = Screen::default();
    let mut view = Live::new(screen.clone(), Telling::Everything, false, false);
    expect![[r#"
        = app.fetch    cached
        ✗ app.compile  exited with code 2
        - app.test     skipped: app.compile failed
        - app.pack     cancelled
        failed after 6.1 s: 1 cached, 1 failed, 2 skipped
    "#]]
    .assert_eq(&shown(&mut view, &failing_build(), &screen));
}

#[test]
fn what_comes_from_a_cache_is_told_with_its_name_and_shown_on_its_way() {
    let mut from_cache = hit("fetch");
    if let EventKind::Hit { cache, .. } = &mut from_cache {
        *cache = Some("registry.example.com/team/cache".to_owned());
    }
    let progress = |done_bytes| EventKind::Progress {
        step: step("fetch"),
        what: "sha256:00".to_owned(),
        done_bytes,
        total_bytes: Some(10_000_000),
    };
    let written = EventKind::Written {
        cache: "registry.example.com/team/cache".to_owned(),
        steps: 2,
        sent_bytes: 1000,
    };
    let events = [
        begin(&["fetch"]),
        at(1, from_cache),
        at(2, progress(2_000_000)),
        at(3, progress(10_000_000)),
        at(4, written),
    ];
    let screen = Screen::default();
    let mut live = Live::new(screen.clone(), Telling::Everything, false, false).with_size(60, 5);
    for event in &events[..3] {
        live.event(event).expect("a screen takes everything");
    }
    live.tick(Duration::from_secs(1)).expect("drawn");
    expect![[r#"
        = app.fetch  cached in registry.example.com/team/cache
        ⠙ app.fetch  1.0 s      2.0 MB of 10 MB, 0 B/s  sha256:00
          1 of 1 step, 1 running
    "#]]
    .assert_eq(&visible(&screen));
    live.event(&events[3]).expect("a screen takes everything");
    live.tick(Duration::from_secs(2)).expect("drawn");
    expect![[r#"
        <^[2A^[J  1 of 1 step
    "#]]
    .assert_eq(&visible(&screen));
    let screen = Screen::default();
    let mut plain = Plain::new(screen.clone(), Telling::Everything, false);
    expect![[r#"
        app.fetch | cached in registry.example.com/team/cache
        cache registry.example.com/team/cache: 2 results written, 1.0 kB sent
    "#]]
    .assert_eq(&shown(&mut plain, &events, &screen));
}

#[test]
fn nothing_is_said_of_a_build_that_only_comes_before_a_run_and_is_cached() {
    let screen = Screen::default();
    let mut plain = Plain::new(screen.clone(), Telling::OnlyWork, false);
    assert_eq!(shown(&mut plain, &cached_build(), &screen), "");
    let mut live = Live::new(screen.clone(), Telling::OnlyWork, false, false);
    live.tick(Duration::ZERO).expect("drawn");
    assert_eq!(shown(&mut live, &cached_build(), &screen), "");
}

#[test]
fn the_live_picture_is_cut_to_the_terminal_and_drawn_over_itself() {
    let screen = Screen::default();
    let mut view = Live::new(screen.clone(), Telling::Everything, false, false).with_size(40, 5);
    for event in &failing_build()[..7] {
        view.event(event).expect("a screen takes everything");
    }
    view.tick(Duration::from_secs(1)).expect("drawn");
    expect![[r#"
        = app.fetch    cached
        ⠙ app.compile  1.0 s      cc -c main.c
          1 of 4 steps, 1 running
    "#]]
    .assert_eq(&visible(&screen));
    view.event(&failing_build()[7])
        .expect("a screen takes everything");
    view.tick(Duration::from_secs(7)).expect("drawn");
    expect![[r#"
        <^[2A^[J⠹ app.compile  7.0 s      2.0 MB of 10…
          1 of 4 steps, 1 running
    "#]]
    .assert_eq(&visible(&screen));
    // Narrower than the lines that are there: they were wrapped.
    let mut view = view.with_size(20, 5);
    view.tick(Duration::from_secs(8)).expect("drawn");
    expect![[r#"
        <^[4A^[J⠸ app.compile  8.0…
          1 of 4 steps, 1 …
    "#]]
    .assert_eq(&visible(&screen));
}

#[test]
fn steps_that_do_not_fit_are_counted() {
    let screen = Screen::default();
    let mut view = Live::new(screen.clone(), Telling::Everything, false, false).with_size(60, 5);
    let names = ["a", "b", "c", "d", "e"];
    view.event(&begin(&names))
        .expect("a screen takes everything");
    for name in names {
        view.event(&at(1, miss(name, MissReason::New)))
            .expect("a screen takes everything");
        view.event(&at(1, EventKind::Started { step: step(name) }))
            .expect("a screen takes everything");
    }
    view.tick(Duration::from_secs(1)).expect("drawn");
    expect![[r#"
        ⠙ app.a  1.0 s
        ⠙ app.b  1.0 s
          0 of 5 steps, 5 running, 3 of them not shown
    "#]]
    .assert_eq(&screen.take());
}

#[test]
fn a_shell_has_the_terminal_until_it_is_left() {
    let screen = Screen::default();
    let mut view = Live::new(screen.clone(), Telling::Everything, false, false).with_size(60, 24);
    let mut held = None;
    let mut show = |at_ms, kind| {
        super::take(&mut view, &mut held, at(at_ms, kind)).expect("a screen takes everything");
        screen.take()
    };
    let started = |name| EventKind::Started { step: step(name) };
    show(1, started("compile"));
    show(1, started("test"));
    let opened = EventKind::ShellOpened {
        step: step("compile"),
        message: "exited with code 9".to_owned(),
        last_lines: vec!["some words".to_owned()],
    };
    expect![[r#"
        ✗ app.compile  exited with code 9; this shell is where it ran, and `exit` leaves it

        the last lines of app.compile:
          │ some words

    "#]]
    .assert_eq(&show(2, opened));
    assert_eq!(show(3, output("test", "quiet")), "");
    let closed = EventKind::ShellClosed {
        step: step("compile"),
    };
    assert_eq!(show(4, closed), "");
    view.tick(Duration::from_secs(1)).expect("drawn");
    assert!(screen.take().contains("quiet"), "what was held is shown");
}
