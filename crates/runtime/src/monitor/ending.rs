//! The end of a container: it starts again by its policy, or is given up.

use std::time::{Duration, Instant};

use kiln_sandbox::Exit;

use super::Monitor;
use crate::config::back_off;
use crate::control::Reply;
use crate::state::Phase;
use crate::stored::{self, StoredContainer};

/// A container that ran for so long did not fail to start: the next wait is short again.
const SETTLED: Duration = Duration::from_secs(10);

impl Monitor {
    /// The container has ended and said everything.
    pub(super) fn end(&mut self) {
        let Some(running) = self.running.take() else {
            return;
        };
        self.checks = None;
        self.kill_at = None;
        let now = (self.clock)();
        if let Some(log) = &mut self.log
            && let Err(error) = log.finish(now)
        {
            self.state.error = Some(format!("cannot keep its output: {error}"));
        }
        let age = running.age();
        let exit = running.finish();
        self.state.set_ended(exit, now);
        if exit.out_of_memory {
            self.tell("oom", &[]);
        }
        self.tell("die", &[("exitCode", exit.code().to_string())]);
        self.plan_restart(exit, age);
        match self.start_at {
            Some(_) => self.state.phase = Phase::Restarting,
            None => self.finish(),
        }
        self.note_state();
        self.clients.tell_ended(
            &Reply::Exited {
                code: exit.code(),
                out_of_memory: exit.out_of_memory,
            },
            self.start_at.is_none(),
        );
    }

    fn plan_restart(&mut self, exit: Exit, age: Duration) {
        // `update` may have changed the policy.
        if let Ok(stored) = StoredContainer::open(&self.store, &self.config.id) {
            self.config = stored.config;
        }
        let wanted = self.config.restart.wants(exit.code(), self.state.restarts);
        if !wanted || self.state.stopped_by_hand {
            return;
        }
        if age >= SETTLED {
            self.failures_in_a_row = 0;
        }
        self.start_at = Instant::now().checked_add(back_off(self.failures_in_a_row));
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.state.restarts = self.state.restarts.saturating_add(1);
    }

    pub(super) fn finish(&mut self) {
        self.state.phase = Phase::Exited;
        if self.state.stopped_by_hand {
            self.tell("stop", &[]);
        }
    }

    /// Gives the container up, and removes it if it is to be.
    pub(super) fn leave(mut self) {
        self.clients.flush_all();
        let removes = self.config.auto_remove;
        if let Some(claim) = self.claim.take()
            && removes
        {
            match self.store.containers().remove(claim) {
                Ok(()) => {
                    self.tell("destroy", &[]);
                    stored::remove_own_volumes(&self.store, &self.config);
                }
                Err(error) => tracing::warn!("cannot remove the container: {error}"),
            }
        }
        if removes && let Err(error) = self.store.tidy() {
            tracing::warn!("what the container left stays until the next kiln: {error}");
        }
        // Now whoever followed it to its end knows that nothing is left.
        self.clients.close();
    }
}
