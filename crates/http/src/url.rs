//! Absolute `http` and `https` addresses, as far as kiln needs them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The longest address read, in bytes.
const LONGEST: usize = 16 * 1024;

/// An absolute `http` or `https` address without user name, password or fragment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    secure: bool,
    /// Lower case; an IPv6 address stands in brackets.
    host: String,
    /// Absent when it is the scheme's own.
    port: Option<u16>,
    /// Starts with `/`; with the query, escaped.
    path_and_query: String,
}

/// Text that is not an address kiln can ask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address kiln can ask: {reason}")]
#[must_use]
pub struct UrlError {
    /// The text, shortened and without what may be a password.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Url {
    /// Returns the address of `path_and_query` at `authority` (`host` or `host:port`).
    ///
    /// # Errors
    /// [`UrlError`] when the parts do not make an address.
    pub fn from_parts(
        secure: bool,
        authority: &str,
        path_and_query: &str,
    ) -> Result<Self, UrlError> {
        let scheme = if secure { "https" } else { "http" };
        format!("{scheme}://{authority}{path_and_query}").parse()
    }

    /// Tells whether the scheme is `https`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Returns the host in lower case; an IPv6 address stands in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, the scheme's own if the address names none.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.secure { 443 } else { 80 })
    }

    /// Returns `host`, or `host:port` when the port is not the scheme's own.
    pub fn authority(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }

    /// Returns the path and query, starting with `/`.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// Returns the path without the query.
    pub fn path(&self) -> &str {
        self.path_and_query
            .split_once('?')
            .map_or(self.path_and_query.as_str(), |(path, _)| path)
    }

    /// Returns the query without `?`.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query.split_once('?').map(|(_, query)| query)
    }

    /// Returns this address with `pairs`, escaped, added to its query.
    #[must_use]
    pub fn with_query<'a>(&self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut url = self.clone();
        let pairs = form(pairs);
        if !pairs.is_empty() {
            let separator = if self.query().is_some() { '&' } else { '?' };
            url.path_and_query.push(separator);
            url.path_and_query.push_str(&pairs);
        }
        url
    }

    /// Tells whether the host is this machine itself, by name or by address.
    pub fn is_loopback(&self) -> bool {
        host_is_loopback(&self.host)
    }

    /// Tells whether scheme, host and port are the same, so that credentials may go to both.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.secure == other.secure && self.host == other.host && self.port == other.port
    }

    /// Resolves `location`, which may be relative to this address.
    ///
    /// # Errors
    /// [`UrlError`] when the result is not an address.
    pub fn join(&self, location: &str) -> Result<Self, UrlError> {
        let location = location.trim();
        let location = location
            .split_once('#')
            .map_or(location, |(before, _)| before);
        if has_scheme(location) {
            return location.parse();
        }
        let scheme = if self.secure { "https:" } else { "http:" };
        if location.starts_with("//") {
            return format!("{scheme}{location}").parse();
        }
        let path = self.path();
        let joined = if location.is_empty() {
            self.path_and_query.clone()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else if location.starts_with('/') {
            without_dots(location)
        } else {
            let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
            without_dots(&format!("{folder}{location}"))
        };
        format!("{scheme}//{}{joined}", self.authority()).parse()
    }

    /// Returns the address for messages: what a query holds may be a signature or a token.
    pub fn shown(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let query = if self.query().is_some() { "?…" } else { "" };
        format!("{scheme}://{}{}{query}", self.authority(), self.path())
    }
}

/// Tells whether `host` (an IPv6 address in brackets or not) is this machine itself.
pub(crate) fn host_is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    host == "localhost" || host.ends_with(".localhost")
}

/// Tells whether `text` starts with a scheme and `:`.
fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|other| other.is_ascii_alphanumeric() || "+-.".contains(other))
    })
}

/// Removes `.` and `..` segments (RFC 3986, 5.2.4); the query is left as it is.
fn without_dots(path_and_query: &str) -> String {
    let (path, query) = path_and_query
        .split_once('?')
        .map_or((path_and_query, None), |(path, query)| (path, Some(query)));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut out = format!("/{}", kept.join("/"));
    if let Some(query) = query {
        out.push('?');
        out.push_str(query);
    }
    out
}

fn push_escaped(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 0xf)]));
}

/// Writes `pairs`, escaped, as a query or the body of a form.
pub fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        push_component(&mut out, name);
        out.push('=');
        push_component(&mut out, value);
    }
    out
}

/// Adds `text` as one name or value of a query. `/` and `:` stay readable, as the query rules allow.
fn push_component(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:,@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            push_escaped(out, byte);
        }
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let fail = |reason| UrlError {
            // What stands before `@` may be a password.
            text: text
                .rsplit('@')
                .next()
                .unwrap_or(text)
                .chars()
                .take(200)
                .collect(),
            reason,
        };
        if text.len() > LONGEST {
            return Err(fail("it is too long"));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail("it does not start with `https://`"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(fail("only `https` and `http` are spoken")),
        };
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.contains('@') {
            return Err(fail(
                "it holds a user name or password; keep those in a credentials file",
            ));
        }
        let (host, port) = split_port(authority).ok_or_else(|| fail("its port is not a number"))?;
        if !host_is_plain(host) {
            return Err(fail("its host is not a host name or address"));
        }
        let mut path_and_query = String::with_capacity(path.len() + 1);
        if !path.starts_with('/') {
            path_and_query.push('/');
        }
        for byte in path.bytes() {
            match byte {
                b'!'..=b'~' if !b"\"<>\\^`{|}".contains(&byte) => {
                    path_and_query.push(char::from(byte));
                }
                b'\0'..=b'\x1f' | b'\x7f' => return Err(fail("it holds a control character")),
                _ => push_escaped(&mut path_and_query, byte),
            }
        }
        Ok(Self {
            secure,
            host: host.to_ascii_lowercase(),
            port: port.filter(|port| *port != if secure { 443 } else { 80 }),
            path_and_query,
        })
    }
}

/// Splits `host:port`; `None` when the port is not one.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    match authority[after_bracket..].rfind(':') {
        None => Some((authority, None)),
        Some(at) => {
            let (host, port) = authority.split_at(after_bracket + at);
            let port = &port[1..];
            if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            Some((host, Some(port.parse().ok()?)))
        }
    }
}

fn host_is_plain(host: &str) -> bool {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !host.is_empty()
        && host.len() <= 253
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path_and_query)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn text_is_normalised() {
        for (text, expected) in [
            ("https://Example.com", "https://example.com/"),
            ("https://example.com:443/a b", "https://example.com/a%20b"),
            ("http://example.com:80?x=1#top", "http://example.com/?x=1"),
            ("http://[::1]:5000/v2/", "http://[::1]:5000/v2/"),
            ("https://h/ä%20b", "https://h/%C3%A4%20b"),
        ] {
            assert_eq!(url(text).to_string(), expected);
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for text in [
            "",
            "example.com",
            "ftp://x/",
            "https://",
            "https://u:p@h/",
            "https://h:99999/",
            "https://h:/",
            "https://h:+1/",
            "https://[::1/",
            "https://a b/",
            "https://h/\n",
            "https://h\r\nx/",
            "https://[x]/",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
        assert!(
            !"https://user:hunter2@h/"
                .parse::<Url>()
                .unwrap_err()
                .to_string()
                .contains("hunter2")
        );
    }

    #[test]
    fn locations_resolve_against_the_address() {
        let base = url("https://h:8443/a/b/c?q=1");
        for (location, expected) in [
            ("d", "https://h:8443/a/b/d"),
            ("../d?x", "https://h:8443/a/d?x"),
            ("../../../d", "https://h:8443/d"),
            ("/d/./e/..", "https://h:8443/d/"),
            ("?z=2", "https://h:8443/a/b/c?z=2"),
            ("//other/x", "https://other/x"),
            ("http://other/x", "http://other/x"),
            ("x:y/z", "!"),
            ("", "https://h:8443/a/b/c?q=1"),
        ] {
            let joined = base
                .join(location)
                .map_or("!".to_owned(), |joined| joined.to_string());
            assert_eq!(joined, expected, "{location}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        for host in [
            "localhost",
            "127.0.0.1:5000",
            "127.8.8.8",
            "[::1]",
            "a.localhost",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(url(&format!("http://{host}/")).is_loopback(), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com",
            "128.0.0.1",
            "[::2]",
            "0.0.0.0",
        ] {
            assert!(!url(&format!("http://{host}/")).is_loopback(), "{host}");
        }
    }

    #[test]
    fn queries_are_escaped_and_hidden_from_messages() {
        let with = url("https://h/token?a=b")
            .with_query([("scope", "repository:a/b:pull"), ("s", "a&b=c d")]);
        assert_eq!(
            with.to_string(),
            "https://h/token?a=b&scope=repository:a/b:pull&s=a%26b%3Dc%20d"
        );
        assert_eq!(with.shown(), "https://h/token?…");
        assert_eq!(format!("{with:?}"), "https://h/token?…");
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_written_the_same(text in "(https?://)?[a-z0-9.:\\[\\]@%/?#&=\u{80}-\u{fff} -]{0,60}") {
            if let Ok(read) = text.parse::<Url>() {
                let written = read.to_string();
                assert_eq!(written.parse::<Url>().as_ref(), Ok(&read));
                assert!(written.is_ascii() && !written.contains(['#', ' ']), "{written}");
            }
        }

        #[test]
        fn a_location_never_leaves_http(location in "\\PC{0,60}") {
            let base = url("https://h:8443/a/b?c");
            if let Ok(joined) = base.join(&location) {
                assert_eq!(joined.to_string().parse::<Url>(), Ok(joined));
            }
        }
    }
}
