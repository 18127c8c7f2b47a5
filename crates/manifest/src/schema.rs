//! The JSON Schema of `kiln.toml`, from the declarations that the parser reads by.
//!
//! It refuses less than the parser: names, references and conflicts need the whole
//! file. What it refuses, the parser refuses too.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::decode::Scalar;
use crate::value::Name;
use crate::written::Manifest;

/// Definitions of tables in a profile, where nothing is required.
const PARTIAL: &str = "Partial";
/// How a definition is referred to.
const REFERENCE: &str = "#/definitions/";

/// The JSON Schema (draft 7, which editors know) as text that ends in a newline.
#[must_use]
pub fn schema() -> String {
    let mut text = serde_json::to_string_pretty(&value()).expect("a JSON value can be written");
    text.push('\n');
    text
}

/// The JSON Schema as a value.
pub(crate) fn value() -> Value {
    let generator = SchemaSettings::draft07().into_generator();
    let mut root = generator.into_root_schema_for::<Manifest>().to_value();
    tidy(&mut root);
    root["title"] = json!("kiln.toml");
    add_profiles(&mut root);
    root
}

/// Takes out what TOML cannot have (null) and what only Rust needs (line breaks).
fn tidy(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(object) => {
            object.values_mut().for_each(tidy);
            tidy_schema(object);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn tidy_schema(schema: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            schema["type"] = only.clone();
        }
    }
    let Some(Value::Array(choices)) = schema.get_mut("anyOf") else {
        return;
    };
    let null = json!({ "type": "null" });
    let before = choices.len();
    choices.retain(|choice| *choice != null);
    if choices.len() == before || choices.len() != 1 {
        return;
    }
    let only = choices.remove(0);
    schema.remove("anyOf");
    let Value::Object(only) = only else {
        return;
    };
    if only.contains_key("$ref") {
        // In draft 7 everything beside a `$ref` is ignored.
        schema.insert("allOf".to_owned(), json!([only]));
        return;
    }
    for (key, value) in only {
        schema.entry(key).or_insert(value);
    }
}

/// Adds `profile`: the same tables once more, with nothing required.
fn add_profiles(root: &mut Value) {
    let definitions = root["definitions"].as_object().cloned().unwrap_or_default();
    let tables: Vec<String> = definitions
        .iter()
        .filter(|(_, definition)| {
            definition.get("properties").is_some() || definition["type"] == "object"
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in &tables {
        let mut partial = definitions[name].clone();
        make_partial(&mut partial, &tables);
        root["definitions"][format!("{PARTIAL}{name}")] = partial;
    }
    let mut profile = root.clone();
    for key in ["$schema", "title", "definitions"] {
        profile.as_object_mut().map(|profile| profile.remove(key));
    }
    if let Some(properties) = profile["properties"].as_object_mut() {
        properties.retain(|key, _| !["schema", "$schema"].contains(&key.as_str()));
    }
    make_partial(&mut profile, &tables);
    profile["description"] = json!(
        "Changes for `--profile NAME`: tables are merged into those of the file; other values, `from` and each mount are replaced."
    );
    root["definitions"]["Profile"] = profile;
    root["properties"]["profile"] = json!({
        "description": "Profiles, by name: what is different with `--profile NAME`.",
        "type": "object",
        "propertyNames": { "pattern": Name::PATTERN },
        "additionalProperties": { "$ref": format!("{REFERENCE}Profile") },
    });
}

/// Makes everything optional, here and in the tables below.
fn make_partial(value: &mut Value, tables: &[String]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| make_partial(item, tables)),
        Value::Object(object) => {
            for key in [
                "required",
                "oneOf",
                "dependencies",
                "minProperties",
                "maxProperties",
            ] {
                // A property may have such a name; its value is then a schema.
                let is_keyword = object
                    .get(key)
                    .is_some_and(|value| !value.is_object() || key == "dependencies");
                if is_keyword {
                    object.remove(key);
                }
            }
            let target = object.get("$ref").and_then(Value::as_str);
            let table = target.and_then(|target| target.strip_prefix(REFERENCE));
            if let Some(table) = table.filter(|table| tables.iter().any(|name| name == table)) {
                object["$ref"] = json!(format!("{REFERENCE}{PARTIAL}{table}"));
            }
            object
                .values_mut()
                .for_each(|item| make_partial(item, tables));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
