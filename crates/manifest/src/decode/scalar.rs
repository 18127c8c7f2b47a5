//! Values written as one string.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::decode::number::HAS_VARIABLE;
use crate::decode::{Decode, Decoder};
use crate::problem::Problem;
use crate::span::Spanned;
use crate::tree::Node;
use crate::value::ValueError;
use crate::variables;

/// A checked value that is written as a string.
pub(crate) trait Scalar: Sized {
    /// What it is, with its article: "an absolute path".
    const WHAT: &'static str;
    /// Its name in the JSON Schema.
    const NAME: &'static str;
    /// What the JSON Schema and the reference say about it.
    const ABOUT: &'static str;
    /// A pattern that every value matches; an approximation of [`Scalar::parse`].
    const PATTERN: Option<&'static str>;

    /// Checks the text.
    fn parse(text: &str) -> Result<Self, ValueError>;
}

impl<T: Scalar> Decode for Spanned<T> {
    const EXPECTED: &'static str = T::WHAT;

    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self> {
        let (text, has_variables) = decoder.text(node, Self::EXPECTED)?;
        match T::parse(&text) {
            Ok(value) => Some(Self::new(value, node.span)),
            Err(error) => {
                decoder.problems.push(Problem::InvalidValue {
                    value: variables::shorten(&text),
                    reason: error.reason,
                    at: node.span.into(),
                    origin: if has_variables {
                        "this is the value after variables are applied"
                    } else {
                        "here"
                    },
                    help: error.help,
                });
                None
            }
        }
    }
}

impl<T: Scalar> JsonSchema for Spanned<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        match T::PATTERN {
            Some(pattern) => json_schema!({
                "description": T::ABOUT,
                "type": "string",
                "pattern": format!("({pattern})|({HAS_VARIABLE})"),
            }),
            None => json_schema!({ "description": T::ABOUT, "type": "string" }),
        }
    }
}
