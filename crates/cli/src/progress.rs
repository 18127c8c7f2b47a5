//! What a build looks like while it happens.
//!
//! Every view reads the same stream of [`BuildEvent`]s and nothing else, so that
//! the screen cannot disagree with the build. A view runs in a thread of its
//! own: it draws between events too, and a slow terminal does not stop steps
//! until [`BACKLOG`] events wait for it.

pub(crate) mod blobs;
mod json;
mod live;
mod plain;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kiln_build::BuildEvent;

use crate::app::ProgressForm;
use crate::settings::Settings;

/// Events that may wait for the view before the build waits for it.
const BACKLOG: usize = 4096;

/// Time between two pictures of a live view.
const FRAME: Duration = Duration::from_millis(80);

/// How much a view tells of a build in which nothing had to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// The build is what was asked for.
    Everything,
    /// The build only comes before something else: silent if all was cached.
    OnlyWork,
}

/// One way to show a build.
trait View: Send {
    /// Takes in what happened.
    ///
    /// # Errors
    /// The terminal or pipe cannot be written.
    fn event(&mut self, event: &BuildEvent) -> io::Result<()>;

    /// Draws anew; called some times a second if [`View::is_live`].
    ///
    /// # Errors
    /// As [`View::event`].
    fn tick(&mut self, _elapsed: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Whether there is something to draw between events.
    fn is_live(&self) -> bool {
        false
    }

    /// Takes what is not meant to stay off the screen.
    ///
    /// # Errors
    /// As [`View::event`].
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A running view; takes events until it is finished.
#[derive(Debug)]
pub(crate) struct Progress {
    events: Option<SyncSender<BuildEvent>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Starts the view that the settings ask for.
    pub(crate) fn start(settings: &Settings, telling: Telling) -> Self {
        let Some(view) = choose(settings, telling) else {
            return Self {
                events: None,
                thread: None,
            };
        };
        let (sender, receiver) = sync_channel(BACKLOG);
        let thread = thread::spawn(move || show(view, &receiver));
        Self {
            events: Some(sender),
            thread: Some(thread),
        }
    }

    /// Hands an event to the view; blocks while too many wait.
    pub(crate) fn event(&self, event: BuildEvent) {
        // A view that cannot write any more has ended; the build goes on without it.
        if let Some(events) = &self.events
            && events.send(event).is_err()
        {}
    }

    /// Shows what is left and waits until it is on the screen.
    pub(crate) fn finish(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.events = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("views do not panic");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

fn choose(settings: &Settings, telling: Telling) -> Option<Box<dyn View>> {
    let stderr = || Box::new(io::stderr()) as Box<dyn Write + Send>;
    let form = match settings.progress {
        ProgressForm::Auto if settings.stderr_is_terminal => ProgressForm::Tty,
        ProgressForm::Auto => ProgressForm::Plain,
        form @ (ProgressForm::Plain | ProgressForm::Json | ProgressForm::Tty) => form,
    };
    match form {
        // Whoever reads events wants them, `--quiet` or not.
        ProgressForm::Json => Some(Box::new(json::Json::new(stderr()))),
        _ if settings.quiet => None,
        ProgressForm::Plain | ProgressForm::Auto => Some(Box::new(plain::Plain::new(
            stderr(),
            telling,
            settings.verbose,
        ))),
        ProgressForm::Tty => Some(Box::new(live::Live::new(
            stderr(),
            telling,
            settings.verbose,
            settings.colour_on_stderr,
        ))),
    }
}

/// The view's thread: events as they come, pictures in between.
fn show(mut view: Box<dyn View>, events: &Receiver<BuildEvent>) {
    let started = Instant::now();
    let mut drawn = started;
    let mut shown = Ok(());
    while shown.is_ok() {
        let wait = if view.is_live() { FRAME } else { Duration::MAX };
        match events.recv_timeout(wait) {
            Ok(event) => shown = view.event(&event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if shown.is_ok() && view.is_live() && drawn.elapsed() >= FRAME {
            drawn = Instant::now();
            shown = view.tick(started.elapsed());
        }
    }
    // Standard error is gone, and with it whoever could be told so.
    if shown.and_then(|()| view.finish()).is_err() {}
}
