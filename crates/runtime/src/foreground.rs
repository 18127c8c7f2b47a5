//! A container that lives and dies with the process that wants to see it: `run --rm` without a terminal, `shell`.
//!
//! It is in the store as all others are, so that other verbs find it; but nothing is between it and the caller's
//! own input and output, and nothing of it is left.

use std::io;
use std::os::fd::AsFd;

use kiln_sandbox::{Exit, PassedOn, Unenforced};
use kiln_store::{ContainerClaim, Store, StoreError};

use crate::config::ContainerConfig;
use crate::event::Event;
use crate::launch::{Launch, LaunchError, Started, stop_of};
use crate::state::{ContainerState, Phase};
use crate::stored::{self, Clock};

/// A container in the foreground. Its writable layer goes away with it.
#[derive(Debug)]
pub struct Foreground {
    started: Option<Started>,
    store: Store,
    claim: Option<ContainerClaim>,
    config: ContainerConfig,
    name: String,
    state: ContainerState,
    clock: Clock,
}

impl Foreground {
    /// Starts a container that was just made, in `launch.folder`.
    ///
    /// The calling thread is the container's lifeline.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left behind.
    pub fn start(
        launch: &Launch<'_>,
        claim: ContainerClaim,
        config: ContainerConfig,
        name: &str,
        clock: Clock,
    ) -> Result<Self, LaunchError> {
        let mut container = Self {
            started: None,
            store: launch.session.store().clone(),
            claim: Some(claim),
            config,
            name: name.to_owned(),
            state: ContainerState::default(),
            clock,
        };
        let work = launch.folder.join("work");
        std::fs::create_dir(&work).map_err(|source| LaunchError::Io {
            doing: "make",
            path: work.clone(),
            source,
        })?;
        let started = Started::new(launch, &container.config.plan)?;
        let child = &started.child;
        let now = (container.clock)();
        container
            .state
            .set_running(child.pid(), child.groups(), now);
        container.started = Some(started);
        container.write_state()?;
        container.tell("start", &[]);
        Ok(container)
    }

    /// Limits of the plan that it does not have, since they cannot be enforced here.
    pub fn unenforced(&self) -> Option<&Unenforced> {
        self.started.as_ref()?.unenforced.as_ref()
    }

    /// What of its networks does not work as it should.
    pub fn network_warnings(&self) -> &[String] {
        self.started.as_ref().map_or(&[], Started::network_warnings)
    }

    /// Waits for its end, with `signals`, keys and output passed on. When kiln is asked to end (`TERM`), or
    /// its terminal is gone, the container gets the stop signal of its plan and is killed after the time of it.
    ///
    /// `signals` are taken over before the container is started, so that none is lost.
    ///
    /// # Errors
    /// [`LaunchError::Sandbox`].
    pub fn follow(
        mut self,
        signals: &PassedOn,
        input: impl AsFd,
        output: impl AsFd,
    ) -> Result<Exit, LaunchError> {
        let stop = stop_of(&self.config.plan);
        let started = self.started.as_mut().ok_or_else(|| LaunchError::Io {
            doing: "follow",
            path: self.name.clone().into(),
            source: io::Error::other("it was not started"),
        })?;
        let exit = started
            .child
            .foreground_with(signals, stop, input, output)?;
        self.state.set_ended(exit, (self.clock)());
        self.state.phase = Phase::Exited;
        self.tell("die", &[("exitCode", exit.code().to_string())]);
        Ok(exit)
    }

    fn write_state(&self) -> Result<(), StoreError> {
        match &self.claim {
            Some(claim) => stored::write_state(&self.store, claim, &self.state),
            None => Ok(()),
        }
    }

    fn tell(&self, action: &str, details: &[(&str, String)]) {
        let event = Event::of_container(&self.config, &self.name, action, details, (self.clock)());
        if let Err(error) = event.tell(&self.store) {
            tracing::warn!("cannot note what happened: {error}");
        }
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // Killed first if it still runs.
        self.started = None;
        let Some(claim) = self.claim.take() else {
            return;
        };
        let note = stored::note_end(&claim, &self.state);
        let removed = note.and_then(|()| self.store.containers().remove(claim));
        match removed {
            Ok(()) => {
                self.tell("destroy", &[]);
                stored::remove_own_volumes(&self.store, &self.config);
            }
            Err(error) => {
                tracing::warn!("what the container left stays until the next kiln: {error}");
            }
        }
    }
}
