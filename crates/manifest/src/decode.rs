//! From the tree of values to the tables as written, with every problem collected.
//!
//! A type says in one place what it reads ([`Decode`]) and what its JSON Schema is
//! (`JsonSchema`); a table gets both from one [`table!`] declaration, so that parser,
//! schema and reference cannot drift apart. Nothing stops at the first problem: what
//! cannot be read is reported and left out, and the caller goes on.

mod collection;
mod number;
mod ports;
mod scalar;
pub(crate) mod table;

use crate::problem::Problem;
use crate::span::{Span, Spanned};
use crate::tree::{Node, Value};
use crate::variables::{self, Applied, Variables};

pub(crate) use collection::{List, Map, OneKey, OrString};
pub(crate) use number::{Decimal, Flag, HAS_VARIABLE, Integer};
pub(crate) use ports::Ports;
pub(crate) use scalar::Scalar;
pub(crate) use table::{Field, Place, Placed, Required, table};

/// Reads a value.
pub(crate) trait Decode: Sized {
    /// What is expected, with its article.
    const EXPECTED: &'static str;

    /// Returns `None` after reporting why.
    fn decode(node: &Node, decoder: &mut Decoder<'_>) -> Option<Self>;
}

/// Where problems go, and what is needed to find them.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    /// The whole text.
    pub(crate) source: &'a str,
    pub(crate) variables: &'a Variables,
    /// The values that use a variable of the target, in the order they were read.
    pub(crate) target_uses: Vec<Span>,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(source: &'a str, variables: &'a Variables) -> Self {
        Self {
            source,
            variables,
            target_uses: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Reads a string and applies variables. The flag says whether there were any.
    pub(crate) fn text(
        &mut self,
        node: &Node,
        expected: &'static str,
    ) -> Option<(Spanned<String>, bool)> {
        let Value::String(text) = &node.value else {
            self.wrong_type(node, expected);
            return None;
        };
        let written = self.source.get(node.span.start..node.span.end);
        let text = match written {
            // A checkout with other line ends must not change what a step does.
            Some(written) if written.contains('\r') => text.replace("\r\n", "\n"),
            Some(_) | None => text.clone(),
        };
        let applied = self
            .variables
            .apply(&text, node.span, self.source, &mut self.problems);
        match applied {
            Applied::Unchanged => Some((Spanned::new(text, node.span), false)),
            Applied::Changed { text, of_target } => {
                if of_target {
                    self.target_uses.push(node.span);
                }
                Some((Spanned::new(text, node.span), true))
            }
            Applied::Failed => None,
        }
    }

    pub(crate) fn wrong_type(&mut self, node: &Node, expected: &'static str) {
        let written = self
            .source
            .get(node.span.start..node.span.end)
            .filter(|written| !written.contains('\n') && written.len() < 40)
            .unwrap_or("…");
        let wants_list = expected.contains("list");
        let help = match &node.value {
            Value::String(_) if wants_list => format!("write `[{written}]`"),
            // What stands between two of these is the only value there is.
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime
                if expected.starts_with('`') =>
            {
                format!("write {expected}")
            }
            Value::Integer(_) | Value::Float(_)
                if expected.contains("with its unit") && !written.starts_with('-') =>
            {
                let unit = if expected.contains("time") { "s" } else { "MB" };
                format!(
                    "write a unit behind the number, and all of it in quotes: `\"{written}{unit}\"`"
                )
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime
                if !expected.ends_with("number")
                    && !expected.contains("with its unit")
                    && (expected.contains("string")
                        || !(wants_list || expected.contains("table"))) =>
            {
                format!("write `\"{written}\"`")
            }
            Value::String(text) if expected.contains("number") && text.parse::<f64>().is_ok() => {
                format!("write `{text}`, without quotes")
            }
            Value::String(text) if expected == Flag::EXPECTED && text.parse::<bool>().is_ok() => {
                format!("write `{text}`, without quotes")
            }
            Value::String(text) if expected == "a table (a port)" => {
                let published = text.split_once(':');
                let (host, container) = published.unwrap_or((text, text));
                match (host.parse::<u16>(), container.parse::<u16>()) {
                    (Ok(host), Ok(container)) => {
                        format!("write `{{ host = {host}, container = {container} }}`")
                    }
                    _ => "write `{ host = 8080, container = 80 }`".to_owned(),
                }
            }
            _ if expected == "a table (a mount)" => {
                "write `{ bind = \"PATH\" }`, `{ volume = \"NAME\" }` or `{ tmpfs = \"64MB\" }`"
                    .to_owned()
            }
            Value::Table(_) if expected == "a list" => "put `[` and `]` around it".to_owned(),
            _ if expected.starts_with("a table") => {
                "write a table: `{ … }`, or its keys below a `[…]` of its own".to_owned()
            }
            Value::String(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime
            | Value::Array(_)
            | Value::Table(_) => format!("write {expected}"),
        };
        self.problems.push(Problem::WrongType {
            expected,
            found: node.kind(),
            at: node.span.into(),
            help,
        });
    }

    /// Like [`Decoder::wrong_type`], where a list of tables belongs.
    pub(crate) fn wrong_type_of_list(&mut self, node: &Node) {
        self.problems.push(Problem::WrongType {
            expected: "a list of tables",
            found: node.kind(),
            at: node.span.into(),
            help: "write a list of tables: `[{ … }]`".to_owned(),
        });
    }

    pub(crate) fn invalid(
        &mut self,
        value: &str,
        reason: impl Into<String>,
        span: Span,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem::InvalidValue {
            value: variables::shorten(value),
            reason: reason.into(),
            at: span.into(),
            origin: "here",
            help: help.into(),
        });
    }
}
