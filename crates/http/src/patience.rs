//! How much trouble an answer is worth.

use std::time::Duration;

use crate::settings::Timeouts;

/// Limits for one request, below those of the settings: for what can be asked elsewhere, or done without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often to ask in all, at least 1.
    pub tries: u32,
    /// How long to wait for a connection, for the reply and for each further piece of it. A server that was silent
    /// for that long is not asked again.
    pub silence: Duration,
    /// How long to wait, in all tries together, because the server says so.
    pub retry_after: Duration,
}

impl Patience {
    /// As much as the settings have.
    pub const FULL: Self = Self {
        tries: u32::MAX,
        silence: Duration::MAX,
        retry_after: Duration::MAX,
    };

    /// Returns the timeouts of a request.
    pub(crate) fn timeouts(&self, settings: &Timeouts) -> Timeouts {
        Timeouts {
            connect: settings.connect.min(self.silence),
            first_byte: settings.first_byte.min(self.silence),
            idle: settings.idle.max(settings.first_byte).min(self.silence),
        }
    }

    /// Tells whether silence is answered by another try.
    pub(crate) fn bears_silence(&self) -> bool {
        self.silence == Duration::MAX
    }
}
