//! The JSON Schema and the parser agree.

use std::collections::BTreeSet;

use crate::json_schema::Validator;
use crate::manifests::{examples, folder, manifests, parse};

/// What only the parser can see, because it takes the whole file, the invocation or the
/// grammar of a value.
const BEYOND_THE_SCHEMA: [&str; 21] = [
    "ambiguous_name",
    "arg_without_value",
    "duplicate",
    "empty",
    "folder_like_file",
    "in_profile",
    "invalid_variable",
    "looks_like_variable",
    "needs_no_sibling",
    "same_target",
    "secret_file_taken",
    "secret_in_the_open",
    "self_reference",
    "syntax",
    "unknown_environment",
    "unknown_name",
    "unknown_profile",
    "unknown_set",
    "unused",
    "variable_in_args",
    "variable_in_key",
];

pub(crate) fn json(text: &str) -> Option<serde_json::Value> {
    toml::from_str(text).ok()
}

#[test]
fn valid_manifests_pass_and_show_every_key() {
    let validator = Validator::new(&kiln_manifest::schema());
    for (path, text) in manifests("valid").into_iter().chain(examples()) {
        let value = json(&text).unwrap();
        if let Err(error) = validator.check(&value) {
            panic!("{}: {error}", path.display());
        }
    }
    let mut keys = BTreeSet::new();
    for (name, definition) in validator.definitions() {
        let properties = definition["properties"].as_object();
        if !name.starts_with("Partial") && name != "Profile" {
            keys.extend(
                properties
                    .into_iter()
                    .flat_map(|p| p.keys())
                    .map(|key| (name.clone(), key.clone())),
            );
        }
    }
    let unseen: Vec<_> = keys.difference(&validator.seen()).cloned().collect();
    assert!(unseen.is_empty(), "no valid manifest has {unseen:?}");
}

#[test]
fn invalid_manifests_are_refused_where_a_schema_can() {
    let validator = Validator::new(&kiln_manifest::schema());
    for (path, text) in manifests("invalid") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let passes = json(&text).is_some_and(|value| validator.check(&value).is_ok());
        let expected = BEYOND_THE_SCHEMA.contains(&name);
        let both = ["empty", "in_profile", "syntax"].contains(&name);
        assert!(
            both || passes == expected,
            "{name}: the schema says {passes}"
        );
    }
    for name in BEYOND_THE_SCHEMA {
        assert!(
            folder("invalid").join(name).with_extension("toml").exists(),
            "{name}"
        );
    }
}

/// One wrong key in each table: parser and schema both know which keys there are.
#[test]
fn parser_and_schema_know_the_same_keys() {
    let validator = Validator::new(&kiln_manifest::schema());
    let text = std::fs::read_to_string(folder("valid").join("everything.toml")).unwrap();
    let mut tried = 0;
    for (at, _) in text.match_indices(" = {") {
        let mut wrong = text.clone();
        wrong.insert_str(at + 4, " qqqqqqqq = \"x\",");
        let Some(value) = json(&wrong) else { continue };
        let refused = validator.check(&value).is_err();
        let parsed = parse(&wrong);
        assert_eq!(
            refused,
            parsed.is_err(),
            "at {at}: {:?}",
            &text[at.saturating_sub(40)..at]
        );
        tried += 1;
    }
    assert!(tried > 30, "only {tried} tables were tried");
}
