//! Whose message queues and shared memory a container has.

use kiln_runtime::PlannedCommunication;

use crate::container::wrong;
use crate::containers;
use crate::errors::Outcome;
use crate::local;
use crate::settings::Settings;

/// Whose message queues and shared memory a container is to have, as it is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ipc {
    Private,
    Shareable,
    Container(String),
}

impl Ipc {
    /// Reads the value of `--ipc`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "private" => Ok(Self::Private),
            "shareable" => Ok(Self::Shareable),
            "host" => Err(
                "a container has never those of the machine; name one that is shareable: container:NAME"
                    .to_owned(),
            ),
            other => match other.strip_prefix("container:") {
                Some(name) if !name.is_empty() => Ok(Self::Container(name.to_owned())),
                _ => Err("write private, shareable or container:NAME".to_owned()),
            },
        }
    }

    /// The container whose they are.
    pub(crate) fn other_container(&self) -> Option<&str> {
        match self {
            Self::Container(name) => Some(name),
            Self::Private | Self::Shareable => None,
        }
    }

    /// What the container is made with. `settled` is the flag, if there is one, that says more of what would be
    /// another container's.
    ///
    /// # Errors
    /// Such a flag for what is another's, and a container that does not share.
    pub(crate) fn planned(
        &self,
        settled: Option<&str>,
        settings: &Settings,
    ) -> Outcome<PlannedCommunication> {
        let name = match self {
            Self::Private => return Ok(PlannedCommunication::Private),
            Self::Shareable => return Ok(PlannedCommunication::Shareable),
            Self::Container(name) => name,
        };
        if let Some(flag) = settled {
            let message = format!("`{flag}` does not go with `--ipc container:{name}`");
            return Err(wrong(message, "say it of the other container, whose it is"));
        }
        let other = containers::find(&local::open(settings)?, name)?;
        match other.config.plan.communication {
            PlannedCommunication::Shareable => {
                Ok(PlannedCommunication::Container(other.id().clone()))
            }
            PlannedCommunication::Private => {
                let message = format!("the shared memory of container {name} is its own");
                Err(wrong(message, "make that one with --ipc shareable"))
            }
            PlannedCommunication::Container(_) => {
                let message = format!("container {name} has the shared memory of another one");
                Err(wrong(message, "name that one"))
            }
        }
    }
}
