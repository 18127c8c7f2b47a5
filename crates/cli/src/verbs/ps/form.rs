//! How `kiln ps` writes its list.

use kiln_runtime::StoredContainer;
use serde_json::{Map, Value};

use crate::errors::Outcome;
use crate::listing::{self, Width};
use crate::printer::Printer;
use crate::template::Template;
use crate::text;
use crate::verbs::inspect::unfilled;

/// The form of the list.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// For people
    Text,
    /// For programs
    Json,
    /// As a template says, and whether there is a head above it.
    Template(Template, bool),
}

impl Form {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" | "table" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => match text.strip_prefix("table ") {
                Some(rest) => Ok(Self::Template(Template::typed(rest)?, true)),
                None if text.contains("{{") => Ok(Self::Template(Template::typed(text)?, false)),
                None => Err("there are text, json, and templates such as '{{.Names}}'".to_owned()),
            },
        }
    }
}

/// What docker calls the columns.
const HEADS: [(&str, &str); 15] = [
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("Size", "SIZE"),
    ("Pid", "PID"),
    ("ExitCode", "EXIT CODE"),
];

/// The row of a container as templates see it: texts, as docker has them.
pub(super) fn fields(
    container: &StoredContainer,
    row: Value,
    width: Width,
    size: Option<String>,
) -> Value {
    let Some(mut fields) = row.as_object().cloned() else {
        return row;
    };
    let mut put =
        |name: &str, value: String| drop(fields.insert(name.to_owned(), Value::from(value)));
    let labels = &container.config.labels;
    let labels = labels.iter().map(|(name, value)| format!("{name}={value}"));
    put("Labels", labels.collect::<Vec<_>>().join(","));
    put("ID", listing::id(container, width));
    put("Command", listing::command(container, width));
    put("Size", size.unwrap_or_default());
    put("Networks", listing::networks(container).join(","));
    if let Some(Value::Array(mounts)) = fields.get("Mounts") {
        let mounts: Vec<&str> = mounts.iter().filter_map(Value::as_str).collect();
        fields.insert("Mounts".to_owned(), Value::from(mounts.join(",")));
    }
    Value::Object(fields)
}

/// Prints what a template says of each row.
pub(super) fn print(
    template: &Template,
    has_head: bool,
    rows: Vec<Value>,
    printer: &mut Printer,
) -> Outcome {
    let head = HEADS.map(|(name, head)| (name.to_owned(), Value::from(head)));
    let head = has_head.then(|| Value::Object(Map::from_iter(head)));
    let lines = head.into_iter().chain(rows);
    let lines: Vec<String> = lines
        .map(|row| template.render(&row).map_err(unfilled))
        .collect::<Outcome<_>>()?;
    if !has_head {
        return printer.data(
            lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        );
    }
    let cells = lines
        .iter()
        .map(|line| line.split('\t').map(str::to_owned).collect());
    printer.data(text::table(&cells.collect::<Vec<_>>()))
}
