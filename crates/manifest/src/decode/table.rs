//! Tables with fixed keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::decode::{Decode, Decoder};
use crate::problem::Problem;
use crate::span::Span;
use crate::suggest;
use crate::tree::{Node, Table, Value};

/// Where a table and its keys stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// The header, or the whole inline table.
    pub(crate) span: Span,
    /// The keys that are there, readable or not.
    pub(crate) keys: BTreeMap<String, Span>,
    /// Whether there are keys that the table does not have. One of them may be what seems
    /// to be missing.
    pub(crate) has_unknown: bool,
    /// The keys that were probably meant by such keys.
    pub(crate) meant: BTreeSet<String>,
    /// The values in it that use a variable of the target.
    pub(crate) target_uses: Vec<Span>,
}

impl Place {
    /// Where `key` is, if it is there.
    pub(crate) fn key(&self, key: &str) -> Option<Span> {
        self.keys.get(key).copied()
    }

    /// Those of `keys` that are there, in the order of the file.
    pub(crate) fn present(&self, keys: &[&'static str]) -> Vec<(&'static str, Span)> {
        let mut present: Vec<_> = keys
            .iter()
            .filter_map(|key| Some((*key, self.key(key)?)))
            .collect();
        present.sort_by_key(|(_, span)| *span);
        present
    }
}

/// A table that knows where it stands.
pub(crate) trait Placed {
    /// Its place and the places of its keys.
    fn place(&self) -> &Place;
}

/// What may stand behind a key: a value, or nothing where that is allowed.
pub(crate) trait Field: Sized {
    /// Reads the entry `key` of `table`. `None` means the table cannot be used.
    fn field(
        table: &Table,
        key: &str,
        context: &Context<'_>,
        decoder: &mut Decoder<'_>,
    ) -> Option<Self>;
}

/// A key that must be there, in a table that is looked at further without it.
///
/// `None` after it was reported.
#[derive(Clone, Debug)]
pub(crate) struct Required<T>(pub(crate) Option<T>);

impl<T: Decode> Field for Required<T> {
    fn field(
        table: &Table,
        key: &str,
        context: &Context<'_>,
        decoder: &mut Decoder<'_>,
    ) -> Option<Self> {
        Some(Self(T::field(table, key, context, decoder)))
    }
}

impl<T: JsonSchema> JsonSchema for Required<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What the messages about a table need.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// What the table is.
    pub(crate) what: &'static str,
    /// Where it is, and what is in it.
    pub(crate) place: &'a Place,
}

impl<T: Decode> Field for T {
    fn field(
        table: &Table,
        key: &str,
        context: &Context<'_>,
        decoder: &mut Decoder<'_>,
    ) -> Option<Self> {
        let Some(entry) = table.get(key) else {
            if context.place.meant.contains(key) {
                return None;
            }
            // An expectation in backticks is the only value there is.
            let only = Self::EXPECTED.strip_prefix('`');
            let help = match only.and_then(|only| only.strip_suffix('`')) {
                Some(only) if !only.contains('`') => format!("add `{key} = {only}`"),
                _ => format!("add `{key} = …`, {}", Self::EXPECTED),
            };
            decoder.problems.push(Problem::MissingKey {
                key: key.to_owned(),
                table: context.what,
                at: context.place.span.into(),
                help,
            });
            return None;
        };
        Self::decode(&entry.node, decoder)
    }
}

impl<T: Decode> Field for Option<T> {
    fn field(
        table: &Table,
        key: &str,
        _context: &Context<'_>,
        decoder: &mut Decoder<'_>,
    ) -> Option<Self> {
        // What cannot be read was reported; the rest of the table is still looked at.
        Some(
            table
                .get(key)
                .and_then(|entry| T::decode(&entry.node, decoder)),
        )
    }
}

/// Takes a table apart and complains about keys it does not have.
pub(crate) fn open<'n>(
    node: &'n Node,
    what: &'static str,
    expected: &'static str,
    known: &[String],
    later: &[(&'static str, &'static str)],
    decoder: &mut Decoder<'_>,
) -> Option<(&'n Table, Place)> {
    let Value::Table(table) = &node.value else {
        decoder.wrong_type(node, expected);
        return None;
    };
    let mut place = Place {
        span: node.span,
        ..Place::default()
    };
    for (key, entry) in table {
        let at = entry.key.into();
        if known.contains(key) {
            place.keys.insert(key.clone(), entry.key);
        } else if let Some((_, help)) = later.iter().find(|(later, _)| later == key) {
            decoder.problems.push(Problem::NotSupportedYet {
                key: key.clone(),
                at,
                help: (*help).to_owned(),
            });
        } else {
            place.has_unknown = true;
            let candidates = known.iter().map(String::as_str);
            let meant = suggest::nearest(key, candidates.clone());
            place.meant.extend(meant.map(str::to_owned));
            let of_base = match known.iter().any(|known| known == "debian") {
                true => suggest::key_of_base(key),
                false => None,
            };
            decoder.problems.push(Problem::UnknownKey {
                key: key.clone(),
                table: what,
                at,
                help: of_base.unwrap_or_else(|| {
                    suggest::help(key, candidates.clone(), || match known {
                        [] => "remove it: the table has no keys".to_owned(),
                        _ => format!("the keys are {}", suggest::listed(candidates, "and")),
                    })
                }),
            });
        }
    }
    Some((table, place))
}

/// Declares a table as it is written: a struct, its reader and its JSON Schema.
///
/// Keys are the field names in kebab case; a field is optional if its type is an
/// `Option`. `later` lists keys that are refused as not supported yet, each with what
/// to do until then.
macro_rules! table {
    (
        $(#[$meta:meta])*
        $name:ident as $what:literal {
            $( $(#[$field_meta:meta])* $field:ident : $type:ty ),* $(,)?
        }
        $( later { $($later:literal => $help:literal),* $(,)? } )?
    ) => {
        #[derive(Clone, Debug, schemars::JsonSchema)]
        $(#[$meta])*
        #[schemars(rename_all = "kebab-case", deny_unknown_fields)]
        pub(crate) struct $name {
            /// Where the table is.
            #[schemars(skip)]
            pub(crate) at: $crate::decode::Place,
            $( $(#[$field_meta])* pub(crate) $field: $type, )*
        }

        impl $name {
            /// The keys of the table.
            pub(crate) fn keys() -> Vec<String> {
                let names: &[&str] = &[$(stringify!($field)),*];
                names
                    .iter()
                    .map(|name| name.trim_start_matches("r#").replace('_', "-"))
                    .collect()
            }
        }

        impl $crate::decode::Placed for $name {
            fn place(&self) -> &$crate::decode::Place {
                &self.at
            }
        }

        impl $crate::decode::Decode for $name {
            const EXPECTED: &'static str = concat!("a table (", $what, ")");

            fn decode(
                node: &$crate::tree::Node,
                decoder: &mut $crate::decode::Decoder<'_>,
            ) -> Option<Self> {
                let later: &[(&'static str, &'static str)] = &[$($(($later, $help)),*)?];
                let keys = Self::keys();
                let (table, at) = $crate::decode::table::open(
                    node, $what, Self::EXPECTED, &keys, later, decoder,
                )?;
                let context = $crate::decode::table::Context { what: $what, place: &at };
                let mut names = keys.iter();
                let used_before = decoder.target_uses.len();
                // Every field is read before any is missed, so that all problems show.
                $(
                    let $field = <$type as $crate::decode::Field>::field(
                        table,
                        names.next().expect("one name for each field"),
                        &context,
                        decoder,
                    );
                )*
                // A table without keys uses none of these.
                let _used = (table, &context, names.next());
                let target_uses = decoder.target_uses[used_before..].to_vec();
                let at = $crate::decode::Place { target_uses, ..at };
                Some(Self { at, $( $field: $field?, )* })
            }
        }
    };
}
pub(crate) use table;
