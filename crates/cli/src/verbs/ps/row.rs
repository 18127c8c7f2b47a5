//! The rows of `kiln ps` as templates see them.

use kiln_runtime::StoredContainer;
use serde_json::Value;

use crate::form;
use crate::listing::{self, Width};

/// What docker calls the columns.
pub(super) const HEADS: [(&str, &str); 15] = [
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
    put("Labels", form::labels(&container.config.labels));
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
