//! The manifest's text as a tree of values with their places.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::span::Span;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// The value; for a table the header, or the key where there is no header.
    pub(crate) span: Span,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    String(String),
    /// `None` if it does not fit.
    Integer(Option<i64>),
    Float(f64),
    Boolean(bool),
    Datetime,
    Array(Vec<Node>),
    Table(Table),
}

/// Entries by key, so that the order in the file is gone.
pub(crate) type Table = BTreeMap<String, Entry>;

/// An entry of a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Span,
    pub(crate) node: Node,
}

impl Node {
    /// What the value is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::Boolean(_) => "true or false",
            Value::Datetime => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }

    /// Every place below and with this one.
    pub(crate) fn spans(&self, out: &mut Vec<Span>) {
        out.push(self.span);
        match &self.value {
            Value::Array(nodes) => nodes.iter().for_each(|node| node.spans(out)),
            Value::Table(table) => {
                for entry in table.values() {
                    out.push(entry.key);
                    entry.node.spans(out);
                }
            }
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime => {}
        }
    }
}

/// Converts what the TOML parser gives.
pub(crate) fn table(table: &DeTable<'_>) -> Table {
    table
        .iter()
        .map(|(key, value)| {
            let key_span = Span::from(key.span());
            let mut node = node(value);
            if node.span.start == node.span.end {
                node.span = key_span;
            }
            let name = key.get_ref().to_string();
            (
                name,
                Entry {
                    key: key_span,
                    node,
                },
            )
        })
        .collect()
}

fn node(spanned: &Spanned<DeValue<'_>>) -> Node {
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(integer) => {
            Value::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok())
        }
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(_) => Value::Datetime,
        DeValue::Array(array) => Value::Array(array.iter().map(node).collect()),
        DeValue::Table(entries) => Value::Table(table(entries)),
    };
    Node {
        value,
        span: spanned.span().into(),
    }
}

/// Lays `over` onto `under`: tables merge, everything else is replaced.
///
/// What is one choice is replaced as a whole, although it is a table: `from` and each
/// mount. A plain string over an arg's table is its default.
pub(crate) fn merge(under: &mut Table, over: &Table, path: &mut Vec<String>) {
    for (key, entry) in over {
        let Some(existing) = under.get_mut(key) else {
            under.insert(key.clone(), entry.clone());
            continue;
        };
        path.push(key.clone());
        let is_choice = key == "from" || path.iter().rev().nth(1).is_some_and(|p| p == "mounts");
        let is_arg = path.len() == 2 && path[0] == "args";
        match (&mut existing.node.value, &entry.node.value) {
            (Value::Table(below), Value::Table(above)) if !is_choice => merge(below, above, path),
            (Value::Table(below), Value::String(_)) if is_arg => {
                below.insert("default".to_owned(), entry.clone());
            }
            _ => *existing = entry.clone(),
        }
        path.pop();
    }
}
