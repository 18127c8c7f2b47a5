//! A terminal that a test types on, made by util-linux's `script`.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::space::{TestSpace, kiln_program};

/// Whoever says nothing new for longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell script that runs on a terminal of 24 lines and 80 columns.
#[derive(Debug)]
pub(crate) struct Terminal {
    process: Child,
    keys: Option<ChildStdin>,
    screen: Receiver<Vec<u8>>,
    /// All that was shown, and how much of it was waited for.
    shown: String,
    read: usize,
}

impl Terminal {
    /// Starts `script`, in which `$KILN` is the program under test.
    pub(crate) fn start(space: &TestSpace, script: &str) -> Self {
        let template = space.command();
        let mut command = Command::new("script");
        command.env_clear().current_dir(space.project());
        for (name, value) in template.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        let mut process = command
            .env("KILN", kiln_program())
            .env("SHELL", "/bin/sh")
            .args(["--quiet", "--return", "--flush", "--command"])
            .arg(format!("stty rows 24 cols 80; {script}"))
            .arg("/dev/null")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("util-linux's `script`, which every Debian has");
        let mut output = process.stdout.take().expect("a pipe");
        let (sender, screen) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            keys: process.stdin.take(),
            process,
            screen,
            shown: String::new(),
            read: 0,
        }
    }

    /// Types keys, as they are.
    pub(crate) fn press(&mut self, keys: &str) {
        let pipe = self.keys.as_mut().expect("not closed before");
        pipe.write_all(keys.as_bytes()).expect("`script` reads");
    }

    /// Waits until `text` is shown behind all that was waited for before.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown[self.read..].find(text) {
                self.read += at + text.len();
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("`{text}` is not shown behind\n{}", self.shown),
            }
        }
    }

    /// All that was shown until now.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Waits for the script's end; returns its exit code and all that was shown.
    #[track_caller]
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let end = Instant::now() + PATIENCE;
        while let Ok(bytes) = self
            .screen
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        if Instant::now() >= end {
            self.process.kill().expect("`script` can be killed");
        }
        let status = self.process.wait().expect("`script` ends");
        (status.code(), std::mem::take(&mut self.shown))
    }

    /// Takes the terminal away, as a window that is closed.
    pub(crate) fn close(mut self) {
        self.process.kill().expect("`script` can be killed");
        self.process.wait().expect("it is dead");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.keys.take());
        // It may have ended by itself; then there is nothing to end.
        if self.process.kill().is_ok() && self.process.wait().is_err() && !thread::panicking() {
            panic!("`script` cannot be waited for");
        }
    }
}
