//! What a registry says when it refuses: error codes and sentences in the body.

use kiln_http::BodyText;
use serde::Deserialize;

/// The errors that a registry reports (distribution specification, error codes).
#[derive(Deserialize, Default)]
#[serde(default)]
struct Errors {
    errors: Vec<Reported>,
    /// Token servers say it this way.
    details: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reported {
    code: String,
    message: Option<String>,
}

/// Returns the error codes in a body.
pub(crate) fn codes(body: &[u8]) -> Vec<String> {
    let errors: Errors = serde_json::from_slice(body).unwrap_or_default();
    errors.errors.into_iter().map(|error| error.code).collect()
}

/// Takes codes and sentences out of an error body: who pushes may have to look the code up.
pub(crate) fn coded(body: &[u8]) -> BodyText {
    let errors: Errors = serde_json::from_slice(body).unwrap_or_default();
    let lines: Vec<_> = errors
        .errors
        .into_iter()
        .take(5)
        .map(|error| match error.message {
            Some(message) if !message.is_empty() && message != error.code => {
                format!("{}: {message}", error.code)
            }
            _ => error.code,
        })
        .collect();
    if lines.is_empty() {
        BodyText::of(body)
    } else {
        BodyText::of(lines.join("; ").as_bytes())
    }
}

/// Takes the sentence out of an error body; other bodies stay as they are.
pub(crate) fn said(body: &str) -> BodyText {
    let errors: Errors = serde_json::from_str(body).unwrap_or_default();
    let sentences: Vec<_> = errors
        .errors
        .into_iter()
        .take(5)
        .map(|error| {
            error
                .message
                .filter(|text| !text.is_empty())
                .unwrap_or(error.code)
        })
        .chain(errors.details)
        .collect();
    if sentences.is_empty() {
        BodyText::of(body.as_bytes())
    } else {
        BodyText::of(sentences.join("; ").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_taken_out_of_an_error() {
        let spec =
            r#"{"errors":[{"code":"DENIED","message":"no\u001b such"},{"code":"X","detail":{}}]}"#;
        assert_eq!(said(spec).text(), "no\\u{1b} such; X");
        assert_eq!(
            said(r#"{"details":"incorrect username"}"#).text(),
            "incorrect username"
        );
        assert_eq!(said("<h1>x</h1>").text(), "<h1>x</h1>");
        assert_eq!(said("").text(), "");
        assert_eq!(codes(spec.as_bytes()), ["DENIED", "X"]);
        assert_eq!(coded(spec.as_bytes()).text(), "DENIED: no\\u{1b} such; X");
        assert_eq!(coded(b"plain").text(), "plain");
    }
}
