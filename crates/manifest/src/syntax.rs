//! What is wrong with a text as TOML: one problem for each mistake, in words that say what to do.
//!
//! Knows nothing of manifests. The parser goes on after a mistake, and complains again where that led it astray;
//! such complaints are left out.

use std::collections::BTreeSet;

use crate::problem::Problem;
use crate::span::Span;

/// The problems of a text that the parser made `errors` of, in their order.
pub(crate) fn problems(errors: &[toml::de::Error], text: &str) -> Vec<Problem> {
    let is_deep = |error: &&toml::de::Error| error.message().contains("recur");
    if let Some(deep) = errors.iter().find(is_deep) {
        // From there on nothing was understood.
        return vec![problem(deep, text)];
    }
    let headers = headers(text);
    let repeated = repeated_headers(errors, text, &headers);
    let is_fallout = |error: &&toml::de::Error| {
        is_duplicate(error)
            && header_above(text, start(error), &headers)
                .is_some_and(|header| repeated.contains(&header))
    };
    // A text may have as many mistakes as lines.
    let mut told = BTreeSet::new();
    let mut problems = Vec::new();
    for error in errors.iter().filter(|error| !is_fallout(error)) {
        let span = error.span().unwrap_or_default();
        if told.insert((span.start, span.end, error.message())) {
            problems.push(problem(error, text));
        }
    }
    problems
}

fn start(error: &toml::de::Error) -> usize {
    error.span().unwrap_or_default().start
}

fn is_duplicate(error: &toml::de::Error) -> bool {
    error.message().contains("duplicate key")
}

/// Where the lines of headers begin, in their order.
fn headers(text: &str) -> Vec<usize> {
    let mut start = 0;
    let mut headers = Vec::new();
    for line in text.split_inclusive('\n') {
        if line.trim_start_matches([' ', '\t']).starts_with('[') {
            headers.push(start);
        }
        start += line.len();
    }
    headers
}

/// Which headers were there before: each key below them may be a duplicate, too.
fn repeated_headers(errors: &[toml::de::Error], text: &str, headers: &[usize]) -> BTreeSet<usize> {
    let duplicates = errors.iter().filter(|error| is_duplicate(error));
    let lines = duplicates.map(|error| line_start(text, start(error)));
    lines
        .filter(|line| headers.binary_search(line).is_ok())
        .collect()
}

/// Where the header begins that the line at `offset` is below; none for a header itself.
fn header_above(text: &str, offset: usize, headers: &[usize]) -> Option<usize> {
    match headers.binary_search(&line_start(text, offset)) {
        Ok(_itself) => None,
        Err(below) => headers.get(below.checked_sub(1)?).copied(),
    }
}

fn line_start(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.rfind('\n').map_or(0, |newline| newline + 1)
}

fn problem(error: &toml::de::Error, text: &str) -> Problem {
    let message = error.message();
    let span: Span = error.span().unwrap_or_default().into();
    let written = text.get(span.start..span.end).unwrap_or_default();
    let (reason, help) = if message.contains("recur") {
        (
            "it is nested too deeply".to_owned(),
            "write it with fewer lists and tables in one another".to_owned(),
        )
    } else if message.contains("leading zero") {
        let number = text.get(span.start..).unwrap_or_default();
        let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '.';
        let number: String = number.chars().take_while(|it| is_part(*it)).collect();
        (
            "a number does not begin with 0".to_owned(),
            format!("put a mode into quotes: `\"{number}\"`; leave the 0 out of another number"),
        )
    } else if message.contains("cannot extend value") {
        (
            format!("`{written}` has a value already, and is no table"),
            "write it once: as the value, or as a table `{ … }` with all its keys".to_owned(),
        )
    } else if message.contains("unquoted key") {
        (
            message.to_owned(),
            "write keys with `a`-`z`, `A`-`Z`, `0`-`9`, `_` and `-`; one with anything else stands in quotes: `\"…\"`".to_owned(),
        )
    } else if is_duplicate(error) {
        (
            format!("`{written}` is there twice"),
            "remove it, or put both into one table".to_owned(),
        )
    } else if message.contains("string") || message.contains("quot") {
        (
            message.to_owned(),
            "put text into quotes: `\"…\"`, or `\"\"\"…\"\"\"` for several lines".to_owned(),
        )
    } else {
        (
            message.to_owned(),
            "correct it: a line is `key = value`, a `[table]` or a `# comment`".to_owned(),
        )
    };
    Problem::Syntax {
        reason,
        at: span.into(),
        help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(text: &str) -> Vec<(String, usize)> {
        let (_, errors) = toml::de::DeTable::parse_recoverable(text);
        let reason = |problem| {
            let Problem::Syntax { reason, at, .. } = problem else {
                panic!("{problem:?}");
            };
            (reason, at.offset())
        };
        problems(&errors, text).into_iter().map(reason).collect()
    }

    #[test]
    fn a_table_that_is_there_twice_is_one_problem() {
        let text = "[a.b]\nx = 1\ny = 2\n[c]\n[a.b]\nx = 1\ny = 2\n[d]\nz = 1\nz = 2\n";
        let twice = |name: &str, at| (format!("`{name}` is there twice"), at);
        let second = text.rfind("[a.b]").unwrap() + 3;
        let z = text.rfind("z = 2").unwrap();
        assert_eq!(reasons(text), [twice("b", second), twice("z", z)]);
    }

    #[test]
    fn what_is_nested_too_deeply_is_one_problem() {
        for text in [
            format!("a = {}\n", "[".repeat(1000)),
            format!("{}a = 1\n", "a.".repeat(1000)),
        ] {
            let reasons = reasons(&text);
            let [(reason, _)] = reasons.as_slice() else {
                panic!("{reasons:?}");
            };
            assert_eq!(reason, "it is nested too deeply");
        }
    }
}
