//! What a registry says when it wants to know who asks: `WWW-Authenticate` (RFC 9110, 11.6.1).

use std::collections::BTreeMap;

/// The longest header read, in bytes.
const LONGEST: usize = 16 * 1024;

/// One way to authenticate that the server accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token from another server.
    Bearer {
        /// Where tokens are given out.
        realm: String,
        /// The name of this registry there.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Returns the way to take of those offered in `headers`: a token if possible.
    ///
    /// # Errors
    /// The schemes offered, none of which is known here.
    pub(crate) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Result<Self, Vec<String>> {
        let mut unknown = Vec::new();
        let mut basic = None;
        for (scheme, mut parameters) in headers.flat_map(split) {
            match scheme.as_str() {
                "bearer" => {
                    if let Some(realm) = parameters.remove("realm") {
                        return Ok(Self::Bearer {
                            realm,
                            service: parameters.remove("service"),
                            scope: parameters.remove("scope"),
                        });
                    }
                }
                "basic" => basic = Some(Self::Basic),
                _ => unknown.push(scheme),
            }
        }
        basic.ok_or(unknown)
    }
}

/// Splits a header into schemes, in lower case, and their parameters.
fn split(header: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut found: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = header.get(..LONGEST).unwrap_or(header);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return found;
        }
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        match (value, found.last_mut()) {
            // `name=value`, which belongs to the scheme before it.
            (Some(value), Some((_, parameters))) if !word.is_empty() => {
                let (value, after) = take_value(value.trim_start_matches([' ', '\t']));
                parameters.entry(word.to_ascii_lowercase()).or_insert(value);
                rest = after;
            }
            (None, _) => {
                found.push((word.to_ascii_lowercase(), BTreeMap::new()));
                rest = after;
            }
            // Nothing that the grammar knows: skip to the next part.
            (Some(_), _) => rest = after.split_once(',').map_or("", |(_, after)| after),
        }
    }
}

/// Takes a token or a quoted string from the start.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(headers: &[&str]) -> Result<Challenge, Vec<String>> {
        Challenge::choose(headers.iter().copied())
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_in_the_wild_are_read() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull""#,
                bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/debian:pull"),
                ),
            ),
            (
                r#"bearer REALM = "https://a/t?x=\"y\"" , service=plain"#,
                bearer("https://a/t?x=\"y\"", Some("plain"), None),
            ),
            (
                r#"Basic realm="x, Bearer y", Bearer realm="https://t/",scope="a:b:pull,push c:d:*""#,
                bearer("https://t/", None, Some("a:b:pull,push c:d:*")),
            ),
            (r#"Basic realm="Registry Realm""#, Challenge::Basic),
            ("Basic", Challenge::Basic),
        ] {
            assert_eq!(choose(&[header]), Ok(expected), "{header}");
        }
        assert_eq!(
            choose(&["Basic realm=x", "Bearer realm=https://t/"]),
            Ok(bearer("https://t/", None, None))
        );
    }

    #[test]
    fn nonsense_is_no_challenge() {
        let unknown = vec!["negotiate".to_owned(), "ntlm".to_owned()];
        assert_eq!(choose(&["Negotiate", "NTLM a=="]), Err(unknown));
        for header in [
            "",
            ",,,",
            "=",
            "\"",
            "Bearer",
            "Bearer realm",
            "Bearer service=\"x",
            "=\"a\",b=c",
            "\\",
        ] {
            assert!(choose(&[header]).is_err(), "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_is_too_strange(header in "[Bbearsic =,\"\\\\a-z\u{80}-\u{ff}]{0,80}") {
            // It ends, and does not panic.
            drop(choose(&[&header]));
        }

        #[test]
        fn quoted_values_come_back(realm in "[ -~]{1,40}", scope in "[ -~]{1,40}") {
            let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!(r#"Basic realm="x", Bearer realm="{}",scope="{}""#, quoted(&realm), quoted(&scope));
            assert_eq!(choose(&[&header]), Ok(bearer(&realm, None, Some(&scope))));
        }
    }
}
