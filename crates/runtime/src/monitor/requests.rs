//! What verbs ask of a running container: input, sizes, signals, its end.

use std::time::{Duration, Instant};

use kiln_sandbox::{Group, Signal, WindowSize, signal_of};

use super::Monitor;
use super::clients::Asked;
use crate::control::{Reply, Request};
use crate::launch::stop_of;

impl Monitor {
    pub(super) fn answer(&mut self, client: usize, asked: Asked) {
        match asked {
            Asked::Request(
                Request::Start | Request::Wait | Request::Leave | Request::Attach { .. },
            ) => {}
            Asked::Request(Request::Resize { rows, columns }) => {
                self.size = WindowSize { rows, columns };
                if let Some(running) = &self.running {
                    running.resize(self.size);
                }
            }
            Asked::Request(Request::Signal { signal }) => {
                if let Some(signal) = signal_of(signal) {
                    let ends =
                        signal == Signal::KILL || signal.as_raw() == self.config.plan.stop_signal;
                    if ends {
                        self.set_stopped_by_hand();
                    }
                    self.tell("kill", &[("signal", signal.as_raw().to_string())]);
                    self.signal(signal);
                }
                self.clients.tell(client, &Reply::Done);
            }
            Asked::Request(Request::Stop { signal, timeout_ms }) => {
                let timeout = timeout_ms.map(Duration::from_millis);
                self.stop(signal.and_then(signal_of), timeout);
            }
            Asked::Input(bytes) => {
                let impatient = self.clients.is_impatient(client);
                if let Some(running) = &mut self.running
                    && running.type_in(bytes, impatient)
                {
                    self.signal(Signal::KILL);
                }
            }
            Asked::EndOfInput => {
                if let Some(running) = &mut self.running {
                    running.end_input();
                }
            }
        }
    }

    fn set_stopped_by_hand(&mut self) {
        self.state.stopped_by_hand = true;
        self.start_at = None;
        if self.running.is_none() {
            self.finish();
        }
        self.note_state();
    }

    /// Asks the container to end, and kills it after a while.
    pub(super) fn stop(&mut self, signal: Option<Signal>, timeout: Option<Duration>) {
        let own = stop_of(&self.config.plan);
        self.set_stopped_by_hand();
        if self.running.is_some() {
            let timeout = timeout.unwrap_or(own.timeout);
            self.kill_at = Instant::now().checked_add(timeout);
            self.signal(signal.unwrap_or(own.signal));
            self.thaw();
        }
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        let Some(running) = &self.running else {
            return;
        };
        if let Err(error) = running.signal(signal) {
            tracing::warn!("{error}");
        }
        if signal == Signal::KILL {
            self.thaw();
        }
    }

    /// What stands still does not end.
    fn thaw(&self) {
        let group = Group::new(self.state.groups.clone());
        if group.is_frozen()
            && let Err(error) = group.thaw()
        {
            tracing::warn!("cannot thaw the container: {error}");
        }
    }
}
