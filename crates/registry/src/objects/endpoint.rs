//! Where an object store is.

use std::str::FromStr;

use http::Uri;

/// The parts of a URL such as `https://s3.example.com:9000/base`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(super) is_tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// Host, and port if it is not the usual one: the value of the header `Host`.
    pub(super) authority: String,
    /// Begins with `/` and does not end with it; or nothing.
    pub(super) base: String,
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let uri: Uri = text.parse().map_err(|_invalid| "it is not a URL")?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("it begins with neither `https://` nor `http://`"),
        };
        if uri.query().is_some() {
            return Err("it has a query");
        }
        let authority = uri.authority().ok_or("it names no host")?;
        if authority.as_str().contains('@') {
            return Err("credentials belong in a file of their own");
        }
        let usual = if is_tls { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(usual);
        let host = authority.host();
        Ok(Self {
            is_tls,
            authority: if port == usual {
                host.to_owned()
            } else {
                format!("{host}:{port}")
            },
            // Addresses of version 6 stand in brackets there, and nowhere else.
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            base: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Endpoint {
    /// The URL again.
    pub(super) fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        let read = |text: &str| text.parse::<Endpoint>();
        let one = read("https://s3.example.com").unwrap();
        assert_eq!((one.port, one.base.as_str()), (443, ""));
        assert_eq!(one.authority, "s3.example.com");
        let two = read("http://[::1]:8333/base/").unwrap();
        assert_eq!((two.host.as_str(), two.port), ("::1", 8333));
        assert_eq!(
            (two.authority.as_str(), two.base.as_str()),
            ("[::1]:8333", "/base")
        );
        for wrong in [
            "s3.example.com",
            "ftp://x",
            "https://u:p@x",
            "http://x/?a",
            "/x",
            "",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
