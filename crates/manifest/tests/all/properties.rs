//! Whatever the text: no panic, places inside of it, and the order of tables has no meaning.

use proptest::prelude::*;
use proptest::sample::Index;

use crate::json_schema::Validator;
use crate::manifests::{folder, manifests, parse, render};
use crate::schema::json;

#[derive(Clone, Debug)]
enum Mutation {
    RemoveLine(Index),
    RepeatLine(Index),
    SwapLines(Index, Index),
    ReplaceAt(Index, String),
    RemoveRange(Index, u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let token = prop_oneof![
        Just("\"".to_owned()),
        Just("=".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("${arg.x}".to_owned()),
        Just("${arg.".to_owned()),
        Just("..".to_owned()),
        Just("/".to_owned()),
        Just("1".to_owned()),
        Just("true".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("nan".to_owned()),
        Just("\\u0000".to_owned()),
        Just("é🦀".to_owned()),
        "[ -~]{1,3}",
        any::<char>().prop_map(String::from),
    ];
    prop_oneof![
        any::<Index>().prop_map(Mutation::RemoveLine),
        any::<Index>().prop_map(Mutation::RepeatLine),
        any::<(Index, Index)>().prop_map(|(a, b)| Mutation::SwapLines(a, b)),
        (any::<Index>(), token).prop_map(|(at, with)| Mutation::ReplaceAt(at, with)),
        (any::<Index>(), 1u8..30).prop_map(|(at, length)| Mutation::RemoveRange(at, length)),
    ]
}

fn mutate(text: &str, mutations: &[Mutation]) -> String {
    let mut text = text.to_owned();
    for mutation in mutations {
        let mut lines: Vec<&str> = text.lines().collect();
        let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        if lines.is_empty() || boundaries.is_empty() {
            return text;
        }
        text = match mutation {
            Mutation::RemoveLine(at) => {
                lines.remove(at.index(lines.len()));
                lines.join("\n")
            }
            Mutation::RepeatLine(at) => {
                let at = at.index(lines.len());
                lines.insert(at, lines[at]);
                lines.join("\n")
            }
            Mutation::SwapLines(a, b) => {
                let (a, b) = (a.index(lines.len()), b.index(lines.len()));
                lines.swap(a, b);
                lines.join("\n")
            }
            Mutation::ReplaceAt(at, with) => {
                let at = boundaries[at.index(boundaries.len())];
                let end = at + text[at..].chars().next().map_or(0, char::len_utf8);
                format!("{}{with}{}", &text[..at], &text[end..])
            }
            Mutation::RemoveRange(at, length) => {
                let from = at.index(boundaries.len());
                let to = (from + usize::from(*length)).min(boundaries.len() - 1);
                format!("{}{}", &text[..boundaries[from]], &text[boundaries[to]..])
            }
        };
    }
    text
}

fn check(text: &str) -> Result<(), TestCaseError> {
    let parsed = parse(text);
    let problems = match &parsed {
        Ok(manifest) => &manifest.warnings,
        Err(errors) => &errors.problems,
    };
    prop_assert!(parsed.is_ok() || problems.iter().any(|problem| problem.is_error()));
    for place in problems.iter().flat_map(|problem| problem.places()) {
        prop_assert!(place.offset() + place.len() <= text.len(), "{:?}", problems);
    }
    if let Err(errors) = &parsed {
        prop_assert!(
            render(errors).contains("help:"),
            "nothing to do:\n{}",
            render(errors)
        );
    }
    Ok(())
}

thread_local! {
    static VALIDATOR: Validator = Validator::new(&kiln_manifest::schema());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mutated_manifests_never_panic(
        which in any::<Index>(),
        mutations in prop::collection::vec(mutation(), 1..5),
    ) {
        let all: Vec<String> = manifests("valid").into_values().chain(manifests("invalid").into_values()).collect();
        // The comment lines are commands to the tests, not part of the text.
        let text = all[which.index(all.len())].replace("#! ", "# ");
        check(&mutate(&text, &mutations))?;
    }

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        if !text.contains("#! ") {
            check(&text)?;
        }
    }

    #[test]
    fn what_the_schema_refuses_the_parser_refuses(
        mutations in prop::collection::vec(mutation(), 1..3),
    ) {
        let text = std::fs::read_to_string(folder("valid").join("everything.toml")).unwrap();
        let (head, body) = text.split_once("# Every key").unwrap();
        let text = format!("{head}#{}", mutate(body, &mutations));
        if let Some(value) = json(&text)
            && let Err(error) = VALIDATOR.with(|validator| validator.check(&value))
        {
            prop_assert!(parse(&text).is_err(), "the schema says {error}");
        }
    }

    #[test]
    fn the_order_of_tables_has_no_meaning(seed in prop::collection::vec(any::<u32>(), 60)) {
        let text = std::fs::read_to_string(folder("valid").join("everything.toml")).unwrap();
        let (head, tables) = text.split_once("\n[").unwrap();
        let mut tables: Vec<&str> = tables.split("\n[").collect();
        let mut order: Vec<usize> = (0..tables.len()).collect();
        order.sort_by_key(|at| seed[at % seed.len()]);
        tables = order.into_iter().map(|at| tables[at]).collect();
        let moved = format!("{head}\n[{}\n", tables.join("\n["));
        let expected = without_places(&format!("{:?}", parse(&text).unwrap()));
        let shown = parse(&moved).map_err(|errors| TestCaseError::fail(render(&errors)))?;
        prop_assert_eq!(without_places(&format!("{shown:?}")), expected);
    }
}

/// Takes the spans, `12..34`, out of a debug text.
fn without_places(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive("..") {
        match part.strip_suffix("..") {
            Some(part) => out.push_str(part.trim_end_matches(|c: char| c.is_ascii_digit())),
            None => out.push_str(part),
        }
        out.push('~');
    }
    // What follows `..` are the digits of the end.
    let mut clean = String::new();
    for part in out.split('~') {
        clean.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    clean
}
