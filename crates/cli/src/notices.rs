//! What libraries tell beside their results: warnings for everybody, details for whoever looks for a fault.
//!
//! Libraries never print; such lines they hand to `tracing`, and here is who listens. Only events are taken: there
//! are no spans, no filters by target and no times, so that listening costs the start of kiln nothing.
//!
//! ```text
//! library ─tracing→ Listener ┬→ the view that draws now (progress, bars), which puts the line above its picture
//!                            └→ where no view draws: standard error
//! ```

use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Warnings that are remembered so that none is told twice; others are told as often as they come.
const MOST_REMEMBERED: usize = 1000;

/// How much is listened to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Listening {
    /// To nothing.
    Off,
    /// To what may surprise later.
    #[default]
    Warnings,
    /// To all that libraries say.
    Details,
}

impl Listening {
    /// Reads the value of `KILN_LOG`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "off" => Some(Self::Off),
            "warn" => Some(Self::Warnings),
            "debug" => Some(Self::Details),
            _ => None,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Warnings => LevelFilter::WARN,
            Self::Details => LevelFilter::DEBUG,
        }
    }
}

/// One line of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Something works now and may surprise later, or was left behind.
    Warning(String),
    /// Of use to whoever looks for a fault.
    Detail(String),
}

/// Where notices go.
type Teller = dyn Fn(&Notice) + Send + Sync;

/// Listens from now on, and tells `tell` what no view shows.
///
/// Only this process is listened to: a copy of it that is about to become a container's program shares its standard
/// error, but is not kiln any more for whoever reads that.
pub(crate) fn listen(listening: Listening, tell: Box<Teller>) {
    if listening == Listening::Off {
        return;
    }
    let listener = Listener {
        filter: listening.filter(),
        process: std::process::id(),
        told: Mutex::default(),
        tell,
    };
    // Somebody listens already only where a test runs more than one of kiln's `main` in a process.
    tracing::subscriber::set_global_default(listener).unwrap_or_default();
}

/// The views that draw now, the last one on top.
static VIEWS: Mutex<Vec<Arc<Teller>>> = Mutex::new(Vec::new());

fn views() -> MutexGuard<'static, Vec<Arc<Teller>>> {
    VIEWS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A view gets the notices until this is dropped.
pub(crate) struct Diversion(Arc<Teller>);

impl Diversion {
    /// Hands notices to `tell`, which may be called from any thread.
    pub(crate) fn to(tell: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        let tell: Arc<Teller> = Arc::new(tell);
        views().push(Arc::clone(&tell));
        Self(tell)
    }
}

impl fmt::Debug for Diversion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Diversion")
    }
}

impl Drop for Diversion {
    fn drop(&mut self) {
        views().retain(|view| !Arc::ptr_eq(view, &self.0));
    }
}

struct Listener {
    filter: LevelFilter,
    /// The number of the process that listens.
    process: u32,
    /// Warnings that were told.
    told: Mutex<BTreeSet<String>>,
    tell: Box<Teller>,
}

impl Listener {
    /// Whether a warning comes for the first time: a mirror that is gone is asked for each blob.
    fn is_new(&self, warning: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.contains(warning) {
            return false;
        }
        if told.len() < MOST_REMEMBERED {
            told.insert(warning.to_owned());
        }
        true
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.filter
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.filter)
    }

    fn event(&self, event: &Event<'_>) {
        if std::process::id() != self.process {
            return;
        }
        let mut words = Words::default();
        event.record(&mut words);
        let (text, once) = words.finish();
        let notice = if *event.metadata().level() > Level::WARN {
            Notice::Detail(text)
        } else if self.is_new(&once.unwrap_or_else(|| text.clone())) {
            Notice::Warning(text)
        } else {
            return;
        };
        // Not held while it is told: a view that is slow must not stop others from coming and going.
        let view = views().last().cloned();
        match view {
            Some(view) => view(&notice),
            None => (self.tell)(&notice),
        }
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// An event as a line: its message, then what else it has.
#[derive(Default)]
struct Words {
    message: String,
    others: String,
    /// The field `once`: of warnings that have the same one, the first is told.
    once: Option<String>,
}

impl Words {
    /// The line, and what it is told once for if that is not the line itself.
    fn finish(self) -> (String, Option<String>) {
        let line = (self.message + &self.others).replace('\n', " ");
        (crate::text::harmless(&line), self.once)
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "once" => write!(self.once.get_or_insert_default(), "{value:?}"),
            name => write!(self.others, ", {name}: {value:?}"),
        };
        written.expect("strings take everything");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    /// What is told while `work` runs, without a listener for the whole process.
    fn told(listening: Listening, work: impl FnOnce()) -> Vec<Notice> {
        let (tell, told): (_, Receiver<Notice>) = channel();
        let listener = Listener {
            filter: listening.filter(),
            process: std::process::id(),
            told: Mutex::default(),
            tell: Box::new(move |notice| tell.send(notice.clone()).unwrap()),
        };
        tracing::subscriber::with_default(listener, work);
        told.into_iter().collect()
    }

    #[test]
    fn a_notice_is_its_message_and_what_else_it_has() {
        let said = told(Listening::Details, || {
            tracing::warn!("cannot unlock: {}", "why");
            tracing::debug!(name = "a\u{7}b", number = 3, "tried again");
        });
        let expected = [
            Notice::Warning("cannot unlock: why".to_owned()),
            Notice::Detail("tried again, name: ab, number: 3".to_owned()),
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn details_are_told_only_to_who_wants_them_and_warnings_once() {
        let said = told(Listening::Warnings, || {
            for _ in 0..3 {
                tracing::warn!("the lock is gone");
                tracing::debug!("trying again");
            }
            for mirror in ["a", "b"] {
                for blob in 1..3 {
                    tracing::warn!(once = mirror, "no {blob} at {mirror}");
                }
            }
        });
        let expected = ["the lock is gone", "no 1 at a", "no 1 at b"];
        assert_eq!(said, expected.map(|text| Notice::Warning(text.to_owned())));
    }

    #[test]
    fn the_words_of_the_variable() {
        assert_eq!(Listening::parse("debug"), Some(Listening::Details));
        assert_eq!(Listening::parse("off"), Some(Listening::Off));
        assert_eq!(Listening::parse("loud"), None);
    }
}
