//! Connections that must move: clients that keep one open and send or take next to nothing are
//! let go.
//!
//! ```text
//! idle ─first byte→ head ─whole head→ request ─> answer ─> idle
//!  idle-time        header-time       (api::receive)  least-rate
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Limits;

const WAITING: u8 = 0;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;

/// How often the speed of an answer is judged.
const JUDGED_EVERY: Duration = Duration::from_secs(30);

/// What a connection is doing, told by the one who answers.
#[derive(Clone, Debug)]
pub(super) struct Phase(Arc<(AtomicU8, AtomicBool)>);

impl Phase {
    pub(super) fn new() -> Self {
        Self(Arc::new((AtomicU8::new(WAITING), AtomicBool::new(false))))
    }

    /// The head of a request is here.
    pub(super) fn request_begins(&self) {
        self.set(REQUEST);
    }

    /// The answer is being sent.
    pub(super) fn answer_begins(&self) {
        self.set(ANSWER);
    }

    /// Whether the connection ended because the client was too slow.
    pub(super) fn was_too_slow(&self) -> bool {
        self.0.1.load(Ordering::Relaxed)
    }

    fn get(&self) -> u8 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.0.0.store(phase, Ordering::Relaxed);
    }

    /// Waits for a deadline beside the stream; an error once it has passed.
    fn check(
        &self,
        timer: &mut Pin<Box<Sleep>>,
        deadline: Instant,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        match timer.as_mut().poll(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                self.0.1.store(true, Ordering::Relaxed);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }
}

/// A stream with deadlines.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    phase: Phase,
    header_time: Duration,
    idle_time: Duration,
    least_bytes: u64,
    /// Since when the client has had the word, and whether it has begun.
    waiting_since: Instant,
    has_begun: bool,
    /// Since when bytes of an answer are counted, and how many went out.
    judged_since: Option<Instant>,
    written: u64,
    reading: Pin<Box<Sleep>>,
    writing: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, phase: Phase, limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            stream,
            phase,
            header_time: limits.header_time.0,
            idle_time: limits.idle_time.0,
            least_bytes: limits.least_rate.0 * JUDGED_EVERY.as_secs(),
            waiting_since: now,
            has_begun: false,
            judged_since: None,
            written: 0,
            reading: Box::pin(sleep_until(now)),
            writing: Box::pin(sleep_until(now)),
        }
    }

    fn wrote(
        &mut self,
        outcome: &Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> io::Result<()> {
        match outcome {
            Poll::Ready(Ok(count)) => {
                // Whoever takes what it is sent is not idle. The wait begins here: a reader that was
                // told before that there is nothing is not asked again.
                self.waiting_since = Instant::now();
                let deadline = self.waiting_since + self.idle_time;
                self.phase.check(&mut self.reading, deadline, context)?;
                self.written += *count as u64;
                if self.written >= self.least_bytes {
                    self.judged_since = None;
                }
                Ok(())
            }
            Poll::Ready(Err(_)) => Ok(()),
            Poll::Pending => {
                let since = match self.judged_since {
                    Some(since) => since,
                    None => {
                        self.written = 0;
                        *self.judged_since.insert(Instant::now())
                    }
                };
                self.phase
                    .check(&mut self.writing, since + JUDGED_EVERY, context)
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Ready(Ok(())) => {
                let phase = this.phase.get();
                let begins = phase == ANSWER || (phase == WAITING && !this.has_begun);
                if begins && buffer.filled().len() > before {
                    this.has_begun = true;
                    this.waiting_since = Instant::now();
                    this.phase.set(WAITING);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let phase = this.phase.get();
                if phase == REQUEST {
                    // Bodies are judged where they are read.
                    this.waiting_since = Instant::now();
                    return Poll::Pending;
                }
                let in_head = phase == WAITING && this.has_begun;
                let time = if in_head {
                    this.header_time
                } else {
                    this.idle_time
                };
                let deadline = this.waiting_since + time;
                match this.phase.check(&mut this.reading, deadline, context) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        match this.wrote(&outcome, context) {
            Ok(()) => outcome,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        match this.wrote(&outcome, context) {
            Ok(()) => outcome,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
