//! Message queues and shared memory that a container has together with another one.

use std::sync::Arc;

use kiln_sandbox::{Communication, Running, SandboxError};
use kiln_store::{ContainerId, Store, StoreError};
use kiln_sys::Errno;

use crate::launch::LaunchError;
use crate::plan::PlannedCommunication;
use crate::state::Status;
use crate::stored::StoredContainer;

/// What is shared of a container, as messages call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    /// Its network.
    Network,
    /// Its message queues and shared memory.
    Communication,
}

impl Share {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Communication => "shared memory",
        }
    }

    pub(crate) fn refused(self, name: String, why: &'static str) -> LaunchError {
        let what = self.word();
        LaunchError::Sharing { what, name, why }
    }

    /// The container `id` with its first process, to share something of.
    pub(crate) fn of(
        self,
        store: &Store,
        id: &ContainerId,
    ) -> Result<(StoredContainer, Running), LaunchError> {
        let other = match StoredContainer::open(store, id) {
            Err(StoreError::Missing { .. }) => {
                let why = "it has been removed; make this one anew";
                return Err(self.refused(id.short().to_owned(), why));
            }
            other => other?,
        };
        match other.running()? {
            Some(running) => Ok((other, running)),
            None => {
                let why = if other.status == Status::Restarting {
                    "it is about to be started again; wait until it runs"
                } else {
                    "it is not running; start it first"
                };
                Err(self.refused(other.display_name(), why))
            }
        }
    }
}

/// What the sandbox is to get instead of its own.
pub(crate) fn communication(
    store: &Store,
    planned: &PlannedCommunication,
) -> Result<Option<Arc<Communication>>, LaunchError> {
    let PlannedCommunication::Container(id) = planned else {
        return Ok(None);
    };
    let (other, running) = Share::Communication.of(store, id)?;
    match running.communication() {
        // Those of an ordinary user may each have a user namespace of their own.
        Err(SandboxError::Kernel {
            errno: Errno::ACCESS | Errno::PERM,
            ..
        }) => {
            let why = "it has users of its own; start this one by itself, and with no other network than that one's";
            Err(Share::Communication.refused(other.display_name(), why))
        }
        shared => Ok(Some(Arc::new(shared?))),
    }
}
