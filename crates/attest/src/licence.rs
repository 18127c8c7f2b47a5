//! What a package says about its licence, as far as it can be said in SPDX.
//!
//! Names of licences are free text in every database; only a valid expression may stand where the two
//! formats want one. A text that is none is not guessed at, and kept as a remark.

use spdx::{Expression, ParseMode};

/// A licence as the package names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Licence<'a> {
    /// An expression of identifiers from the SPDX list.
    Expression(&'a str),
    /// Anything else.
    Text(&'a str),
}

impl<'a> Licence<'a> {
    /// Tells which it is.
    pub(crate) fn of(text: &'a str) -> Self {
        match Expression::parse_mode(text, ParseMode::STRICT) {
            Ok(_) => Self::Expression(text),
            Err(_) => Self::Text(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expressions_of_the_list_are_expressions() {
        for text in ["MIT", "GPL-2.0-only AND (MIT OR Apache-2.0)"] {
            assert_eq!(Licence::of(text), Licence::Expression(text));
        }
        for text in ["BSD", "MIT BSD", "GPL v2", "", "custom:x"] {
            assert_eq!(Licence::of(text), Licence::Text(text));
        }
    }
}
