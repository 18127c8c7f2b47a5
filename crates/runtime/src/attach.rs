//! The user's own terminal, connected to a container that somebody else runs.
//!
//! ```text
//! keys, pipe  ─→ Connection ─→ monitor ─→ container
//! screen, pipe ←─ Connection ←─ monitor ←─ container
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;

use kiln_sandbox::{PassedOn, RawMode, Signal, window_size, write_all};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::control::{Connection, FromMonitor, MAX_PIECE, Reply, Request};

/// The keys that leave a container alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for DetachKeys {
    /// Ctrl-P, Ctrl-Q; docker's.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl FromStr for DetachKeys {
    type Err = String;

    /// Reads `ctrl-p,ctrl-q`; nothing at all for no keys.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let key = |word: &str| {
            let control = word.strip_prefix("ctrl-").map(str::as_bytes);
            match (control, word.as_bytes()) {
                (Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => {
                    Ok(letter.to_ascii_uppercase() & 0x1f)
                }
                (None, [plain @ b'!'..=b'~']) => Ok(*plain),
                _ => Err(format!(
                    "`{word}` is no key; write ctrl-a to ctrl-z or a single letter, with commas between"
                )),
            }
        };
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

/// Finds the keys among what is typed.
#[derive(Debug)]
struct Typed<'a> {
    keys: &'a [u8],
    /// So many of them were typed last, and kept back.
    matched: usize,
}

impl Typed<'_> {
    /// Returns what is to be passed on, and whether all keys have been typed.
    fn filter(&mut self, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len() + self.matched);
        for byte in bytes {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(byte));
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

/// What signals to this process mean for the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// They go to its first process, as they are.
    Signals,
    /// The same; but `TERM`, and with a terminal `HUP`, stop the container, and who asks three times to end it gets it
    /// killed: it would not be there without this process.
    Owner,
    /// Nothing: they end this process, and the container goes on.
    Nothing,
}

/// How to be connected to a container.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Whether the container has a terminal.
    pub terminal: bool,
    /// Whether what is typed reaches it.
    pub input: bool,
    /// The keys that end the connection.
    pub keys: DetachKeys,
    /// What signals mean.
    pub proxy: Proxy,
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachEnd {
    /// The container ended.
    Exited {
        /// As a shell would say it.
        code: i32,
        /// Whether that was for lack of memory.
        out_of_memory: bool,
    },
    /// The container could not be started.
    Failed {
        /// Why.
        message: String,
        /// What `run` ends with.
        code: i32,
    },
    /// The user pressed the keys for it.
    Detached,
    /// Whoever ran the container was killed, and the container with it.
    Lost,
}

/// So many requests to end, and the container is killed.
const PATIENCE: u32 = 3;

impl Attachment {
    /// What to ask the monitor for, before [`Self::follow`].
    pub fn request(&self) -> Request {
        Request::Attach {
            input: self.input,
            impatient: self.proxy == Proxy::Owner,
        }
    }

    /// Moves bytes and signals until one side ends. `warn` is told what should be said about the start.
    ///
    /// # Errors
    /// What the system says of input, output or the connection.
    pub fn follow(
        &self,
        connection: &Connection,
        signals: Option<&PassedOn>,
        files: [BorrowedFd<'_>; 3],
        warn: &mut dyn FnMut(&str),
    ) -> io::Result<AttachEnd> {
        let [input, output, errors] = files;
        let raw = if self.terminal && self.input && rustix::termios::isatty(input) {
            Some(RawMode::enable(input)?)
        } else {
            None
        };
        if let (true, Some(size)) = (self.terminal, window_size(output)) {
            tolerate(connection.resize(size))?;
        }
        let end = self.pass_on(connection, signals, [input, output, errors], warn);
        drop(raw);
        end
    }

    fn pass_on(
        &self,
        connection: &Connection,
        signals: Option<&PassedOn>,
        [input, output, errors]: [BorrowedFd<'_>; 3],
        warn: &mut dyn FnMut(&str),
    ) -> io::Result<AttachEnd> {
        let keys: &[u8] = if self.terminal { &self.keys.0 } else { &[] };
        let mut typed = Typed { keys, matched: 0 };
        let (mut typing, mut requests) = (self.input, 0);
        let mut buffer = [0_u8; MAX_PIECE];
        loop {
            let mut polls = vec![PollFd::new(connection, PollFlags::IN)];
            if typing {
                polls.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
            }
            if let Some(signals) = signals {
                polls.push(PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN));
            }
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, None))?;
            let is_ready = |index: usize| {
                let poll = polls.get(index);
                poll.is_some_and(|poll| !poll.revents().is_empty())
            };
            let (said, pressed) = (is_ready(0), typing && is_ready(1));
            let signalled = is_ready(1 + usize::from(typing));
            if let (Some(signals), true) = (signals, signalled) {
                for signal in signals.take()? {
                    tolerate(self.pass_on_signal(connection, signal, &mut requests, output))?;
                }
            }
            if pressed {
                let count = match rustix::io::retry_on_intr(|| rustix::io::read(input, &mut buffer))
                {
                    // A terminal that is gone.
                    Err(Errno::IO) => 0,
                    count => count?,
                };
                let (bytes, is_detached) = typed.filter(&buffer[..count]);
                if !bytes.is_empty() {
                    tolerate(connection.input(&bytes))?;
                }
                if is_detached {
                    return Ok(AttachEnd::Detached);
                }
                if count == 0 {
                    typing = false;
                    tolerate(connection.end_input())?;
                }
            }
            if said {
                match connection.receive()? {
                    Some(FromMonitor::Output(bytes)) => write_all(output, &bytes)?,
                    Some(FromMonitor::Errors(bytes)) => write_all(errors, &bytes)?,
                    Some(FromMonitor::Reply(Reply::Exited {
                        code,
                        out_of_memory,
                    })) => {
                        return Ok(AttachEnd::Exited {
                            code,
                            out_of_memory,
                        });
                    }
                    Some(FromMonitor::Reply(Reply::Failed { message, code })) => {
                        return Ok(AttachEnd::Failed { message, code });
                    }
                    Some(FromMonitor::Reply(Reply::Started { warning })) => {
                        if let Some(warning) = warning {
                            warn(&warning);
                        }
                    }
                    Some(FromMonitor::Reply(Reply::Done)) => {}
                    None => return Ok(AttachEnd::Lost),
                }
            }
        }
    }

    fn pass_on_signal(
        &self,
        connection: &Connection,
        signal: Signal,
        requests: &mut u32,
        output: BorrowedFd<'_>,
    ) -> io::Result<()> {
        if signal == Signal::WINCH {
            return match window_size(output) {
                Some(size) if self.terminal => connection.resize(size),
                Some(_) | None => Ok(()),
            };
        }
        let asks_to_end = [Signal::INT, Signal::TERM, Signal::QUIT, Signal::HUP].contains(&signal);
        *requests += u32::from(asks_to_end);
        let is_owner = self.proxy == Proxy::Owner;
        let stops = signal == Signal::TERM || signal == Signal::HUP && self.terminal;
        let request = if is_owner && asks_to_end && *requests >= PATIENCE {
            Request::Signal {
                signal: Signal::KILL.as_raw(),
            }
        } else if is_owner && stops {
            Request::Stop {
                signal: (signal != Signal::TERM).then_some(signal.as_raw()),
                timeout_ms: None,
            }
        } else {
            Request::Signal {
                signal: signal.as_raw(),
            }
        };
        connection.ask(&request)
    }
}

/// A monitor that has just ended says so by ending the connection, which is read next.
fn tolerate(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_docker_does() {
        let keys = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.0);
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(DetachKeys::default().0));
        assert_eq!(keys("ctrl-@,a,ctrl-\\"), Ok(vec![0, b'a', 0x1c]));
        assert_eq!(keys(""), Ok(vec![]));
        for text in ["ctrl-", "ctrl-P", "ab", ",", "a,,b", "\u{e9}"] {
            assert!(keys(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_found_across_reads_and_nothing_else_is_lost() {
        let mut typed = Typed {
            keys: b"\x10\x11",
            matched: 0,
        };
        assert_eq!(typed.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(typed.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(typed.filter(b"\x10\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(typed.filter(b"y\x10\x11z"), (b"y".to_vec(), true));
        let mut single = Typed {
            keys: b"q",
            matched: 0,
        };
        assert_eq!(single.filter(b"aqb"), (b"a".to_vec(), true));
        let mut none = Typed {
            keys: b"",
            matched: 0,
        };
        assert_eq!(none.filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
