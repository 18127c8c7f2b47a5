//! Numbers and flags. Where a variable is wanted, they are written as a string with one.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::{Decode, Decoder};
use crate::tree::{Node, Value};

/// A pattern for a string with a variable in it.
pub(crate) const HAS_VARIABLE: &str = r"\$\{arg\.";

/// `true` or `false`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flag {
    pub(crate) value: bool,
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integer<const MIN: u32, const MAX: u32> {
    pub(crate) value: u32,
}

/// A positive number, maybe with a fraction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decimal {
    pub(crate) value: f64,
}

impl Decimal {
    /// In thousandths, rounded down.
    pub(crate) fn millis(self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "decoding keeps it from 0.001 to 100000"
        )]
        let millis = (self.value * 1000.0) as u32;
        millis
    }
}

/// The text of a string that has variables; `None` for anything else.
fn variable_text(node: &Node, expected: &'static str, decoder: &mut Decoder<'_>) -> Option<String> {
    let (text, has_variables) = decoder.text(node, expected)?;
    if has_variables {
        return Some(text.value);
    }
    decoder.wrong_type(node, expected);
    None
}

impl Decode for Flag {
    const EXPECTED: &'static str = "`true` or `false`";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let span = node.span;
        if let Value::Boolean(value) = node.value {
            return Some(Self { value });
        }
        let text = variable_text(node, Self::EXPECTED, decoder)?;
        match text.parse() {
            Ok(value) => Some(Self { value }),
            Err(_) => {
                decoder.invalid(&text, "is not `true` or `false`", span, "write one of them");
                None
            }
        }
    }
}

impl<const MIN: u32, const MAX: u32> Decode for Integer<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let span = node.span;
        let (shown, number) = if let Value::Integer(number) = node.value {
            (decoder.source[span.start..span.end].to_owned(), number)
        } else {
            let text = variable_text(node, Self::EXPECTED, decoder)?;
            let number = text.parse().ok();
            (text, number)
        };
        let value = number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|value| (MIN..=MAX).contains(value));
        if value.is_none() {
            decoder.invalid(
                &shown,
                "is out of range",
                span,
                format!("write a whole number from {MIN} to {MAX}"),
            );
        }
        value.map(|value| Self { value })
    }
}

impl Decode for Decimal {
    const EXPECTED: &'static str = "a number";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let span = node.span;
        let (shown, number) = match node.value {
            Value::Float(number) => (number.to_string(), Some(number)),
            Value::Integer(number) => {
                let number = number.and_then(|number| u32::try_from(number).ok());
                let shown = decoder.source[span.start..span.end].to_owned();
                (shown, number.map(f64::from))
            }
            Value::String(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_)
            | Value::Table(_) => {
                let text = variable_text(node, Self::EXPECTED, decoder)?;
                let number = text.parse().ok();
                (text, number)
            }
        };
        // A thousandth is the finest share a cgroup can be given.
        let value = number.filter(|number| (0.001..=100_000.0).contains(number));
        if value.is_none() {
            decoder.invalid(
                &shown,
                "is out of range",
                span,
                "write a number from 0.001 to 100000",
            );
        }
        value.map(|value| Self { value })
    }
}

impl JsonSchema for Flag {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Flag".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "boolean" }, { "type": "string", "pattern": HAS_VARIABLE }]
        })
    }
}

impl<const MIN: u32, const MAX: u32> JsonSchema for Integer<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Integer from {MIN} to {MAX}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": MIN, "maximum": MAX },
                { "type": "string", "pattern": HAS_VARIABLE },
            ]
        })
    }
}

impl JsonSchema for Decimal {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Decimal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "number", "minimum": 0.001, "maximum": 100_000 },
                { "type": "string", "pattern": HAS_VARIABLE },
            ]
        })
    }
}
