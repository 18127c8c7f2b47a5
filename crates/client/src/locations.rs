//! Addresses and byte ranges that registries answer with, and how far they can be trusted.

use kiln_http::{Error as HttpError, Response, Url, UrlError};

/// Returns where a reply says that an upload goes on.
///
/// Registries behind a proxy that speaks TLS for them often believe that they speak plain http; their
/// own host is asked as before then. Nothing goes to another host without TLS after a start with it.
///
/// # Errors
/// [`HttpError::Protocol`] when there is no such address, or one that is not followed.
pub(crate) fn location(response: &Response) -> Result<Url, HttpError> {
    let base = &response.url;
    let resolved = match response.header("location") {
        Some(text) => resolve(base, text),
        None => Err("it does not say where to upload to".to_owned()),
    };
    resolved.map_err(|reason| HttpError::Protocol {
        url: base.shown(),
        reason,
    })
}

fn resolve(base: &Url, text: &str) -> Result<Url, String> {
    let senseless = |error: UrlError| format!("it says to upload to {error}");
    let url = base.join(text).map_err(senseless)?;
    if !base.is_secure() || url.is_secure() {
        return Ok(url);
    }
    if url.host() != base.host() {
        return Err(format!(
            "it says to upload to `{}`, which is not encrypted",
            url.shown()
        ));
    }
    Url::from_parts(true, &base.authority(), url.path_and_query()).map_err(senseless)
}

/// Returns how many bytes of an upload a registry holds, from its `Range` header: `0-99` for 100.
///
/// An upload without any bytes has `0-0` with most registries, which is therefore not one byte.
pub(crate) fn held_bytes(range: Option<&str>) -> u64 {
    let last = range
        .map(|range| range.trim().trim_start_matches("bytes="))
        .and_then(|range| range.strip_prefix("0-"))
        .and_then(|last| last.parse::<u64>().ok());
    match last {
        None | Some(0) => 0,
        Some(last) => last.saturating_add(1),
    }
}

/// Returns the address of the next page of a list, from its `Link` header (RFC 8288).
///
/// Only the same host is asked: a list names no reason to go elsewhere.
pub(crate) fn next_page(response: &Response) -> Option<Url> {
    let target = response.headers("link").find_map(next_target)?;
    let url = response.url.join(target).ok()?;
    // The proxy again: scheme and port are those of the page before.
    if url.host() == response.url.host() {
        let base = &response.url;
        return Url::from_parts(base.is_secure(), &base.authority(), url.path_and_query()).ok();
    }
    None
}

/// Finds the target whose relation is `next`.
fn next_target(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, parameters) = after.split_once('>')?;
        let end = parameters.find(",<").or_else(|| parameters.find(", <"));
        let (parameters, more) = parameters.split_at(end.unwrap_or(parameters.len()));
        let is_next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel") && value.trim().trim_matches('"') == "next"
            })
        });
        if is_next {
            return Some(target);
        }
        rest = more;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_stay_encrypted() {
        let at = |base: &str, text: &str| {
            resolve(&base.parse().unwrap(), text).map(|url| url.to_string())
        };
        let base = "https://r:444/v2/a/blobs/uploads/";
        for (text, expected) in [
            ("7?s=x", "https://r:444/v2/a/blobs/uploads/7?s=x"),
            ("/v2/b?s", "https://r:444/v2/b?s"),
            ("https://storage/x", "https://storage/x"),
            // A proxy speaks TLS for the registry, which does not know.
            ("http://r/v2/b?s=x", "https://r:444/v2/b?s=x"),
            ("http://r:5000/v2/b", "https://r:444/v2/b"),
        ] {
            assert_eq!(at(base, text).as_deref(), Ok(expected));
        }
        let error = at(base, "http://storage/x?secret").unwrap_err();
        assert!(
            error.ends_with("`http://storage/x?…`, which is not encrypted"),
            "{error}"
        );
        assert!(at(base, "ftp://r/").is_err());
        assert_eq!(at("http://r/", "http://s/").as_deref(), Ok("http://s/"));
    }

    #[test]
    fn ranges_of_uploads_are_read() {
        for (text, held) in [
            ("0-0", 0),
            ("0-1", 2),
            ("bytes=0-99", 100),
            (" 0-99 ", 100),
            ("5-99", 0),
            ("0-", 0),
            ("x", 0),
            ("0-18446744073709551615", u64::MAX),
        ] {
            assert_eq!(held_bytes(Some(text)), held, "{text}");
        }
        assert_eq!(held_bytes(None), 0);
    }

    #[test]
    fn the_next_page_is_found() {
        for (header, target) in [
            (
                r#"</v2/a/tags/list?last=x&n=2>; rel="next""#,
                Some("/v2/a/tags/list?last=x&n=2"),
            ),
            ("<b>;rel=next", Some("b")),
            (
                r#"<a>; rel="prev", <b,c>; title="x"; rel="next""#,
                Some("b,c"),
            ),
            (r#"<a>; rel="prev""#, None),
            ("<a", None),
            ("", None),
        ] {
            assert_eq!(next_target(header), target, "{header}");
        }
    }
}
