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

use kiln_build::{BuildEvent, EventKind};

use crate::app::ProgressForm;
use crate::notices::{Diversion, Notice};
use crate::settings::Settings;

/// Events that may wait for the view before the build waits for it.
const BACKLOG: usize = 4096;

/// Events kept while a shell has the terminal; beyond it, lines and amounts are left out.
const MOST_HELD: usize = 10_000;

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
    /// What libraries tell meanwhile goes to the view too. Dropped first: the view's thread ends when nobody can send.
    diversion: Option<Diversion>,
    messages: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
}

/// What a view's thread is handed.
#[derive(Debug)]
struct Message {
    event: BuildEvent,
    /// Dropped when the event is on the screen.
    shown: Option<SyncSender<()>>,
}

impl Progress {
    /// Starts the view that the settings ask for.
    pub(crate) fn start(settings: &Settings, telling: Telling) -> Self {
        let Some(view) = choose(settings, telling) else {
            return Self {
                diversion: None,
                messages: None,
                thread: None,
            };
        };
        let (sender, receiver) = sync_channel(BACKLOG);
        let thread = thread::spawn(move || show(view, &receiver));
        let started = Instant::now();
        let notices = sender.clone();
        let diversion = Diversion::to(move |notice| {
            let event = BuildEvent {
                at_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                kind: event_of(notice),
            };
            let message = Message { event, shown: None };
            // A view that cannot write any more has ended, and with it whoever could be told.
            if notices.send(message).is_err() {}
        });
        Self {
            diversion: Some(diversion),
            messages: Some(sender),
            thread: Some(thread),
        }
    }

    /// Hands an event to the view; blocks while too many wait, and before a shell until the view is still.
    pub(crate) fn event(&self, event: BuildEvent) {
        let Some(messages) = &self.messages else {
            return;
        };
        let is_shell = matches!(event.kind, EventKind::ShellOpened { .. });
        let (shown, wait) = is_shell.then(|| sync_channel(0)).unzip();
        // A view that cannot write any more has ended; the build goes on without it.
        if messages.send(Message { event, shown }).is_err() {
            return;
        }
        // Nothing is ever sent: the other end goes away.
        if wait.is_some_and(|wait| wait.recv().is_ok()) {}
    }

    /// Shows what is left and waits until it is on the screen.
    pub(crate) fn finish(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.diversion = None;
        self.messages = None;
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

/// What a library tells, as an event of the build in which it does.
fn event_of(notice: &Notice) -> EventKind {
    match notice {
        Notice::Warning(message) => EventKind::Warning {
            step: None,
            message: message.clone(),
        },
        Notice::Detail(message) => EventKind::Detail {
            message: message.clone(),
        },
    }
}

/// Whether every line that a step writes is on the screen as it comes.
pub(crate) fn shows_all_output(settings: &Settings) -> bool {
    form(settings) == ProgressForm::Plain && !settings.quiet
}

/// The form that is meant; never [`ProgressForm::Auto`].
fn form(settings: &Settings) -> ProgressForm {
    match settings.progress {
        ProgressForm::Auto if settings.stderr_is_terminal && !settings.stderr_is_dumb => {
            ProgressForm::Tty
        }
        ProgressForm::Auto => ProgressForm::Plain,
        form @ (ProgressForm::Plain | ProgressForm::Json | ProgressForm::Tty) => form,
    }
}

fn choose(settings: &Settings, telling: Telling) -> Option<Box<dyn View>> {
    let stderr = || Box::new(io::stderr()) as Box<dyn Write + Send>;
    match form(settings) {
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

/// The view's thread: events as they come, pictures in between, and nothing while a shell has the terminal.
fn show(mut view: Box<dyn View>, messages: &Receiver<Message>) {
    let started = Instant::now();
    let mut drawn = started;
    let mut held: Option<Vec<BuildEvent>> = None;
    let mut shown = Ok(());
    while shown.is_ok() {
        let is_drawing = view.is_live() && held.is_none();
        let wait = if is_drawing { FRAME } else { Duration::MAX };
        match messages.recv_timeout(wait) {
            Ok(Message {
                event,
                shown: waits,
            }) => {
                shown = take(&mut *view, &mut held, event);
                drop(waits);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if shown.is_ok() && view.is_live() && held.is_none() && drawn.elapsed() >= FRAME {
            drawn = Instant::now();
            shown = view.tick(started.elapsed());
        }
    }
    // Standard error is gone, and with it whoever could be told so.
    if shown.and_then(|()| view.finish()).is_err() {}
}

/// Shows an event, or keeps it in `held` while a shell has the terminal.
fn take(
    view: &mut dyn View,
    held: &mut Option<Vec<BuildEvent>>,
    event: BuildEvent,
) -> io::Result<()> {
    match (&mut *held, &event.kind) {
        (None, EventKind::ShellOpened { .. }) => {
            *held = Some(Vec::new());
            view.event(&event)
        }
        (None, _) => view.event(&event),
        (Some(events), EventKind::ShellClosed { .. }) => {
            let events = std::mem::take(events);
            *held = None;
            events.iter().try_for_each(|event| view.event(event))?;
            view.event(&event)
        }
        (Some(events), EventKind::Output { .. } | EventKind::Progress { .. })
            if events.len() >= MOST_HELD =>
        {
            Ok(())
        }
        (Some(events), _) => {
            events.push(event);
            Ok(())
        }
    }
}
