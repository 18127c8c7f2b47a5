//! What happened to containers, as docker tells it: one JSON object a line.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kiln_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::config::ContainerConfig;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What kind of thing it happened to.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What happened.
    #[serde(rename = "Action")]
    pub action: String,
    /// To which.
    #[serde(rename = "Actor")]
    pub actor: Actor,
    /// When, in whole seconds since 1970.
    pub time: i64,
    /// When, in nanoseconds.
    #[serde(rename = "timeNano")]
    pub time_nanoseconds: i128,
}

/// What something happened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID")]
    pub id: String,
    /// What else is known of it and of what happened.
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happened to a container.
    pub fn of_container(
        config: &ContainerConfig,
        name: &str,
        action: &str,
        details: &[(&str, String)],
        now: Timestamp,
    ) -> Self {
        let mut attributes = config.labels.clone();
        attributes.insert("name".to_owned(), name.to_owned());
        attributes.insert("image".to_owned(), config.image.clone());
        for (key, value) in details {
            attributes.insert((*key).to_owned(), value.clone());
        }
        Self {
            kind: "container".to_owned(),
            action: action.to_owned(),
            actor: Actor {
                id: config.id.to_string(),
                attributes,
            },
            time: now.as_second(),
            time_nanoseconds: now.as_nanosecond(),
        }
    }

    /// When it happened.
    pub fn timestamp(&self) -> Timestamp {
        Timestamp::from_nanosecond(self.time_nanoseconds).unwrap_or(Timestamp::MIN)
    }

    /// Tells whoever wants to know.
    ///
    /// # Errors
    /// What the system says.
    pub fn tell(&self, store: &Store) -> Result<(), StoreError> {
        let line = serde_json::to_string(self).expect("events have only text keys");
        store.events().add(&line)
    }
}
