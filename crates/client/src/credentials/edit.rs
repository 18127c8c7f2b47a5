//! A JSON object of which some members change and the others stay, text and order alike.
//!
//! Credentials files belong to several programs, each with keys of its own, and to people.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in their order; values as they are written.
pub(super) struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// Returns an object without members.
    pub(super) fn empty() -> Self {
        Self(Vec::new())
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.get())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// Sets a member: in its place, or at the end.
    ///
    /// # Errors
    /// An error when `value` is not JSON.
    pub(super) fn set(&mut self, key: &str, value: String) -> Result<(), serde_json::Error> {
        let value = RawValue::from_string(value)?;
        match self.0.iter_mut().find(|(known, _)| known == key) {
            Some(member) => member.1 = value,
            None => self.0.push((key.to_owned(), value)),
        }
        Ok(())
    }

    /// Removes the members that `drop` says; tells whether there were any.
    pub(super) fn remove(&mut self, drop: impl Fn(&str) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|(key, _)| !drop(key));
        self.0.len() < before
    }

    /// Writes the object as docker does, with tabs, at `depth`.
    pub(super) fn to_text(&self, depth: usize) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let mut text = "{".to_owned();
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push('\n');
            text.push_str(&"\t".repeat(depth + 1));
            text.push_str(&format!("{}: {}", quoted(key), value.get()));
        }
        text.push('\n');
        text.push_str(&"\t".repeat(depth));
        text.push('}');
        text
    }
}

/// Writes a string in JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_was_written() {
        let text = br#"{"z": 1.50, "a" : {"y":[1 , 2],  "b":2}, "m":null}"#;
        let mut object = Object::parse(text).unwrap();
        object.set("a\"", "\"x\"".to_owned()).unwrap();
        object.set("m", "true".to_owned()).unwrap();
        assert_eq!(
            object.to_text(0),
            "{\n\t\"z\": 1.50,\n\t\"a\": {\"y\":[1 , 2],  \"b\":2},\n\t\"m\": true,\n\t\"a\\\"\": \"x\"\n}"
        );
        assert_eq!(object.keys().collect::<Vec<_>>(), ["z", "a", "m", "a\""]);
        assert!(object.remove(|key| key != "z") && !object.remove(|key| key != "z"));
        assert_eq!(object.get("z"), Some("1.50"));
        assert!(Object::parse(b"[]").is_err());
    }
}
