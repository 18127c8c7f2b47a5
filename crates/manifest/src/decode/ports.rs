//! Ports: one as a number, several as a string of the first and the last.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::number::HAS_VARIABLE;
use crate::decode::{Decode, Decoder};
use crate::span::Span;
use crate::tree::{Node, Value};

/// A port from `MIN`, or several in a row; 0 stands alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports<const MIN: u16> {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) span: Span,
}

impl<const MIN: u16> Ports<MIN> {
    /// How many there are.
    pub(crate) const fn count(self) -> u32 {
        (self.last - self.first) as u32 + 1
    }

    fn one(text: &str) -> Option<u16> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port >= MIN)
    }
}

impl<const MIN: u16> Decode for Ports<MIN> {
    const EXPECTED: &'static str = "a whole number, or a string of two such as `\"8000-8010\"`";

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let span = node.span;
        let shown = if let Value::Integer(_) = node.value {
            decoder.source[span.start..span.end].replace('_', "")
        } else {
            let (text, has_variables) = decoder.text(node, Self::EXPECTED)?;
            if !has_variables && !text.value.contains('-') {
                decoder.wrong_type(node, Self::EXPECTED);
                return None;
            }
            text.value
        };
        let (reason, help) = match shown.split_once('-') {
            // A number below 0 begins with the dash.
            Some((first, last)) if !first.is_empty() => match (Self::one(first), Self::one(last)) {
                (Some(first), Some(last)) if 0 < first && first <= last => {
                    return Some(Self { first, last, span });
                }
                _ => (
                    "is not a range of ports",
                    "write the first and the last, such as \"8000-8010\"".to_owned(),
                ),
            },
            _ => match Self::one(&shown) {
                Some(port) => {
                    return Some(Self {
                        first: port,
                        last: port,
                        span,
                    });
                }
                None => (
                    "is out of range",
                    format!("write a whole number from {MIN} to {}", u16::MAX),
                ),
            },
        };
        decoder.invalid(&shown, reason, span, help);
        None
    }
}

impl<const MIN: u16> JsonSchema for Ports<MIN> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Ports from {MIN}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": MIN, "maximum": u16::MAX },
                { "type": "string", "pattern": format!("(^[0-9]+-[0-9]+$)|({HAS_VARIABLE})") },
            ]
        })
    }
}
