//! Whose message queues and shared memory a container has.

use kiln_store::ContainerId;
use serde::{Deserialize, Serialize};

/// Whose message queues and shared memory a container has, `/dev/shm` included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedCommunication {
    /// Its own, which no other one gets.
    #[default]
    Private,
    /// Its own, which others may have, too.
    Shareable,
    /// Those of another container.
    Container(ContainerId),
}
