//! `docs/manifest.md`: every key, from the JSON Schema.

use std::fmt::Write;

use serde_json::Value;

use crate::schema;
use crate::written;

/// What stands before the keys.
const PREFACE: &str = include_str!("reference/preface.md");

/// The reference of `kiln.toml` as Markdown that ends in a newline.
#[must_use]
pub fn reference() -> String {
    let root = schema::value();
    let mut out = PREFACE.to_owned();
    for table in written::tables() {
        let definition = match table.definition {
            "" => &root,
            name => &root["definitions"][name],
        };
        section(&mut out, &table, definition).expect("writing to a string cannot fail");
    }
    values(&mut out, &root["definitions"]).expect("writing to a string cannot fail");
    out
}

fn section(
    out: &mut String,
    table: &written::TableEntry,
    definition: &Value,
) -> Result<(), std::fmt::Error> {
    writeln!(out, "\n## {}\n", table.heading)?;
    if let Some(about) = definition["description"].as_str() {
        writeln!(out, "{about}\n")?;
    }
    if table.keys.is_empty() {
        return Ok(());
    }
    let required = definition["required"].as_array();
    let is_required =
        |key: &str| required.is_some_and(|required| required.iter().any(|name| name == key));
    writeln!(out, "| key | value | |\n| --- | --- | --- |")?;
    for key in &table.keys {
        let property = &definition["properties"][key];
        let about = property["description"].as_str().unwrap_or_default();
        let required = if is_required(key) {
            "**Required.** "
        } else {
            ""
        };
        let value = shown(property);
        writeln!(out, "| `{key}` | {value} | {required}{} |", cell(about))?;
    }
    Ok(())
}

/// The kinds of values that are written as strings.
fn values(out: &mut String, definitions: &Value) -> Result<(), std::fmt::Error> {
    writeln!(out, "\n## Values\n")?;
    writeln!(out, "| value | |\n| --- | --- |")?;
    for (name, definition) in definitions.as_object().into_iter().flatten() {
        if definition["type"] == "string" {
            let about = definition["description"].as_str().unwrap_or_default();
            let anchor = name.to_lowercase();
            let words = words(name);
            writeln!(out, "| <a id=\"{anchor}\"></a>{words} | {} |", cell(about))?;
        }
    }
    Ok(())
}

/// What a property takes, in words.
fn shown(schema: &Value) -> String {
    if let Some(target) = schema["$ref"].as_str() {
        return link(target);
    }
    if let Some([only]) = schema["allOf"].as_array().map(Vec::as_slice) {
        return shown(only);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let shown: Vec<String> = choices
            .iter()
            .filter(|choice| !is_variable(choice))
            .map(shown)
            .collect();
        return shown.join(" or ");
    }
    if let Some(constant) = schema.get("const") {
        return format!("`{constant}`");
    }
    match schema["type"].as_str() {
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("number") => "number".to_owned(),
        Some("array") => format!("list of {}", shown(&schema["items"])),
        Some("object") => format!("table of {}", shown(&schema["additionalProperties"])),
        Some("string") | None | Some(_) => "string".to_owned(),
    }
}

/// The form that stands for a number or flag when a variable is wanted.
fn is_variable(schema: &Value) -> bool {
    schema["pattern"] == crate::decode::HAS_VARIABLE
}

fn link(target: &str) -> String {
    let name = target.rsplit('/').next().unwrap_or_default();
    let table = written::tables()
        .into_iter()
        .find(|table| table.definition == name);
    match table {
        Some(table) => {
            let anchor: String = table
                .heading
                .to_lowercase()
                .chars()
                .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect();
            format!("[{}](#{anchor})", table.word)
        }
        None if name == "Command" => "shell script, or list of arguments".to_owned(),
        None => format!("[{}](#{})", words(name), name.to_lowercase()),
    }
}

/// `ContainerPath` as `container path`.
fn words(name: &str) -> String {
    match name {
        "Url" => return "URL".to_owned(),
        "GitUrl" => return "URL of a git repository".to_owned(),
        "Sha256" => return "SHA-256".to_owned(),
        "EnvName" => return "environment variable".to_owned(),
        "ArchiveWord" => return "part of an archive".to_owned(),
        _ => {}
    }
    let mut out = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}

/// Text that can stand in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
