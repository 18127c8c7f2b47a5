//! The client: settings, connections, and the loop that tries again.

use std::sync::Arc;

use crate::agent::Agents;
use crate::cancel::Cancel;
use crate::error::Error;
use crate::request::{Request, Response};
use crate::retry::Attempts;
use crate::settings::Settings;

/// Asks HTTP servers; clones share connections. Used from any number of threads at once.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    agents: Agents,
}

impl Client {
    /// Returns a client; nothing is read or connected before the first request.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            settings,
            agents: Agents::default(),
        }))
    }

    /// Returns what the client was told.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn agents(&self) -> &Agents {
        &self.0.agents
    }

    /// Starts counting tries at `request` for a caller that decides by itself what to ask next.
    pub fn attempts(&self, request: &Request) -> Attempts<'_> {
        Attempts::new(&self.settings().retry, request)
    }

    /// Asks and returns the whole reply. Blocks.
    ///
    /// Any status that asking again would not change is a success here: see
    /// [`Response::success`]. A successful body may have `limit_bytes`; of another, the first 64 KiB
    /// are kept. What is asked must bear being asked again: a `PATCH` is [sent](Self::send).
    ///
    /// # Errors
    /// [`Error::TooLarge`] past the limit; [`Error::RateLimited`], [`Error::Server`],
    /// [`Error::Timeout`], [`Error::Broken`] or [`Error::Connect`] after the last try;
    /// [`Error::Cancelled`]; and what settings or a redirect forbid.
    pub fn fetch(
        &self,
        request: &Request,
        limit_bytes: u64,
        cancel: &Cancel,
    ) -> Result<Response, Error> {
        let mut attempts = Attempts::new(&self.settings().retry, request);
        loop {
            let tried = self
                .exchange(request, &[], cancel)
                .and_then(|reply| reply.whole(limit_bytes));
            match tried {
                Ok(response) => return Ok(response),
                Err(failure) => attempts.wait(failure, cancel)?,
            }
        }
    }
}
