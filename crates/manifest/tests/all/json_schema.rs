//! As much of JSON Schema draft 7 as our schema uses; anything else panics.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::Value;

pub(crate) struct Validator {
    root: Value,
    patterns: RefCell<BTreeMap<String, Regex>>,
    /// Definition and key of every property that was looked at.
    seen: RefCell<BTreeSet<(String, String)>>,
}

impl Validator {
    pub(crate) fn new(schema: &str) -> Self {
        Self {
            root: serde_json::from_str(schema).unwrap(),
            patterns: RefCell::default(),
            seen: RefCell::default(),
        }
    }

    pub(crate) fn seen(&self) -> BTreeSet<(String, String)> {
        self.seen.borrow().clone()
    }

    pub(crate) fn definitions(&self) -> &serde_json::Map<String, Value> {
        self.root["definitions"].as_object().unwrap()
    }

    /// The first thing that is wrong with `value`.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        self.against(&self.root, "", value, "")
    }

    fn against(&self, schema: &Value, name: &str, value: &Value, at: &str) -> Result<(), String> {
        let wrong = |what: String| Err(format!("{at}: {what}"));
        let schema = schema.as_object().unwrap();
        if let Some(target) = schema.get("$ref") {
            let name = target.as_str().unwrap().rsplit('/').next().unwrap();
            return self.against(&self.root["definitions"][name], name, value, at);
        }
        for (keyword, rule) in schema {
            let each = || rule.as_array().unwrap().iter();
            let passing = || each().filter(|rule| self.against(rule, name, value, at).is_ok());
            let good = match keyword.as_str() {
                "$schema" | "title" | "description" | "definitions" => true,
                "const" => rule == value,
                "type" => match rule.as_str().unwrap() {
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("type {other}"),
                },
                "allOf" => {
                    for rule in each() {
                        self.against(rule, name, value, at)?;
                    }
                    true
                }
                "anyOf" => passing().next().is_some(),
                "oneOf" => passing().count() == 1,
                "pattern" => value.as_str().is_none_or(|text| self.matches(rule, text)),
                "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
                "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
                "minItems" => value
                    .as_array()
                    .is_none_or(|items| items.len() as u64 >= rule.as_u64().unwrap()),
                "minProperties" => value
                    .as_object()
                    .is_none_or(|keys| keys.len() as u64 >= rule.as_u64().unwrap()),
                "maxProperties" => value
                    .as_object()
                    .is_none_or(|keys| keys.len() as u64 <= rule.as_u64().unwrap()),
                "items" => {
                    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.against(rule, name, item, &format!("{at}[{number}]"))?;
                    }
                    true
                }
                "properties" => {
                    for (key, rule) in rule.as_object().unwrap() {
                        if let Some(value) = value.get(key) {
                            self.seen
                                .borrow_mut()
                                .insert((name.to_owned(), key.clone()));
                            self.against(rule, "", value, &format!("{at}.{key}"))?;
                        }
                    }
                    true
                }
                "required" => each().all(|key| value.get(key.as_str().unwrap()).is_some()),
                "dependencies" => rule.as_object().unwrap().iter().all(|(key, needed)| {
                    value.get(key).is_none()
                        || needed
                            .as_array()
                            .unwrap()
                            .iter()
                            .all(|key| value.get(key.as_str().unwrap()).is_some())
                }),
                "propertyNames" => {
                    for key in value
                        .as_object()
                        .into_iter()
                        .flat_map(|object| object.keys())
                    {
                        self.against(
                            rule,
                            "",
                            &Value::String(key.clone()),
                            &format!("{at}.{key} (key)"),
                        )?;
                    }
                    true
                }
                "additionalProperties" => {
                    let known = schema.get("properties");
                    for (key, value) in value.as_object().into_iter().flatten() {
                        if known.is_some_and(|known| known.get(key).is_some()) {
                            continue;
                        }
                        if *rule == Value::Bool(false) {
                            return wrong(format!("unknown key `{key}`"));
                        }
                        self.against(rule, "", value, &format!("{at}.{key}"))?;
                    }
                    true
                }
                other => panic!("keyword {other}"),
            };
            if !good {
                return wrong(format!("{keyword} {rule}"));
            }
        }
        Ok(())
    }

    fn matches(&self, pattern: &Value, text: &str) -> bool {
        let pattern = pattern.as_str().unwrap();
        let mut patterns = self.patterns.borrow_mut();
        let regex = patterns
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(pattern).unwrap());
        regex.is_match(text)
    }
}
