//! Lists, tables with free keys, and the one kind of sugar.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::{Decode, Decoder, Scalar};
use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::tree::{Entry, Node, Table, Value};
use crate::variables;

/// A list. What cannot be read is left out after it was reported.
#[derive(Clone, Debug)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
    /// All of it.
    pub(crate) span: Span,
    /// Whether nothing is written in it.
    pub(crate) is_empty: bool,
}

impl<T: Decode> Decode for List<T> {
    const EXPECTED: &'static str = "a list";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::Array(nodes) = &node.value else {
            if T::EXPECTED.starts_with("a table") && !matches!(node.value, Value::Table(_)) {
                decoder.wrong_type_of_list(node);
            } else {
                decoder.wrong_type(node, Self::EXPECTED);
            }
            return None;
        };
        let items = nodes
            .iter()
            .filter_map(|node| T::decode(node, decoder))
            .collect();
        Some(Self {
            items,
            span: node.span,
            is_empty: nodes.is_empty(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("List of {}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
    }
}

/// A table whose keys are values of their own.
#[derive(Clone, Debug)]
pub(crate) struct Map<K, V> {
    pub(crate) entries: BTreeMap<K, Item<V>>,
    /// The header, or the whole inline table.
    pub(crate) span: Span,
    /// Whether nothing is written in it.
    pub(crate) is_empty: bool,
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            span: Span::default(),
            is_empty: true,
        }
    }
}

/// An entry of a [`Map`].
#[derive(Clone, Debug)]
pub(crate) struct Item<V> {
    pub(crate) key: Span,
    /// `None` if it could not be read, which was reported. The name still exists.
    pub(crate) value: Option<V>,
}

impl<K: Scalar + Ord, V> Map<K, V> {
    /// The entries that could be read.
    pub(crate) fn readable(self) -> impl Iterator<Item = (Spanned<K>, V)> {
        self.entries
            .into_iter()
            .filter_map(|(key, item)| Some((Spanned::new(key, item.key), item.value?)))
    }
}

impl<K: Scalar + Ord, V: Decode> Decode for Map<K, V> {
    const EXPECTED: &'static str = "a table";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let Value::Table(table) = &node.value else {
            decoder.wrong_type(node, Self::EXPECTED);
            return None;
        };
        let mut entries: BTreeMap<K, Item<V>> = BTreeMap::new();
        for (written, entry) in table {
            let value = V::decode(&entry.node, decoder);
            if variables::is_in_key(written) {
                decoder.problems.push(Problem::VariableInKey {
                    at: entry.key.into(),
                });
                continue;
            }
            let key = match K::parse(written) {
                Ok(key) => key,
                Err(error) => {
                    decoder.invalid(written, error.reason, entry.key, error.help);
                    continue;
                }
            };
            if let Some(first) = entries.get(&key) {
                decoder.problems.push(Problem::SameTarget {
                    what: "entries",
                    target: written.clone(),
                    first_at: first.key.min(entry.key).into(),
                    second_at: first.key.max(entry.key).into(),
                });
                continue;
            }
            let key_span = entry.key;
            entries.insert(
                key,
                Item {
                    key: key_span,
                    value,
                },
            );
        }
        Some(Self {
            entries,
            span: node.span,
            is_empty: table.is_empty(),
        })
    }
}

impl<K: Scalar, V: JsonSchema> JsonSchema for Map<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Table of {}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<V>();
        match K::PATTERN {
            Some(pattern) => json_schema!({
                "type": "object",
                "propertyNames": { "pattern": pattern },
                "additionalProperties": value,
            }),
            None => json_schema!({ "type": "object", "additionalProperties": value }),
        }
    }
}

/// A table for which a plain string may stand: the value of one of its keys.
#[derive(Clone, Debug)]
pub(crate) struct OrString<T>(pub(crate) T);

/// Names the key that a plain string stands for.
pub(crate) trait OneKey: Decode + JsonSchema {
    /// The key.
    const KEY: &'static str;
    /// What it reads.
    type Value: JsonSchema;
    /// What is expected where a string may stand, with its article.
    const STRING_OR_TABLE: &'static str;
}

impl<T: OneKey> Decode for OrString<T> {
    const EXPECTED: &'static str = T::STRING_OR_TABLE;

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        match &node.value {
            Value::Table(_) => T::decode(node, decoder).map(Self),
            Value::String(_) => {
                let entry = Entry {
                    key: node.span,
                    node: node.clone(),
                };
                let meant = Node {
                    value: Value::Table(Table::from([(T::KEY.to_owned(), entry)])),
                    span: node.span,
                };
                T::decode(&meant, decoder).map(Self)
            }
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_) => {
                decoder.wrong_type(node, Self::EXPECTED);
                None
            }
        }
    }
}

impl<T: OneKey> JsonSchema for OrString<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{} or string", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                generator.subschema_for::<T::Value>(),
                generator.subschema_for::<T>(),
            ]
        })
    }
}
